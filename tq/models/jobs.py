"""One user's part of a run: as user code sees it, and as it travels."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import orjson
from pydantic import Field, InstanceOf

from tq.clock import from_ms, iso, to_ms
from tq.models.base import Model
from tq.models.ids import JobId, RunId, TaskId, UserId, job_id_of, message_id_of
from tq.models.permissions import Permission
from tq.models.runs import RunKind
from tq.models.tasks import TaskType

# The queue of jobs that may have killed the process that had them before.
SUSPECTS = "suspects"
_KINDS = {kind.value: kind for kind in RunKind}


class Job(Model):
    """What an executor is given: who, what, for when, and which attempt this is."""

    id: JobId
    task: InstanceOf[TaskType]  # not looked through once more for each job
    user_id: UserId
    run_id: RunId
    scheduled_at: datetime
    execute_after: datetime
    deadline_at: datetime
    trigger: RunKind = RunKind.SCHEDULE
    parameters: dict[str, Any] = Field(default_factory=dict)
    attempt: int = 1

    @property
    def task_id(self) -> TaskId:
        """The id of the task type."""
        return self.task.id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, so that the receiver can recognise a repetition."""
        return self.id

    def body(self) -> bytes:
        """The call's body: the same bytes at every attempt, whatever was edited in between."""
        return orjson.dumps(
            {
                "job_id": self.id,
                "task_id": self.task_id,
                "user_id": self.user_id,
                "run_id": self.run_id,
                "scheduled_at": iso(self.scheduled_at),
                "execute_after": iso(self.execute_after),
                "trigger": self.trigger,
                "parameters": self.parameters,
            }
        )


class Envelope:
    """A job on its way through a queue: only what cannot be looked up where it arrives.

    Its text shows the job id alone, because whoever logs a message logs its arguments.
    `spent` counts attempts that were spent, and `failed_at` is when the last of them ended: if that
    was in an outage, it can be given back. `attempt` is the number of the call to be made.
    `share` is the index of the run's share that holds the deadline; `parameters` stay JSON until
    the call is made. `cause` names the recorded span that sent the job, if there is one, and travels
    beside these fields.
    """

    __slots__ = (
        "_job_id",
        "_message_id",
        "attempt",
        "called_at",
        "cause",
        "definition",
        "execute_after",
        "failed_at",
        "holder",
        "is_recorded",
        "is_suspect",
        "kind",
        "parameters",
        "permission",
        "queue",
        "run_id",
        "scheduled_at",
        "share",
        "spent",
        "task_id",
        "took_s",
        "user_id",
        "waits_since",
    )

    def __init__(
        self,
        *,
        task_id: TaskId,
        user_id: UserId,
        run_id: RunId,
        kind: RunKind,
        definition: str,
        scheduled_at: datetime,
        execute_after: datetime,
        share: int,
        attempt: int = 1,
        spent: int = 0,
        failed_at: datetime | None = None,
        parameters: str = "",
        cause: str = "",
    ) -> None:
        self.task_id = task_id
        self.user_id = user_id
        self.run_id = run_id
        self.kind = kind
        self.definition = definition
        self.scheduled_at = scheduled_at
        self.execute_after = execute_after
        self.share = share
        self.attempt = attempt
        self.spent = spent
        self.failed_at = failed_at
        self.parameters = parameters
        self.cause = cause
        self._job_id: JobId | None = None
        self._message_id = ""
        # Known where the job is worked only: by which process, from which queue it was fetched, whether
        # it may have killed the process before, whether its end is being stored, what the ledger said if it
        # was asked ahead, since when (monotonic seconds) it waits for its slot, since when its work itself is
        # under way, and how long that took, without what its thread waited for others.
        self.holder = ""
        self.queue = ""
        self.is_suspect = False
        self.is_recorded = False
        self.permission: Permission | None = None
        self.waits_since = 0.0
        self.called_at: float | None = None
        self.took_s: float | None = None

    @property
    def job_id(self) -> JobId:
        """The id of the job, the same for every attempt."""
        if self._job_id is None:
            self._job_id = job_id_of(self.run_id, self.user_id)
        return self._job_id

    @property
    def message_id(self) -> str:
        """The id of the message that has this attempt made; a repetition has the same."""
        if not self._message_id:
            self._message_id = message_id_of(self.job_id, self.attempt)
        return self._message_id

    def to_wire(self) -> list[object]:
        """The fields in a fixed order, as they stand in a message."""
        return [
            self.task_id,
            self.user_id,
            self.run_id,
            self.kind.value,
            self.definition,
            to_ms(self.scheduled_at),
            to_ms(self.execute_after),
            self.share,
            self.attempt,
            self.spent,
            to_ms(self.failed_at) if self.failed_at else 0,
            self.parameters,
        ]

    @classmethod
    def from_wire(cls, fields: list[Any]) -> Self:
        """The envelope that `to_wire` wrote."""
        task, user, run, kind, definition, scheduled, after, share, attempt, spent, failed, parameters = (
            fields
        )
        return cls(
            task_id=task,
            user_id=user,
            run_id=run,
            kind=_KINDS[kind],
            definition=definition,
            scheduled_at=from_ms(scheduled),
            execute_after=from_ms(after),
            share=share,
            attempt=attempt,
            spent=spent,
            failed_at=from_ms(failed) if failed else None,
            parameters=parameters,
        )

    def next_attempt(self, *, spent: int, failed_at: datetime | None = None) -> "Envelope":
        """The same job, for the attempt after this one, with what is to be known then of spent attempts."""
        fields = self.to_wire()
        fields[-4:] = [self.attempt + 1, spent, to_ms(failed_at) if failed_at else 0, self.parameters]
        following = Envelope.from_wire(fields)
        following.cause = self.cause
        return following

    def open_for(self, task: TaskType, *, deadline_at: datetime) -> Job:
        """The job as its executor sees it."""
        return Job(
            id=self.job_id,
            task=task,
            user_id=self.user_id,
            run_id=self.run_id,
            scheduled_at=self.scheduled_at,
            execute_after=self.execute_after,
            deadline_at=deadline_at,
            trigger=self.kind,
            parameters=orjson.loads(self.parameters) if self.parameters else {},
            attempt=self.attempt,
        )

    def __repr__(self) -> str:
        return self.job_id


@dataclass(frozen=True)
class Batch:
    """Jobs of one run that differ in nothing but their user; `pattern` is the job of any of them."""

    pattern: Envelope
    user_ids: Sequence[UserId]
