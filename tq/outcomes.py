"""What an attempt's result means for its job: whether it ends here, or is tried again and when.

Pure: no clock, no Redis, no randomness of its own; `decide` is handed all three.

An attempt is *spent* when the endpoint failed it (RETRY, BUSY, DENIED). Being throttled, or not
having been able to try at all, spends nothing, so that only the deadline ends such a job.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import assert_never

from tq.models import ErrorDetail, ExecutionResult, JobStatus, Outcome, TaskType

MAX_BACKOFF = timedelta(minutes=10)  # an endpoint that has recovered should not wait longer for its jobs
# An answer of 429 costs no attempt, so nothing else would stop a job from asking again at once.
MIN_THROTTLED_DELAY = timedelta(seconds=1)
# Long enough for a deploy to bring the variable or module to this process, or another to take the job.
UNAVAILABLE_DELAY = timedelta(seconds=10)
MAX_DENIED = 3  # a deploy or a rotated key heals within a few tries, or not by trying
WORTH_AN_ATTEMPT = timedelta(seconds=1)  # with less time left, the deadline passes on the way to a worker
# An answer may ask for any wait; what is longer than a year is held to a year, far from any overflow.
LONGEST_RETRY_AFTER = timedelta(days=365)
_MAX_DOUBLINGS = 64  # the shortest delay, 1 ms, is at MAX_BACKOFF long before
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class ErrorCode(StrEnum):
    """The stable codes of errors that have no HTTP status."""

    TIMEOUT = "TIMEOUT"
    HTTP_ERROR = "HTTP_ERROR"  # connection, DNS, TLS
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    UNKNOWN_TASK = "UNKNOWN_TASK"
    BLOCKED_ADDRESS = "BLOCKED_ADDRESS"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    EXPIRED = "EXPIRED"
    CRASHED = "CRASHED"


_BY_STATUS = {
    401: Outcome.DENIED,
    403: Outcome.DENIED,
    404: Outcome.DENIED,
    408: Outcome.RETRY,
    409: Outcome.RETRY,
    410: Outcome.GONE,
    425: Outcome.RETRY,
    429: Outcome.THROTTLED,
    501: Outcome.FAILED,
    502: Outcome.BUSY,
    503: Outcome.BUSY,
    504: Outcome.BUSY,
    505: Outcome.FAILED,
}


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended in this state; the error says why, unless it is a success."""

    status: JobStatus
    error: ErrorDetail | None = None


_DONE = Ended(JobStatus.SUCCESS)


@dataclass(frozen=True, slots=True)
class Again:
    """The job is tried again after `delay`; `spent` attempts are spent by then."""

    delay: timedelta
    spent: int
    error: ErrorDetail


_CLASS_OF_CODE: dict[str, str] = {
    ErrorCode.TIMEOUT: "timeout",
    ErrorCode.HTTP_ERROR: "connection",
    ErrorCode.BLOCKED_ADDRESS: "blocked",
}
_CLASSES = {status: "429" if status == 429 else f"{status // 100}xx" for status in range(100, 600)}


def class_of(result: ExecutionResult) -> str:
    """The class of an attempt's answer, of few: that of its status, or why there was none; `executor` for any other work."""
    if result.http_status is not None:
        return _CLASSES.get(result.http_status, "other")
    return _CLASS_OF_CODE.get(result.error.code, "executor") if result.error else "executor"


def outcome_of(http_status: int) -> Outcome:
    """What an HTTP status says about trying again."""
    if 200 <= http_status < 300:
        return Outcome.SUCCESS
    unlisted = Outcome.RETRY if 500 <= http_status < 600 else Outcome.FAILED
    return _BY_STATUS.get(http_status, unlisted)


def code_of(http_status: int) -> str:
    """The stable code of an HTTP status: `HTTP_503`."""
    return f"HTTP_{http_status}"


def decide(
    result: ExecutionResult,
    *,
    attempt: int,
    spent: int,
    spends: bool = True,
    task: TaskType,
    now: datetime,
    deadline_at: datetime,
    jitter: Callable[[], float],
) -> Ended | Again:
    """Whether the job has ended, or when it is tried again; never later than its deadline.

    `attempt` is the number of the call just made, from 1; `spent` counts the attempts spent before
    it, and `spends` is off for a call that asks on behalf of all whether an outage is over: no job
    pays for that. `jitter` gives evenly spread numbers from 0 up to, but not including, 1.
    """
    allowed = task.retries + 1
    match result.outcome:
        case Outcome.SUCCESS:
            return _DONE
        case Outcome.FAILED | Outcome.GONE:
            return Ended(JobStatus.FAILED, _error(result, retry=False))
        case Outcome.RETRY | Outcome.BUSY:
            spent_now = spent + 1
            backoff = _backoff(task, doublings=spent)
        case Outcome.DENIED:
            spent_now = spent + 1
            allowed = min(MAX_DENIED, allowed)
            backoff = _backoff(task, doublings=spent)
        case Outcome.THROTTLED:
            spent_now = spent
            backoff = _backoff(task, doublings=attempt - 1)
        case Outcome.UNAVAILABLE:
            spent_now = spent
            backoff = UNAVAILABLE_DELAY
        case _:
            assert_never(result.outcome)

    if not spends:
        spent_now = spent
    if spent_now > spent and spent_now >= allowed:
        return Ended(JobStatus.FAILED, _error(result, retry=False))
    left = deadline_at - now
    asked = None if result.retry_after is None else min(result.retry_after, task.retry_after_max)
    if left < WORTH_AN_ATTEMPT or (asked is not None and asked > left):
        return Ended(JobStatus.EXPIRED, _expired(result))

    if asked is not None:
        # Whoever was told the same must not come back in the same instant.
        delay = asked + max(asked * 0.1, timedelta(seconds=1)) * jitter()
    elif result.outcome is Outcome.UNAVAILABLE:
        delay = backoff * (0.5 + jitter())
    else:
        # The range ends at the deadline, not the delay: else all who are cut would come at that instant.
        delay = min(backoff, left) * jitter()
    if result.outcome is Outcome.THROTTLED:
        delay = max(delay, MIN_THROTTLED_DELAY)
    return Again(min(delay, left), spent_now, _error(result, retry=True))


def parse_retry_after(value: str, *, now: datetime) -> timedelta | None:
    """The wait that a `Retry-After` header asks for, at most a year; None if it cannot be read.

    Both forms of RFC 9110 are read, seconds (with decimals, too) and a date; a past date is no wait.
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        # Digits without end become infinity here, and are held like any other excess.
        return timedelta(seconds=min(float(text), LONGEST_RETRY_AFTER.total_seconds()))
    try:
        date = parsedate_to_datetime(text)
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)


def _backoff(task: TaskType, *, doublings: int) -> timedelta:
    # A task may ask for a longer first delay than the cap; then that is its cap.
    cap = max(MAX_BACKOFF, task.retry_delay).total_seconds()
    seconds = task.retry_delay.total_seconds() * 2.0 ** min(doublings, _MAX_DOUBLINGS)
    return timedelta(seconds=min(seconds, cap))


def _error(result: ExecutionResult, *, retry: bool) -> ErrorDetail:
    error = result.error
    if error is None and result.http_status is not None:
        error = ErrorDetail(code=code_of(result.http_status))
    if error is None:
        error = ErrorDetail(
            code=ErrorCode.EXECUTOR_ERROR, message=f"the executor said {result.outcome} and gave no reason"
        )
    return error.model_copy(update={"retry": retry})


def _expired(result: ExecutionResult) -> ErrorDetail:
    last = _error(result, retry=False)
    told = f"{last.code}: {last.message}" if last.message else last.code
    return ErrorDetail(
        code=ErrorCode.EXPIRED,
        message=f"no time was left before the deadline for another attempt; the last one ended with {told}",
    )
