"""What tells whether all is well: how Redis itself is set up and fares, and what stands in our keys.

Only observed here; what it means is judged in `tq/doctor`. What Redis does not tell, because its
provider forbids the question or an old version does not know it, is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tq.clock import from_ms
from tq.errors import StoreRefused
from tq.models import RunId
from tq.store.connection import Connection
from tq.store.heartbeats import Process, process_of
from tq.store.transport import Transport

# Of runs that have ended, the last ones: one that did not add up was told about when it was among them.
ENDED_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Server:
    """How Redis is set up and fares; sizes in bytes, `save` as it is configured."""

    name: str | None = None
    version: str | None = None
    role: str | None = None
    primary: str | None = None
    aof: bool | None = None
    aof_writes: str | None = None
    aof_rewrites: str | None = None
    is_rewriting: bool | None = None
    snapshots: str | None = None
    appendfsync: str | None = None
    save: str | None = None
    policy: str | None = None
    used_memory: int | None = None
    max_memory: int | None = None
    system_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: what waits, since when its first message is known to be the first, and what was put away."""

    name: str
    waiting: int
    first_since: datetime | None
    dead_letters: int


@dataclass(frozen=True, slots=True)
class StrikingRun:
    """A run that is past its deadline, or whose jobs do not add up."""

    id: RunId
    deadline_at: datetime
    is_running: bool
    expected: int
    ended: int
    open: int

    @property
    def unaccounted(self) -> int:
        """Jobs that are in no state that there may be, or in one too many if negative."""
        return self.expected - self.ended - (self.open if self.is_running else 0)


@dataclass(frozen=True, slots=True)
class Signs:
    """What stands in our keys at one instant."""

    now: datetime
    last_tick: datetime | None
    agenda_since: datetime | None
    overdue: int
    agenda_size: int
    mended: Mapping[str, int]
    queues: tuple[Queue, ...]
    processes: tuple[Process, ...]
    running: int
    striking: tuple[StrikingRun, ...]


class Vitals:
    """Looks, and changes nothing."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._redis = connection
        self._transport = transport

    def server(self) -> Server:
        """How Redis is set up and fares, as far as it tells.

        Raises:
            StoreUnavailable: if it cannot be reached.
        """
        info = self._told("INFO")
        config = {**self._told("CONFIG", "GET", "appendfsync"), **self._told("CONFIG", "GET", "save")}
        return Server(
            name=_name(info),
            version=_text(info, "valkey_version") or _text(info, "redis_version"),
            role=_text(info, "role"),
            primary=_text(info, "master_host"),
            aof=_flag(info, "aof_enabled"),
            aof_writes=_text(info, "aof_last_write_status"),
            aof_rewrites=_text(info, "aof_last_bgrewrite_status"),
            is_rewriting=_flag(info, "aof_rewrite_in_progress"),
            snapshots=_text(info, "rdb_last_bgsave_status"),
            appendfsync=_text(config, "appendfsync"),
            save=_text(config, "save"),
            policy=_text(info, "maxmemory_policy"),
            used_memory=_number(info, "used_memory"),
            max_memory=_number(info, "maxmemory"),
            system_memory=_number(info, "total_system_memory"),
        )

    def signs(self) -> Signs:
        """What stands in our keys.

        Raises:
            StoreError: if Redis does not tell.
        """
        now, tick, agenda, mended, queues, processes, running, striking = self._redis.script(
            "signs", ENDED_LOOKED_AT, *self._transport.queues
        )
        first_due, overdue, size = agenda
        return Signs(
            now=from_ms(int(now)),
            last_tick=_instant(tick),
            agenda_since=_instant(first_due),
            overdue=int(overdue),
            agenda_size=int(size),
            mended={what: int(times) for what, times in zip(mended[::2], mended[1::2], strict=True)},
            queues=tuple(
                Queue(name, int(waiting), _instant(since), int(dead)) for name, waiting, since, dead in queues
            ),
            processes=tuple(process_of(facts, int(float(seen))) for seen, facts in processes),
            running=int(running),
            striking=tuple(
                StrikingRun(RunId(run), from_ms(int(deadline)), bool(is_running), *map(int, counts))
                for run, deadline, is_running, *counts in striking
            ),
        )

    def _told(self, *command: str) -> Mapping[str, Any]:
        """What Redis answers; nothing if it does not let us ask."""
        try:
            answer: Mapping[str, Any] = self._redis.call(*command)
        except StoreRefused:
            return {}
        return answer


def _name(info: Mapping[str, Any]) -> str | None:
    if not info:
        return None
    return "Valkey" if "valkey_version" in info else "Redis"


def _text(found: Mapping[str, Any], name: str) -> str | None:
    return None if found.get(name) is None else str(found[name])


def _number(found: Mapping[str, Any], name: str) -> int | None:
    return None if found.get(name) is None else int(found[name])


def _flag(found: Mapping[str, Any], name: str) -> bool | None:
    return None if found.get(name) is None else bool(int(found[name]))


def _instant(ms: str) -> datetime | None:
    return from_ms(int(float(ms))) if ms else None
