"""What limits a task's calls, and what an answer says about how the endpoint copes.

Pure. The rate below a ceiling is found by `store/lua/rate_rule.lua`; here stands what it is told.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from tq.models import ExecutionResult, Outcome, RateBand, Strategy, TaskType
from tq.outcomes import ErrorCode
from tq.settings import Settings

# The scope of all tasks together; no task can be called so.
EVERY_TASK = "*"
# An endpoint that is in trouble for hours is still asked this often, per second and as a share of the ceiling.
LEAST_RATE = 0.2
LEAST_SHARE = 0.01
# Halfway up is found out in seconds, and a wrong ceiling does half the harm.
START_SHARE = 0.5
# What the original made of one number: half of it in trouble, twice as much when all is well.
STEPS = (0.5, 2.0)
# From a call's end to its report there is a turn of the thread and one exchange.
GRACE_S = 5.0
NOT_REACHED = frozenset({ErrorCode.TIMEOUT, ErrorCode.HTTP_ERROR})


@dataclass(frozen=True, slots=True)
class Limit:
    """What holds for a scope: rates in calls per second, and calls at a time (0 for any number).

    `adaptive` moves between floor and ceiling and begins at `base`; `stepped` knows these three only.
    A task's rates are its `own`, or else those of all tasks together, whatever they are at the time.
    `patience` is after how many seconds a call that was not heard of counts as ended.
    """

    strategy: Strategy
    floor: float
    base: float
    ceiling: float
    concurrency: int = 0
    patience: float = 10.0
    own: bool = True


class Signal(StrEnum):
    """What one answer says about the endpoint."""

    OK = "ok"  # it copes
    ERROR = "error"  # it failed this call, which need not be for want of capacity
    OVERLOAD = "overload"  # it cannot take so much, or cannot be reached


class Kind(StrEnum):
    """How a call came out, for error rates."""

    OK = "ok"
    REJECTED = "rejected"  # the endpoint did not want it: 4xx
    ERROR = "error"  # the endpoint failed: 500, or an exception in an executor
    OVERLOAD = "overload"  # it could not be reached in time, or says that it is busy
    THROTTLED = "throttled"  # 429


# In the order in which `lua/error_rates.lua` keeps them.
KINDS = tuple(Kind)


def limit_everything(settings: Settings) -> Limit:
    """What holds for all tasks together."""
    return _limit(settings.rate_limit, settings.rate_strategy)


def limit_of(task: TaskType, settings: Settings) -> Limit:
    """What holds for a task; one without a rate of its own may use all that there is."""
    rate = settings.rate_limit if task.rate_limit is None else task.rate_limit
    # A worker killed in mid-call must not free its place while the endpoint may still be working on it.
    patience = task.timeout.total_seconds() + GRACE_S
    limit = _limit(rate, settings.rate_strategy)
    own = task.rate_limit is not None
    return replace(limit, concurrency=task.concurrency or 0, patience=patience, own=own)


def _limit(rate: float | RateBand, strategy: Strategy) -> Limit:
    if isinstance(rate, RateBand):
        return Limit(Strategy.STEPPED, rate.min, rate.base, rate.max)
    if strategy is Strategy.STEPPED:
        low, high = STEPS
        return Limit(strategy, rate * low, rate, rate * high)
    floor = min(rate, max(rate * LEAST_SHARE, LEAST_RATE))
    return Limit(strategy, floor, max(floor, rate * START_SHARE), rate)


def kind_of(result: ExecutionResult) -> Kind | None:
    """How a call came out; None if none was made."""
    match result.outcome:
        case Outcome.SUCCESS:
            return Kind.OK
        case Outcome.THROTTLED:
            return Kind.THROTTLED
        case Outcome.GONE | Outcome.FAILED | Outcome.DENIED:
            return Kind.REJECTED
        case Outcome.BUSY | Outcome.RETRY | Outcome.UNAVAILABLE:
            signal = signal_of(result)
            return None if signal is None else Kind(signal.value)
        case _:
            assert_never(result.outcome)


def signal_of(result: ExecutionResult) -> Signal | None:
    """What a call's result says about the endpoint; None if no call was made."""
    match result.outcome:
        case Outcome.SUCCESS | Outcome.GONE | Outcome.FAILED | Outcome.DENIED:
            return Signal.OK
        case Outcome.BUSY | Outcome.THROTTLED:
            return Signal.OVERLOAD
        case Outcome.RETRY:
            code = result.error.code if result.error else ""
            return Signal.OVERLOAD if code in NOT_REACHED else Signal.ERROR
        case Outcome.UNAVAILABLE:
            return None
        case _:
            assert_never(result.outcome)


def hold_of(result: ExecutionResult, *, most: timedelta) -> float | None:
    """For how many seconds the endpoint wants no call; 0 for a while that it does not name, None if it asks for none."""
    asked = result.retry_after
    if result.outcome is Outcome.THROTTLED and asked is None:
        return 0.0
    if result.outcome not in (Outcome.THROTTLED, Outcome.BUSY) or asked is None:
        return None
    return min(asked, most).total_seconds()
