"""Who has what enabled.

Both directions (the users of a task, the tasks of a user) change in one script, so that they agree
whatever crashes or races. The users of a task are kept by cohort in stable hash order, and read page
by page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import orjson

from tq.clock import from_ms
from tq.errors import UserNotFound
from tq.models import Interval, RunId, TaskId, TaskSettings, UserId, UserPreference
from tq.models.runs import EVERYBODY
from tq.slots import LAST_PLACE
from tq.store.connection import Argument, Connection, chunks, texts

# One script changes this many users: about 3 ms of Redis' time, in which nobody else is served.
BATCH = 200
PAGE = 1000
DEFAULT_INTERVAL = "default"
ANY_ZONE = "*"


class Keep(Enum):
    """Leaves a setting as it is."""

    KEEP = auto()


KEEP = Keep.KEEP


@dataclass(frozen=True)
class Enable:
    """Switch a task on for a user. `None` removes a setting, KEEP leaves it."""

    user_id: UserId
    task_id: TaskId
    timezone: str | Keep = KEEP
    interval: Interval | Keep | None = KEEP
    parameters: dict[str, Any] | Keep | None = KEEP


@dataclass(frozen=True)
class Disable:
    """Switch a task off for a user; settings are kept for later.

    Open jobs end as skipped, but for that of the run to be spared: its end is about to be recorded.
    """

    user_id: UserId
    task_id: TaskId
    reason: str = ""
    timezone: str | Keep = KEEP
    sparing: RunId | None = None


@dataclass(frozen=True)
class Relocate:
    """Have a user live in another time zone."""

    user_id: UserId
    timezone: str


Change = Enable | Disable | Relocate


@dataclass(frozen=True)
class Member:
    """A user in a cohort, as fan-out needs it."""

    user_id: UserId
    place: int
    parameters: str
    moved_at: datetime | None
    rezoned_at: datetime | None


@dataclass(frozen=True)
class Page:
    """Some members. Everybody up to `reached` has been returned by now.

    A million members are read in a run, and of most there is nothing to say but their place: so there
    is no object for each, and the rest stands by their number on the page, where there is anything.
    """

    user_ids: Sequence[UserId]
    places: Sequence[int]
    parameters: Mapping[int, str]
    moved_at: Mapping[int, datetime]
    rezoned_at: Mapping[int, datetime]
    reached: int
    departures: str

    def member(self, number: int) -> Member:
        """All that is known of one of them."""
        return Member(
            self.user_ids[number],
            self.places[number],
            self.parameters.get(number, ""),
            self.moved_at.get(number),
            self.rezoned_at.get(number),
        )

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them."""
        return tuple(self.member(number) for number in range(len(self.user_ids)))


@dataclass(frozen=True)
class Cohort:
    """The users of one task that fall due together.

    They follow the task's interval or one canonical interval of their own; where it uses the user's
    time zone, they also share a zone, else the zone is `*`.
    """

    zone: str = ANY_ZONE
    interval: str = DEFAULT_INTERVAL

    @classmethod
    @lru_cache(maxsize=10_000)  # a tick meets the same ones in each of hundreds of tasks
    def parse(cls, text: str) -> "Cohort":
        """The cohort that `str` wrote."""
        zone, _, interval = text.partition("|")
        return cls(zone, interval)

    def has(self, cell: "Cohort") -> bool:
        """Whether it has the users of a cell, that is of one zone and one interval; as `lua/cohorts.lua` says."""
        return self.zone in (ANY_ZONE, cell.zone) and self.interval in ("*", cell.interval)

    def __str__(self) -> str:
        return f"{self.zone}|{self.interval}"


class Preferences:
    """Reads and changes what users have enabled."""

    def __init__(self, connection: Connection, *, result_history: int, result_ttl: timedelta) -> None:
        self._redis = connection
        self._keys = connection.keys
        self._retention = (result_history, int(result_ttl.total_seconds()))

    def apply(self, changes: Sequence[Change]) -> int:
        """Makes all changes, each one whole; returns how many of them changed anything."""
        changed = 0
        for some in chunks(changes, BATCH):
            arguments: list[Argument] = [*self._retention]
            for change in some:
                arguments += _arguments(change)
            changed += sum(self._redis.script("enrol", *arguments))
        return changed

    def forget(self, user_id: UserId) -> bool:
        """Deletes a user and everything known of it; tells whether there was anything."""
        preference = self._find(user_id)
        if preference is None:
            return False
        for task_id in preference.tasks:
            self._forget_failures(task_id, user_id)
        self._redis.script("enrol", *self._retention, "forget", user_id, *[""] * 6)
        return True

    def _forget_failures(self, task_id: TaskId, user_id: UserId) -> None:
        index, bodies = self._keys("failures", task_id), self._keys("failure", task_id)
        cursor = "0"
        while True:
            cursor, found = self._redis.call("ZSCAN", index, cursor, "MATCH", f"*|{user_id}", "COUNT", 1000)
            members = [member for member, _ in found]
            if members:
                self._redis.calls([("HDEL", bodies, *members), ("ZREM", index, *members)])
            if str(cursor) == "0":
                return

    def get(self, user_id: UserId) -> UserPreference:
        """A user with all settings.

        Raises:
            UserNotFound: if nothing was ever enabled, disabled or set for that user.
        """
        found = self._find(user_id)
        if found is None:
            raise no_such_user(user_id)
        return found

    def _find(self, user_id: UserId) -> UserPreference | None:
        answer = texts(self._redis.script("user", user_id))
        return _preference(user_id, answer[0], answer[1:]) if answer else None

    def everybody(self, *, page: int = PAGE) -> Iterator[UserPreference]:
        """All users with all settings, in a stable order, a page in memory at a time.

        A user who is added or deleted meanwhile may or may not be among them; all others are, once.
        """
        after = -1
        while after < LAST_PLACE:
            answer = self._redis.script("users", after, page)
            after = int(answer[0])
            for user_id, record, *settings in answer[1:]:
                yield _preference(UserId(user_id), record, settings)

    def cells(self, task_id: TaskId) -> dict[Cohort, int]:
        """How many users have a task enabled, by the zone they live in and the interval they follow."""
        found = self._redis.call("HGETALL", self._keys("cells", task_id))
        return {Cohort.parse(cell): int(count) for cell, count in found.items()}

    def count(self, task_id: TaskId) -> int:
        """How many users have a task enabled."""
        return sum(self.cells(task_id).values())

    def page(
        self,
        task_id: TaskId,
        cohort: Cohort | str,
        *,
        after: int,
        upto: int = LAST_PLACE,
        size: int = PAGE,
        run_id: RunId | None = None,
        share: int = 0,
    ) -> Page:
        """The members after a place, about `size` of them, in no particular order among themselves.

        Of a run's share, also those who are listed with the run.
        """
        return _page(self._redis.script("page", task_id, str(cohort), after, upto, size, run_id or "", share))

    def members(self, task_id: TaskId, *, page: int = PAGE) -> Iterator[UserId]:
        """Everybody who has a task enabled, a page in memory at a time."""
        after = -1
        while after < LAST_PLACE:
            found = self.page(task_id, EVERYBODY, after=after, size=page)
            yield from found.user_ids
            after = found.reached

    def enrolled(self, task_id: TaskId, user_ids: Sequence[UserId]) -> dict[UserId, bool]:
        """Which of these users have the task enabled."""
        return {user_id: self._has(task_id, self._find(user_id)) for user_id in user_ids}

    @staticmethod
    def _has(task_id: TaskId, preference: UserPreference | None) -> bool:
        settings = preference.tasks.get(task_id) if preference else None
        return settings is not None and settings.enabled


def no_such_user(user_id: UserId) -> UserNotFound:
    """The error of asking for a user for whom nothing was ever set."""
    return UserNotFound(f"user {user_id!r} has no task enabled or disabled; see tq users enable --help")


def _arguments(change: Change) -> list[Argument]:
    match change:
        case Enable(user, task, zone, interval, parameters):
            spelt = ["=", "="]
            if not isinstance(interval, Keep):
                spelt = [interval.canonical, interval.to_json()] if interval else [DEFAULT_INTERVAL, ""]
            body = (
                "="
                if isinstance(parameters, Keep)
                else orjson.dumps(parameters).decode()
                if parameters
                else ""
            )
            return ["set", user, task, _zone(zone), *spelt, body, ""]
        case Disable(user, task, reason, zone, sparing):
            return ["off", user, task, _zone(zone), sparing or "", "", "", " ".join(reason.split())]
        case Relocate(user, zone):
            return ["zone", user, "", zone, "", "", "", ""]


def _zone(zone: str | Keep) -> str:
    return "=" if isinstance(zone, Keep) else zone


def _preference(user_id: UserId, record: str, settings: Sequence[str]) -> UserPreference:
    zone, *words = record.split(" ")
    tasks = {
        TaskId(word[1:]): _settings(enabled=word[0] in "+*", text=text)
        for word, text in zip(words, settings, strict=True)
    }
    return UserPreference.model_construct(user_id=user_id, timezone=zone, tasks=tasks)


def _settings(*, enabled: bool, text: str) -> TaskSettings:
    if not text:
        return TaskSettings.model_construct(enabled=enabled, interval=None, parameters={}, reason=None)
    _, interval, parameters, reason = text.split("\n")
    return TaskSettings.model_construct(
        enabled=enabled,
        interval=Interval.from_json(interval) if interval else None,
        parameters=orjson.loads(parameters) if parameters else {},
        reason=reason or None,
    )


def _page(answer: list[Any]) -> Page:
    reached, departures, user_ids, places, settings, moved, rezoned = answer
    return Page(
        user_ids,
        [int(place) for place in places],
        {number: parameters for number, text in _noted(settings) if (parameters := text.split("\n")[2])},
        {number: _instant(ms) for number, ms in _noted(moved)},
        {number: _instant(ms) for number, ms in _noted(rezoned)},
        int(reached),
        str(departures),
    )


def _noted(flat: list[Any]) -> Iterator[tuple[int, str]]:
    """What is said of members, by their number on the page."""
    return zip(*[iter(flat)] * 2, strict=True)


def _instant(ms: str) -> datetime:
    return from_ms(int(float(ms)))
