"""What became of jobs: the last few per user and task, and every failure in full."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import orjson

from tq.clock import duration_ms, from_ms, to_ms
from tq.models import ErrorDetail, JobResult, JobStatus, RunId, TaskId, UserId, job_id_of
from tq.store.connection import Connection


def pack_result(
    run_id: RunId,
    status: JobStatus,
    why: str | None,
    *,
    instants: tuple[datetime, datetime | None, datetime],
    duration: timedelta,
    attempts: int,
    http_status: int | None,
) -> str:
    """A result as it is kept: what its key does not say, in a fixed order.

    `why` is the code of its error, or else its reason; the instants are when it was due, began and ended.
    """
    scheduled_at, started_at, ended_at = instants
    return orjson.dumps(
        [
            run_id,
            status,
            why or "",
            to_ms(scheduled_at),
            to_ms(started_at) if started_at else 0,
            to_ms(ended_at),
            duration_ms(duration),
            attempts,
            http_status or 0,
        ]
    ).decode()


def unpack_result(task_id: TaskId, user_id: UserId, text: str) -> JobResult:
    """The result that `pack_result` wrote; an error's message stands with the failure in full."""
    run, status, why, scheduled, started, ended, duration, attempts, http = orjson.loads(text)
    failed = status == JobStatus.FAILED
    return JobResult(
        job_id=job_id_of(RunId(run), user_id),
        run_id=run,
        task_id=task_id,
        user_id=user_id,
        status=status,
        reason=None if failed else why or None,
        scheduled_at=from_ms(scheduled),
        started_at=from_ms(started) if started else None,
        ended_at=from_ms(ended),
        duration=timedelta(milliseconds=duration),
        attempts=attempts,
        http_status=http or None,
        error=ErrorDetail(code=why) if failed and why else None,
    )


class Results:
    """Reads what became of jobs."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def of(self, task_id: TaskId, user_id: UserId) -> list[JobResult]:
        """A user's last results of a task, newest first; failures with everything known."""
        found = self._redis.call("LRANGE", self._keys("results", task_id, user_id), 0, -1)
        results = [unpack_result(task_id, user_id, text) for text in found]
        return [self._in_full(result) if result.status is JobStatus.FAILED else result for result in results]

    def _in_full(self, result: JobResult) -> JobResult:
        member = f"{result.run_id}|{result.user_id}"
        text = self._redis.call("HGET", self._keys("failure", result.task_id), member)
        return result if text is None else JobResult.from_json(text)

    def failures(self, task_id: TaskId, *, limit: int = 100) -> Iterator[JobResult]:
        """The latest failures of a task, newest first."""
        index, bodies = self._keys("failures", task_id), self._keys("failure", task_id)
        members = self._redis.call("ZREVRANGE", index, 0, limit - 1)
        texts = self._redis.call("HMGET", bodies, *members) if members else []
        return (JobResult.from_json(text) for text in texts if text is not None)
