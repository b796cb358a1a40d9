"""How many of a process' threads are to be at work, by how long jobs take.

Pure. One thread works quick jobs faster than many, which only wait for each other; of slow ones each needs
a thread of its own. Threads that are at work come by themselves for the next job, so only what they will not
come to in time is worth waking another.

How long a job takes is learnt where few are at work, for among many it may show how long they waited for each
other. Where it was learnt wrong, because some jobs are slow among quick ones, jobs are left over; then a thread is
woken for each of these, if hardly one at work is not stuck.
"""

import math

# So much of the difference a job that takes longer than the quickest counts for.
DRIFT = 0.05
FEW_THREADS = 2
# For the end of a call that takes longer no job waits while hardly a thread is at work.
SOON_S = 0.0001
# One of several threads rests if the others can do so many times what is ready.
MOST_SPARE = 2
# Jobs that are ready may be so many times as many as are taken in one round.
MOST_LEFT = 5
LEAST_S = 1e-6


class Staffing:
    """Not thread-safe. Jobs are made ready in rounds of about `round_s`."""

    def __init__(self, round_s: float) -> None:
        self._round_s = round_s
        self._busy = 0
        self._quickest_s = 0.0
        self._taken = 0
        self._judged_at = 0.0

    def begin(self) -> None:
        """A thread has taken something to do."""
        self._busy += 1
        self._taken += 1

    def end(self, took_s: float | None) -> None:
        """A thread is done with it; what was no call, and took None, says nothing of how long calls take."""
        if took_s is not None and (took_s < self._quickest_s or self._busy <= FEW_THREADS):
            self._quickest_s = min(took_s, self._quickest_s + (took_s - self._quickest_s) * DRIFT)
        self._busy -= 1

    def wanted(self, ready: int, *, left: int, stuck: int, now: float) -> int:
        """How many threads to wake for the jobs that are ready, of which so many were so before this round.

        `stuck` are the threads at work that have waited for some time for what they call. Where others are at
        work, too, what is left over is so for want of time on the CPU, of which no further thread would bring any.
        """
        wanted = math.ceil((ready - self._busy * self._per_thread) / max(self._per_thread, 1.0))
        if self._quickest_s > SOON_S:
            wanted = max(wanted, min(ready, FEW_THREADS - self._busy))
        if now - self._judged_at >= self._round_s:
            if self._busy - stuck < FEW_THREADS:
                wanted = max(wanted, left - MOST_LEFT * self._taken)
            self._judged_at, self._taken = now, 0
        return max(0, wanted)

    def is_enough(self, ready: int) -> bool:
        """Whether a thread that comes for its next job may rest, since the others can do all that is ready."""
        return self._busy >= FEW_THREADS and self._busy * self._per_thread > MOST_SPARE * ready

    @property
    def _per_thread(self) -> float:
        """How many jobs a thread does in a round, if they are quick."""
        return self._round_s / max(self._quickest_s, LEAST_S)
