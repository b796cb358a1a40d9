"""What is due, which definitions are in force, and who claimed what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tq.clock import duration_ms, from_ms, to_ms
from tq.models import Overlap, RunId, RunKind, TaskId, TaskType, UserId
from tq.slots import place_of
from tq.store.connection import Argument, Connection, chunks
from tq.store.preferences import Cohort
from tq.store.transport import QueuedMessage

# A tick looks at so many due entries at a time: 40 kB, and a millisecond of Redis' time.
DUE_BATCH = 1000
# One script claims so many shares, or moves so many entries: 1 to 2 ms of Redis' time.
BATCH = 100


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class ShareClaim:
    """A cohort's part of a run that is to be claimed; `skip` says why nobody in it is served."""

    cohort: str
    start_at: datetime
    spread: timedelta
    deadline_at: datetime
    due: Due | None = None
    next_look: datetime | None = None
    skip: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """A cohort has nothing to claim before `next_look`, or ever again.

    Of those that fell due before, so many were missed and get no run of their own.
    """

    due: Due
    next_look: datetime | None
    missed: int = 0


class Planning:
    """The due index, the published definitions, and claims."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def look(self, *, limit: int = DUE_BATCH) -> Look:
        """What is due now, and which definitions are in force; shows that the scheduler lives."""
        now, version, fingerprint, *entries = self._redis.script("tick", limit)
        due = []
        instants = {seen: from_ms(int(float(seen))) for seen in set(entries[1::2])}  # few, where many are due
        for member, seen in zip(*[iter(entries)] * 2, strict=True):
            task, _, cohort = member.partition("|")
            due.append(Due(TaskId(task), Cohort.parse(cohort), instants[seen], seen))
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

        A scheduled run of very many shares gets them bit by bit, each as a whole: if not all, then the
        others are still due. Returns how many shares were claimed, and how many of them are to be carried out.
        """
        head: list[Argument] = [
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
        claimed = live = 0
        for some in chunks(shares, BATCH):
            arguments = [*head]
            for share in some:
                arguments += [
                    share.cohort,
                    share.due.seen if share.due else "",
                    to_ms(share.next_look) if share.next_look else "",
                    to_ms(share.start_at),
                    duration_ms(share.spread),
                    to_ms(share.deadline_at),
                    share.skip,
                ]
            claimed_now, live_now = self._redis.script("claim", *arguments)
            claimed, live = claimed + int(claimed_now), live + int(live_now)
        return claimed, live

    def move_on(self, moves: Sequence[Move]) -> None:
        """Notes of cohorts that they have nothing to claim before some instant; not where another has."""
        for some in chunks(moves, BATCH):
            arguments: list[Argument] = []
            for move in some:
                look_on = to_ms(move.next_look) if move.next_look else ""
                due = move.due
                arguments += [due.task_id, str(due.cohort), due.seen, look_on, move.missed]
            self._redis.script("move_on", *arguments)

    def ask_for(self, run_id: RunId, task_id: TaskId, user_ids: Sequence[UserId], *, keep: timedelta) -> None:
        """Notes the users that a run about to be claimed is for; forgotten after `keep` if it never is."""
        key = self._keys("members", run_id, "0")
        scored = [part for user_id in user_ids for part in (place_of(task_id, user_id), user_id)]
        self._redis.calls([("ZADD", key, *scored), ("EXPIRE", key, int(keep.total_seconds()))])
