"""What a round is to be like, and all that is known of it afterwards.

Instants are in seconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.book import Book
from tests.chaos.endpoint import Call
from tests.chaos.schedule import Fault
from tests.chaos.watch import Mend, Sample
from tests.chaos.workload import Workload
from tq.models import JobResult, Run, RunId, TaskId, UserId
from tq.store.totals import Total

SECONDS = 60.0  # so that every task falls due once while things break
SETTLE_S = 100.0  # whatever a lost tick delays comes with the next one, a minute later


@dataclass(frozen=True)
class Plan:
    """What breaks and what there is to do; `package` holds the system's code, if not our own."""

    seed: int
    faults: list[Fault]
    workload: Workload
    seconds: float = SECONDS
    settle_s: float = SETTLE_S
    package: Path | None = None


@dataclass
class Happened:
    """A fault as it came about."""

    fault: Fault
    begun: float
    ended: float | None = None


@dataclass
class Evidence:
    """All that is known of a round."""

    plan: Plan
    began: float = 0.0
    published: float = 0.0  # since when tasks fall due
    quiet: float = 0.0  # since when nothing has been broken any more
    settled: float = 0.0
    happened: list[Happened] = field(default_factory=list)
    book: Book = field(default_factory=Book)
    asked_for: set[RunId] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    stored: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # ends, by task and user
    samples: list[Sample] = field(default_factory=list)
    mends: list[Mend] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    totals: Mapping[Total, int] = field(default_factory=dict)  # what was counted for all time
    results: dict[tuple[TaskId, UserId], list[JobResult]] = field(default_factory=dict)
    open_jobs: dict[RunId, set[UserId]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
