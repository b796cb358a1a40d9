"""What a process sees of its work, until it is brought to Redis every few seconds.

What is counted here is an observation: a process that is killed takes the last seconds' with it. What
became of jobs is counted with the ledger, exactly (`totals` in tq/store/keys.py).

A series is of a task, or of none, and named `metric|…`. Its numbers are one count, or of a histogram the counts
per bucket, each for itself and the last without bound, followed by the sum of all values.
"""

import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping
from itertools import pairwise

# By task, and by series.
Tallies = dict[str, dict[str, list[float]]]

ATTEMPTS = "attempts"
DURATION = "attempt_duration"
LATENESS = "job_lateness"
DELAY = "job_delay"
WAIT = "ratelimit_wait"
TICK = "tick_duration"

_CALL = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # of those that OpenTelemetry advises for HTTP
_LATE = (0.1, 1, 5, 15, 60, 300, 900, 3600, 21600)
# Upper bounds of the buckets, in seconds. Each is a series for every task, so there are few.
BOUNDS: Mapping[str, tuple[float, ...]] = {
    DURATION: _CALL,
    LATENESS: _LATE,
    DELAY: _LATE,
    WAIT: (0.001, 0.01, 0.1, 1, 10),
    TICK: _CALL,
}
# Beyond this many what was seen is added up at once: a process that is not asked for it stays small.
MOST_KEPT = 50_000


class Observations:
    """What was seen and not yet taken away. Any thread may tell; telling costs next to nothing."""

    def __init__(self) -> None:
        # To append is atomic; adding up, which is not, is done by who takes away.
        self._seen: deque[tuple[str, str, float | None]] = deque()
        self._tallies: Tallies = {}
        self._adding = threading.Lock()

    def count(self, series: str, task: str) -> None:
        """One more of a task's."""
        self._seen.append((task, series, None))
        if len(self._seen) >= MOST_KEPT:
            self._make_room()

    def time(self, metric: str, task: str, seconds: float) -> None:
        """Something of a task has taken so long; less than nothing, as clocks may have it, is nothing."""
        self._seen.append((task, metric, seconds if seconds > 0 else 0.0))
        if len(self._seen) >= MOST_KEPT:
            self._make_room()

    def take(self) -> Tallies:
        """Takes away what there is."""
        with self._adding:
            self._add_up()
            taken, self._tallies = self._tallies, {}
            return taken

    def give_back(self, tallies: Tallies) -> None:
        """Those could not be brought away."""
        with self._adding:
            for task, of_task in tallies.items():
                there = self._tallies.setdefault(task, {})
                for series, numbers in of_task.items():
                    zero = [0.0] * len(numbers)
                    there[series] = [a + b for a, b in zip(there.get(series, zero), numbers, strict=True)]

    def _make_room(self) -> None:
        if self._adding.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._adding.release()

    def _add_up(self) -> None:
        by_series: defaultdict[tuple[str, str], list[float | None]] = defaultdict(list)
        # As many as there are now: others go on telling.
        for _ in range(len(self._seen)):
            task, series, seconds = self._seen.popleft()
            by_series[task, series].append(seconds)
        for (task, series), seen in by_series.items():
            of_task = self._tallies.setdefault(task, {})
            if seen[0] is None:
                of_task.setdefault(series, [0])[0] += len(seen)
                continue
            bounds = BOUNDS[series]
            numbers = of_task.setdefault(series, [0] * (len(bounds) + 2))
            times = [seconds for seconds in seen if seconds is not None]
            numbers[-1] += sum(times)
            times.sort()
            ends = [*(bisect_right(times, bound) for bound in bounds), len(times)]
            for bucket, (begin, end) in enumerate(pairwise([0, *ends])):
                numbers[bucket] += end - begin
