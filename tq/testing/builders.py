"""Values for tests: each builder takes only what the case is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tq.models import (
    Envelope,
    Interval,
    Job,
    RunId,
    RunKind,
    TaskId,
    TaskType,
    UserId,
    scheduled_run_id,
)

NINE = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


def make_task(task_id: str = "email_digest", **fields: Any) -> TaskType:
    """A task type: daily at nine UTC, over HTTP, unless the fields say otherwise."""
    return TaskType.model_validate(
        {
            "id": task_id,
            "interval": Interval.daily(at="09:00"),
            "config": {"endpoint": "https://api.example.com/digest"},
            **fields,
        }
    )


def make_envelope(
    user_id: str = "ada",
    *,
    task_id: str = "email_digest",
    run_id: str | None = None,
    scheduled_at: datetime = NINE,
    **fields: Any,
) -> Envelope:
    """A job on its way, first attempt."""
    values: dict[str, Any] = {
        "kind": RunKind.SCHEDULE,
        "definition": "0" * 16,
        "execute_after": scheduled_at,
        "share": 0,
        **fields,
    }
    run = RunId(run_id) if run_id else scheduled_run_id(TaskId(task_id), scheduled_at)
    return Envelope(
        task_id=TaskId(task_id), user_id=UserId(user_id), run_id=run, scheduled_at=scheduled_at, **values
    )


def make_job(user_id: str = "ada", *, task: TaskType | None = None, **fields: Any) -> Job:
    """A job as its executor sees it, with an hour to its deadline."""
    task = task or make_task()
    parameters = fields.pop("parameters", {})
    job = make_envelope(user_id, task_id=task.id, **fields).open_for(
        task, deadline_at=NINE + timedelta(hours=1)
    )
    return job.model_copy(update={"parameters": parameters})
