"""Who lives: when the last tick was, and every process as it shows itself.

A process that ends in good order says so and is forgotten; one that is killed, hangs or is cut off
from Redis falls silent, and is remembered for an hour.
"""

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import orjson

from tq.clock import Stopwatch, duration_ms, from_ms
from tq.store.connection import Connection
from tq.store.transport import Transport

WORKER = "worker"
SCHEDULER = "scheduler"
WEB = "web"
REMEMBERED = timedelta(hours=1)
# Workers and web processes show themselves every three seconds; workers take each other for dead as soon.
SILENT_AFTER = timedelta(seconds=15)
# A scheduler shows itself with each tick that it sends: two were due since, and a while for them.
SCHEDULER_SILENT_AFTER = timedelta(seconds=150)
# The clock of this machine is compared so often; the quickest answer tells most.
COMPARISONS = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it showed itself last. `skew` is by how much its clock is ahead of Redis', if it is known;
    `debug_port` is where it answers on its loopback what is asked for debugging, if it does."""

    component: str
    host: str
    pid: int
    version: str
    since: datetime
    seen_at: datetime
    skew: timedelta | None
    debug_port: int | None = None

    def is_silent(self, now: datetime) -> bool:
        """Whether it has not shown itself for so long that it does not count any more."""
        patience = SCHEDULER_SILENT_AFTER if self.component == SCHEDULER else SILENT_AFTER
        return now - self.seen_at > patience

    def __str__(self) -> str:
        """Who it is, such as `worker 4711 on app-1`."""
        return f"{self.component} {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class ClockComparison:
    """By how much this machine's clock is ahead of Redis', and how long Redis took to answer."""

    skew: timedelta
    round_trip: timedelta


class Heartbeats:
    """Shows processes, and tells when the clock last ticked."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._redis = connection
        self._keys = connection.keys
        self._transport = transport

    def last_tick(self) -> datetime | None:
        """When a tick was last carried out; None if there never was one."""
        ms = self._redis.call("HGET", self._keys("heartbeat"), "tick")
        return None if ms is None else from_ms(int(ms))

    def beat(self, process_id: str, facts: dict[str, Any], *, age: timedelta) -> ClockComparison:
        """Shows a process under an id of its own, and notes since when each queue's first message waits.

        Raises:
            StoreError: if Redis did not take it.
        """
        watch, before = Stopwatch(), self._redis.clock.now()
        now = self._redis.script(
            "beat",
            process_id,
            orjson.dumps(facts),
            duration_ms(age),
            duration_ms(REMEMBERED),
            *self._transport.queues,
        )
        return _comparison(before, watch.elapsed, from_ms(int(now)))

    def forget(self, process_id: str) -> None:
        """Shows a process no more, as it ends in good order."""
        self._redis.calls(
            [("ZREM", self._keys("beats"), process_id), ("HDEL", self._keys("processes"), process_id)]
        )

    def compare_clocks(self) -> ClockComparison:
        """How this machine's clock compares with Redis' own time."""
        found = []
        for _ in range(COMPARISONS):
            watch, before = Stopwatch(), self._redis.clock.now()
            seconds, microseconds = self._redis.call("TIME")
            round_trip = watch.elapsed
            # A clock that was handed in replaces Redis' own, here as in scripts.
            theirs = self._redis.clock.override_ms or int(seconds) * 1000 + int(microseconds) / 1000
            found.append(_comparison(before, round_trip, from_ms(theirs)))
        return min(found, key=lambda comparison: comparison.round_trip)


class Presence:
    """How this process shows itself, under one name from its first beat to its end.

    `facts` is what it tells beside what every process tells, as that is at each beat.
    """

    def __init__(
        self, heartbeats: Heartbeats, component: str, facts: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._heartbeats = heartbeats
        self._component = component
        self._more = facts
        self._age = Stopwatch()
        self._skew: timedelta | None = None

    def show(self) -> ClockComparison:
        """Shows that this process lives, with the skew of its clock as the last answer told it.

        Returns how its clock compares with Redis' own time now.

        Raises:
            StoreError: if Redis did not take it.
        """
        is_first = self._skew is None
        compared = self._beat()
        return self._beat() if is_first else compared

    def end(self) -> None:
        """Has this process forgotten at once.

        Raises:
            StoreError: if Redis did not do it; then the process counts as silent for an hour.
        """
        self._heartbeats.forget(self._id)

    def _beat(self) -> ClockComparison:
        skew = None if self._skew is None else self._skew.total_seconds()
        compared = self._heartbeats.beat(
            self._id, {**self._facts, **self._more, "skew": skew}, age=self._age.elapsed
        )
        self._skew = compared.skew
        return compared

    @cached_property
    def _id(self) -> str:
        # Not the process id alone: containers often share it, and a host may restart with the same.
        return f"{self._component}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {
            "component": self._component,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("taskqueue"),
        }


def process_of(text: str, seen_ms: int) -> Process:
    """A process as `beat` has stored it."""
    since, _, facts = text.partition("|")
    # By name, not all of it: another version may have more to say.
    known = orjson.loads(facts)
    return Process(
        component=known["component"],
        host=known["host"],
        pid=known["pid"],
        version=known["version"],
        since=from_ms(int(since)),
        seen_at=from_ms(seen_ms),
        skew=None if known["skew"] is None else timedelta(seconds=known["skew"]),
        debug_port=known.get("debug_port"),
    )


def _comparison(before: datetime, round_trip: timedelta, theirs: datetime) -> ClockComparison:
    # Redis read its clock somewhere between the question and the answer.
    return ClockComparison(before + round_trip / 2 - theirs, round_trip)
