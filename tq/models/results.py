"""What became of a call, and of a job."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from tq.models.base import Model
from tq.models.ids import JobId, RunId, TaskId, UserId


class JobStatus(StrEnum):
    """The one visible state in which every expected job ends."""

    SUCCESS = "success"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Outcome(StrEnum):
    """What one attempt says about the next."""

    SUCCESS = "success"
    RETRY = "retry"  # try again with backoff
    BUSY = "busy"  # try again with backoff; the whole endpoint is in trouble
    THROTTLED = "throttled"  # try again later; the attempt is not spent
    DENIED = "denied"  # try again at most twice: a deploy or a rotated key may be under way
    GONE = "gone"  # never again: the user's task is disabled
    FAILED = "failed"  # trying again cannot help
    UNAVAILABLE = "unavailable"  # this process could not even try; the attempt is not spent


class ErrorDetail(Model):
    """Why an attempt failed: a stable code, a sentence without secrets, and whether it is tried again."""

    code: str
    message: str = ""
    retry: bool = False


class ExecutionResult(Model):
    """What an executor says of one attempt.

    `time_to_first_byte` is how long whoever was called took to begin its answer, if that is known: unlike the
    duration it has nothing of what the thread that called waited for others of its own process.
    """

    outcome: Outcome
    error: ErrorDetail | None = None
    http_status: int | None = None
    retry_after: timedelta | None = None
    body: str | None = None
    duration: timedelta = timedelta(0)
    time_to_first_byte: timedelta | None = None

    @classmethod
    def success(cls, *, body: str | None = None) -> Self:
        """The job is done."""
        return cls(outcome=Outcome.SUCCESS, body=body)

    @classmethod
    def retry(cls, code: str, message: str = "", *, after: timedelta | None = None) -> Self:
        """It did not work this time; try again, if attempts are left."""
        return cls(
            outcome=Outcome.RETRY,
            error=ErrorDetail(code=code, message=message, retry=True),
            retry_after=after,
        )

    @classmethod
    def failed(cls, code: str, message: str = "") -> Self:
        """It did not work and never will."""
        return cls(outcome=Outcome.FAILED, error=ErrorDetail(code=code, message=message))


class JobResult(Model):
    """What became of a job: its status, how it came about, and, if it failed, everything known."""

    job_id: JobId
    run_id: RunId
    task_id: TaskId
    user_id: UserId
    status: JobStatus
    reason: str | None = None
    scheduled_at: datetime
    started_at: datetime | None = None
    ended_at: datetime
    duration: timedelta = timedelta(0)
    attempts: int = 0
    http_status: int | None = None
    error: ErrorDetail | None = None
    body: str | None = None
