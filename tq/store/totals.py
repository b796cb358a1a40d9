"""What is counted for all time: with the ledger what became of jobs, and what processes have seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tq.models import RunKind, TaskId
from tq.store.connection import Argument, Connection


@dataclass(frozen=True, slots=True)
class Total:
    """What the ledgers of all runs of a task and kind have counted: a status, `expected`, `retries` or `runs`.

    Those of a status with a reason are counted twice: with it, and without.
    """

    task: TaskId
    kind: RunKind
    what: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class OfTask:
    """What there is of a task now: failed jobs that are kept, open jobs; and occurrences that were missed."""

    failures: int = 0
    open: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """All of it: what stands in the ledgers at one instant, and what processes have seen, by `metric|task|…`.

    `mended` says what was found lost, and how often.
    """

    totals: tuple[Total, ...]
    observed: Mapping[str, Sequence[float]]
    mended: Mapping[str, int]
    tasks: Mapping[TaskId, OfTask]


class Totals:
    """Adds what processes have seen, and reads everything."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def add(self, observed: Mapping[str, str]) -> None:
        """Adds what a process has seen, the numbers of each series as `observations.to_wire` writes them.

        Raises:
            StoreError: if Redis did not answer; whether it was added is not known then.
        """
        arguments: list[Argument] = [text for series in observed.items() for text in series]
        self._redis.script("observe", *arguments)

    def read(self, tasks: Iterable[TaskId]) -> Counted:
        """What has been counted in all, and what there is of these tasks."""
        asked = list(tasks)
        totals, mended, found, open_jobs = self._redis.script("counted", *asked)
        # By itself: with hundreds of tasks it takes Redis as long as all the rest.
        observed = self._redis.call("HGETALL", self._redis.keys("observed"))
        open_of: dict[TaskId, int] = {}
        for task, jobs in open_jobs:
            open_of[task] = open_of.get(task, 0) + int(jobs)
        of_task = {
            task: OfTask(int(failures), open_of.pop(task, 0), int(missed))
            for task, (failures, missed) in zip(asked, found, strict=True)
        }
        of_task |= {task: OfTask(open=jobs) for task, jobs in open_of.items()}
        return Counted(
            totals=tuple(
                _total(field, int(count)) for field, count in zip(totals[::2], totals[1::2], strict=True)
            ),
            observed={
                series: [float(number) for number in numbers.split()] for series, numbers in observed.items()
            },
            mended={what: int(times) for what, times in zip(mended[::2], mended[1::2], strict=True)},
            tasks=of_task,
        )


def _total(field: str, count: int) -> Total:
    task, kind, counted = field.split("|")
    what, _, reason = counted.partition(":")
    return Total(TaskId(task), RunKind(kind), what, reason, count)
