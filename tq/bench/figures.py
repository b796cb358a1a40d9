"""What is measured: how much of the possible was done, at what cost to the endpoint and to Redis."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tq.bench.scenarios import Scenario, Trouble
from tq.bench.world import Trace

# Back-off: three seconds in a row on average at most a quarter above what is left, or this many a second.
BACKED_OFF, BACKED_OFF_OVER_S, FEW = 1.25, 3, 5.0
# Recovery: five seconds in a row on average at nine tenths of the successes that there were before.
RECOVERED, RECOVERED_OVER_S, BEFORE_S = 0.9, 5, 45
DIGITS = 4
TINY_S = 1e-9  # what adding up a second's worth of floats may be off


@dataclass(frozen=True, slots=True)
class Figures:
    """What a limiter did in a scenario; None where a figure has no meaning in it."""

    goodput: float  # successes, of those that the oracle has
    waste: float  # failed calls for each success
    redis_per_request: float  # commands for each call
    backoff_s: int | None  # from the drop of capacity until calls fit it; never: as long as it was down
    recovery_s: int | None  # from its return until successes are back; never: as long as was left
    peak_1s: int  # the most calls within any second, wherever it begins
    small_task_p99_wait_s: float | None  # of the small tasks' jobs, until their call began


def figures_of(trace: Trace, scenario: Scenario, *, oracle: float) -> Figures:
    """What a trace amounts to."""
    trouble = scenario.trouble
    small = bool(scenario.endless) and scenario.arrive is not None
    return Figures(
        goodput=round(len(trace.succeeded) / oracle, DIGITS),
        waste=round(trace.failed / max(1, len(trace.succeeded)), DIGITS),
        redis_per_request=round(trace.redis_commands / max(1, len(trace.sent)), DIGITS),
        backoff_s=_backoff(trace.sent, trouble) if trouble else None,
        recovery_s=_recovery(trace.succeeded, trouble, scenario.seconds) if trouble else None,
        peak_1s=peak(trace.sent),
        small_task_p99_wait_s=round(_p99(trace.waits), DIGITS) if small and trace.waits else None,
    )


def over_seeds(figures: Sequence[Figures]) -> Figures:
    """One for all seeds: means, but the worst of back-off, recovery and peak, which are promises."""
    return Figures(
        goodput=_mean([each.goodput for each in figures]),
        waste=_mean([each.waste for each in figures]),
        redis_per_request=_mean([each.redis_per_request for each in figures]),
        backoff_s=max((each.backoff_s for each in figures if each.backoff_s is not None), default=None),
        recovery_s=max((each.recovery_s for each in figures if each.recovery_s is not None), default=None),
        peak_1s=max(each.peak_1s for each in figures),
        small_task_p99_wait_s=_mean_of_some([each.small_task_p99_wait_s for each in figures]),
    )


def peak(times: Sequence[float], *, seconds: float = 1.0) -> int:
    """The most of them within any stretch of so many seconds, its end not included; they must be in order."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds + TINY_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def _backoff(sent: Sequence[float], trouble: Trouble) -> int:
    bearable = max(BACKED_OFF * trouble.capacity, FEW)
    for second in range(trouble.since, trouble.until):
        if _per_second(sent, second, BACKED_OFF_OVER_S) <= bearable:
            return second + 1 - trouble.since
    return trouble.until - trouble.since


def _recovery(succeeded: Sequence[float], trouble: Trouble, end: int) -> int:
    before_s = min(BEFORE_S, trouble.since)
    before = _per_second(succeeded, trouble.since - before_s, before_s)
    for second in range(trouble.until, end - RECOVERED_OVER_S):
        if _per_second(succeeded, second, RECOVERED_OVER_S) >= RECOVERED * before:
            return second + 1 - trouble.until
    return end - trouble.until


def _per_second(times: Sequence[float], since: int, seconds: int) -> float:
    return (bisect_left(times, since + seconds) - bisect_left(times, since)) / seconds


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), DIGITS)


def _mean_of_some(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return _mean(there) if there else None
