"""Runs as they stand: their ledger, their shares, and who is still open."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta

from tq.clock import from_ms
from tq.errors import RunNotFound
from tq.models import JobStatus, Run, RunCounts, RunId, RunKind, RunStatus, Share, TaskId, UserId
from tq.models.runs import Wait
from tq.slots import LAST_PLACE, PLACES, stretches
from tq.store.connection import Connection, chunks, texts
from tq.store.preferences import Cohort

# One script reads so many runs: about 2 ms of Redis' time.
BATCH = 100

Fields = dict[str, str]


class Runs:
    """Reads runs."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def get(self, run_id: RunId) -> Run:
        """A run with its shares.

        Raises:
            RunNotFound: if there was none of that id in the last 90 days.
        """
        [(fields, shares, still_open)] = self._read([run_id], with_shares=True)
        if not fields:
            raise RunNotFound(f"run {run_id!r} is not known; see tq runs list (runs are kept for 90 days)")
        return _run(run_id, fields, shares, still_open)

    def latest(self, *, task_id: TaskId | None = None, limit: int = 20) -> list[Run]:
        """The runs that were claimed last, newest first, without their shares."""
        key = self._keys("runs_of", task_id) if task_id else self._keys("runs")
        return self._without_shares(self._redis.call("ZREVRANGE", key, 0, limit - 1))

    def running(self) -> list[Run]:
        """The runs that have not ended, of all tasks, without their shares."""
        return self._without_shares(sorted(texts(self._redis.call("SMEMBERS", self._keys("running")))))

    def _without_shares(self, run_ids: Sequence[str]) -> list[Run]:
        found = zip(run_ids, self._read(run_ids, with_shares=False), strict=True)
        return [
            _run(RunId(run_id), fields, {}, still_open) for run_id, (fields, _, still_open) in found if fields
        ]

    def _read(self, run_ids: Sequence[str], *, with_shares: bool) -> list[tuple[Fields, Fields, int]]:
        """Per run its fields, those of its shares, and how many jobs are open: each at one instant."""
        answers: list[tuple[list[str], list[str], int]] = []
        for some in chunks(run_ids, BATCH):
            answers += self._redis.script("runs", int(with_shares), *some)
        return [(_paired(fields), _paired(shares), int(still_open)) for fields, shares, still_open in answers]

    def cancel(self, run_id: RunId, *, reason: str) -> str:
        """Has no further call of a run begin; returns its status as it was, '' if there is no such run."""
        return str(self._redis.script("cancel", run_id, " ".join(reason.split())))

    def open_users(self, run_id: RunId) -> Iterator[UserId]:
        """The users whose jobs have been fanned out and have not ended."""
        cursor = 0
        while True:
            cursor, found = self._redis.call("HSCAN", self._keys("open", run_id), cursor, "COUNT", 1000)
            yield from (UserId(user) for user in found)
            if int(cursor) == 0:
                return

    def is_open(self, run_ids: Sequence[RunId], user_id: UserId) -> bool:
        """Whether the user has an open job in any of these runs."""
        return any(
            self._redis.calls([("HEXISTS", self._keys("open", run_id), user_id) for run_id in run_ids])
        )

    def active(self, task_id: TaskId) -> list[RunId]:
        """The runs of a task that have not ended."""
        return [RunId(run_id) for run_id in self._redis.call("SMEMBERS", self._keys("active", task_id))]

    def out_of_room(self, task_id: TaskId) -> set[RunId]:
        """The runs of a task that would send more jobs if there were room for them."""
        active = self.active(task_id)
        found = self._redis.calls(
            [("HMGET", self._keys("run", run_id), "waits_for", "undone") for run_id in active]
        )
        return {
            run_id
            for run_id, (waits_for, undone) in zip(active, found, strict=True)
            if waits_for == Wait.ROOM and int(undone or 0) > 0
        }

    def members_left(self, run: Run) -> list[float]:
        """How many members each share has beyond its cursor; about, from how many its cohort has now."""
        found = self._redis.call("HGETALL", self._keys("cells", run.task_id))
        cells = [(Cohort.parse(cell), int(members)) for cell, members in found.items()]
        to_come = [
            (index, after, end)
            for index, share in enumerate(run.shares)
            for after, end in stretches(share.first, after=share.cursor)
        ]
        counts = self._redis.calls(
            [
                ("ZCOUNT", self._keys("members", run.id, str(index)), f"({after}", end)
                for index, after, end in to_come
            ]
        )
        listed = Counter[int]()
        for (index, _, _), count in zip(to_come, counts, strict=True):
            listed[index] += int(count)
        left = []
        for index, share in enumerate(run.shares):
            cohort = Cohort.parse(share.cohort)
            members = sum(members for cell, members in cells if cohort.has(cell))
            left.append(0.0 if share.done else members * (LAST_PLACE - share.cursor) / PLACES + listed[index])
        return left


def _run(run_id: RunId, fields: dict[str, str], shares: dict[str, str], still_open: int) -> Run:
    reasons = {
        name.partition(":")[2]: int(count)
        for name, count in fields.items()
        if name.startswith(f"{JobStatus.SKIPPED}:")
    }
    counters = ("expected", "success", "failed", "expired", "cancelled", "skipped", "waiting", "retries")
    counts = {name: int(fields.get(name, "0")) for name in counters}
    ended, cancelled = fields.get("ended_at"), fields.get("cancelled_at")
    return Run(
        id=run_id,
        task_id=TaskId(fields["task"]),
        kind=RunKind(fields["kind"]),
        status=RunStatus(fields["status"]),
        reason=fields.get("reason"),
        nominal_at=from_ms(int(fields["nominal_at"])),
        claimed_at=from_ms(int(fields["claimed_at"])),
        deadline_at=from_ms(int(fields["deadline_at"])),
        ended_at=from_ms(int(ended)) if ended else None,
        cancelled_at=from_ms(int(cancelled)) if cancelled else None,
        definition=fields["definition"],
        waits_for=Wait(fields["waits_for"]) if "waits_for" in fields else None,
        counts=RunCounts(open=still_open, skipped_by_reason=reasons, **counts),
        shares=tuple(_share(shares, index) for index in range(int(fields["shares"]) if shares else 0)),
    )


def _paired(flat: list[str]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _share(fields: dict[str, str], index: int) -> Share:
    unreached = fields.get(f"{index}:unreached")
    return Share(
        cohort=fields[f"{index}:cohort"],
        start_at=from_ms(int(fields[f"{index}:start"])),
        spread=timedelta(milliseconds=int(fields[f"{index}:spread"])),
        deadline_at=from_ms(int(fields[f"{index}:deadline"])),
        first=int(fields.get(f"{index}:first", "0")),
        cursor=int(fields[f"{index}:cursor"]),
        unreached=None if unreached is None else int(unreached),
        done=fields[f"{index}:done"] == "1",
        open=int(fields[f"{index}:open"]),
    )
