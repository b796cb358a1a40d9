"""A task type being carried out for one nominal instant."""

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from tq.models.base import Model
from tq.models.ids import RunId, TaskId

# The cohort of a run that somebody asks for: one order for all, so that nobody who moves is met twice.
EVERYBODY = "*|*"
# Of a run that is asked for by name: nobody but those who are listed with it.
NAMED = "@named"


class RunKind(StrEnum):
    """Why a run exists."""

    SCHEDULE = "schedule"
    MANUAL = "manual"
    BACKFILL = "backfill"
    RETRY = "retry"


class RunStatus(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Wait(StrEnum):
    """What a run's distribution waits for when it has sent less than has come due."""

    ROOM = "room"  # what it has sent is not worked off yet
    RETRIES = "retries"  # too many of its jobs wait for their retry


class RunCounts(Model):
    """The ledger of a run. `expected` is the sum of all final states once the run has ended.

    `waiting` are those of the open jobs that wait for their retry; `retries` were there in all.
    """

    expected: int = 0
    success: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    skipped: int = 0
    open: int = 0
    waiting: int = 0
    retries: int = 0
    skipped_by_reason: dict[str, int] = Field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Jobs in a final state."""
        return self.success + self.failed + self.expired + self.cancelled + self.skipped

    @property
    def unaccounted(self) -> int:
        """Jobs that are neither open nor ended: always 0, or an alert."""
        return self.expected - self.ended - self.open


class Share(Model):
    """The part of a run that one cohort is.

    It goes through the cohort's places from `first` on and round to the one before; `cursor` is the position
    in that order up to which it has been fanned out. If it was cut, `unreached` is the position from which on
    it did not reach everybody before its deadline.
    """

    cohort: str
    start_at: datetime
    spread: timedelta
    deadline_at: datetime
    first: int = 0
    cursor: int = -1
    unreached: int | None = None
    done: bool = False
    open: int = 0


class Run(Model):
    """A run, with its ledger and the shares it is made of."""

    id: RunId
    task_id: TaskId
    kind: RunKind
    status: RunStatus
    reason: str | None = None
    nominal_at: datetime
    claimed_at: datetime
    deadline_at: datetime
    ended_at: datetime | None = None
    cancelled_at: datetime | None = None
    definition: str = ""
    waits_for: Wait | None = None
    counts: RunCounts = RunCounts()
    shares: tuple[Share, ...] = ()

    @property
    def fanned_out(self) -> bool:
        """Whether every share has been passed to its end."""
        return all(share.done for share in self.shares)
