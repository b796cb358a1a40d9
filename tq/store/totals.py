"""What is counted for all time: with the ledger what became of jobs, and what processes have seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import orjson

from tq.models import TaskId
from tq.store.connection import Argument, Connection


class Total(NamedTuple):
    """What the ledgers of all runs of a task and kind count together: a status, `expected`, `retries` or `runs`.

    Those of a status with a reason are counted twice: with it, and without.
    """

    task: TaskId
    kind: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class OfTask:
    """What there is of a task now: failed jobs that are kept, open jobs; and occurrences that were missed."""

    failures: int = 0
    open: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """All of it: what the ledgers have come to at one instant, and what processes have seen, by task and `metric|…`.

    `mended` says what was found lost, and how often.
    """

    totals: Mapping[Total, int]
    seen: Mapping[str, Mapping[str, Sequence[float]]]
    mended: Mapping[str, int]
    tasks: Mapping[TaskId, OfTask]


class Totals:
    """Adds what processes have seen, and reads everything."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def add(self, seen: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Adds what a process has seen, by task and `metric|…`.

        Raises:
            StoreError: if Redis did not answer; whether it was added is not known then.
        """
        arguments: list[Argument] = []
        for task, of_task in seen.items():
            arguments += (task, orjson.dumps(of_task))
        self._redis.script("observe", *arguments)

    def read(self, tasks: Iterable[TaskId]) -> Counted:
        """What has been counted in all, and what there is of these tasks."""
        asked = list(tasks)
        mended, found, open_jobs = self._redis.script("counted", *asked)
        # By themselves: with hundreds of tasks these are long, and a script would take several times as long for them.
        totals = self._redis.call("HGETALL", self._redis.keys("totals"))
        seen = self._redis.call("HGETALL", self._redis.keys("seen"))
        open_of: dict[TaskId, int] = {}
        for task, jobs in open_jobs:
            open_of[task] = open_of.get(task, 0) + int(jobs)
        of_task = {
            task: OfTask(int(failures), open_of.pop(task, 0), int(missed))
            for task, (failures, missed) in zip(asked, found, strict=True)
        }
        of_task |= {task: OfTask(open=jobs) for task, jobs in open_of.items()}
        return Counted(
            totals={_total(field): int(count) for field, count in totals.items()},
            seen={task: orjson.loads(of_task) for task, of_task in seen.items()},
            mended={what: int(times) for what, times in zip(mended[::2], mended[1::2], strict=True)},
            tasks=of_task,
        )


@lru_cache(maxsize=32_768)  # the same ones with every scrape
def _total(field: str) -> Total:
    task, kind, counted = field.split("|")
    what, _, reason = counted.partition(":")
    return Total(TaskId(task), kind, what, reason)
