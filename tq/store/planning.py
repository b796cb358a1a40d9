"""What is due, which definitions are in force, and who claimed what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tq.clock import duration_ms, from_ms, to_ms
from tq.models import Overlap, RunId, RunKind, TaskId, TaskType, UserId
from tq.slots import place_of
from tq.store.connection import Argument, Connection
from tq.store.preferences import Cohort
from tq.store.transport import QueuedMessage

# A tick looks at so many due entries at a time: 40 kB, and a millisecond of Redis' time.
DUE_BATCH = 1000


@dataclass(frozen=True)
class Due:
    """A cohort whose occurrences from `since` on nobody has claimed."""

    task_id: TaskId
    cohort: Cohort
    since: datetime
    seen: str

    def moved_to(self, instant: datetime) -> "Due":
        """The entry after a claim that left it at another instant."""
        return Due(self.task_id, self.cohort, instant, str(to_ms(instant)))


@dataclass(frozen=True)
class Look:
    """What a tick sees."""

    now: datetime
    version: int
    fingerprint: str
    due: tuple[Due, ...]


@dataclass(frozen=True)
class ShareClaim:
    """A cohort's part of a run that is to be claimed; `skip` says why nobody in it is served."""

    cohort: str
    start_at: datetime
    spread: timedelta
    deadline_at: datetime
    due: Due | None = None
    next_look: datetime | None = None
    skip: str = ""


class Planning:
    """The due index, the published definitions, and claims."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def look(self, *, limit: int = DUE_BATCH) -> Look:
        """What is due now, and which definitions are in force; shows that the scheduler lives."""
        now, version, fingerprint, *entries = self._redis.script("tick", limit)
        due = []
        for member, seen in zip(*[iter(entries)] * 2, strict=True):
            task, _, cohort = member.partition("|")
            due.append(Due(TaskId(task), Cohort.parse(cohort), from_ms(int(float(seen))), seen))
        return Look(from_ms(int(now)), int(version), fingerprint, tuple(due))

    def publish(self, version: int, fingerprint: str, tasks: Mapping[str, TaskType]) -> bool:
        """Puts definitions, by their ids, into force; False if an equally new or newer set is there."""
        arguments: list[Argument] = [version, fingerprint]
        for definition, task in tasks.items():
            arguments += [task.id, definition, task.interval.canonical, task.to_json()]
        return bool(self._redis.script("publish", *arguments))

    def definitions(self) -> dict[TaskId, str]:
        """The ids of the definitions in force, by task."""
        found = self._redis.call("HGETALL", self._keys("definitions"))
        return {TaskId(task): text.partition("|")[0] for task, text in found.items()}

    def definition(self, definition: str) -> TaskType | None:
        """A task type as it was published under a definition's id, while it is kept."""
        text = self._redis.call("GET", self._keys("definition", definition))
        return None if text is None else TaskType.from_json(text)

    def claim(
        self,
        run_id: RunId,
        *,
        task: TaskType,
        definition: str,
        kind: RunKind,
        nominal_at: datetime,
        overlap: Overlap,
        shares: Sequence[ShareClaim],
        distribution: QueuedMessage,
        distribute_in: timedelta,
    ) -> tuple[int, int]:
        """Makes a run of those shares that nobody else claimed.

        Returns how many shares were claimed, and how many of them are to be carried out.
        """
        arguments: list[Argument] = [
            *(
                run_id,
                task.id,
                kind.value,
                to_ms(nominal_at),
                definition,
                overlap.value,
                duration_ms(distribute_in),
            ),
            *(distribution.queue, distribution.id, distribution.body),
        ]
        for share in shares:
            arguments += [
                share.cohort,
                share.due.seen if share.due else "",
                to_ms(share.next_look) if share.next_look else "",
                to_ms(share.start_at),
                duration_ms(share.spread),
                to_ms(share.deadline_at),
                share.skip,
            ]
        claimed, live = self._redis.script("claim", *arguments)
        return int(claimed), int(live)

    def move_on(self, due: Due, next_look: datetime | None, *, missed: int = 0) -> None:
        """Notes that a cohort has nothing to claim before `next_look`, or ever again."""
        self._redis.script(
            "move_on", due.task_id, str(due.cohort), due.seen, to_ms(next_look) if next_look else "", missed
        )

    def ask_for(self, run_id: RunId, task_id: TaskId, user_ids: Sequence[UserId], *, keep: timedelta) -> None:
        """Notes the users that a run about to be claimed is for; forgotten after `keep` if it never is."""
        key = self._keys("members", run_id, "0")
        scored = [part for user_id in user_ids for part in (place_of(task_id, user_id), user_id)]
        self._redis.calls([("ZADD", key, *scored), ("EXPIRE", key, int(keep.total_seconds()))])
