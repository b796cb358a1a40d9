"""What takes how much of Redis' memory, by structure; estimated, since to ask each key would take minutes.

Keys of which there are few and which may be large are asked for their size. All others are sampled:
each reading draws some at random, and what the last few thousand draws were stands for all keys.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from tq.errors import StoreRefused
from tq.models import TaskId
from tq.store.connection import Connection
from tq.store.keys import TABLE
from tq.store.transport import Transport

DRAWN = 64  # keys per reading
REMEMBERED = 4096
SAMPLES = 5  # entries of a key that Redis looks at to tell its size
OTHER = "other"
QUEUES = "queues"

STRUCTURES: Mapping[str, frozenset[str]] = {
    "users": frozenset(
        [
            "cells",
            "branches",
            "leaf",
            "user_branches",
            "user_leaf",
            "departures",
            "settings",
            "user_pauses",
            "moved",
            "rezoned",
        ]
    ),
    "schedule": frozenset(
        ["data_version", "published", "definitions", "definition", "due", "missed", "heartbeat"]
    ),
    "runs": frozenset(
        [
            "runs",
            "runs_of",
            "running",
            "active",
            "last",
            "run",
            "shares",
            "open",
            "members",
            "travelled",
            "totals",
            "seen",
            "mender",
            "mended",
        ]
    ),
    "agenda": frozenset({"agenda", "agenda_messages"}),
    QUEUES: frozenset(["beats", "processes", "firsts", "begun", "suspects", "wake"]),
    "limits": frozenset(["limit", "places", "outcomes", "ordered", "paused", "past_pauses", "limit_events"]),
    "results": frozenset({"results", "failures", "failure"}),
    "alerts": frozenset({"alerts"}),
}
_OF_FAMILY = {family: structure for structure, families in STRUCTURES.items() for family in families}
# One key per task, which may be large.
_PER_TASK = ("settings", "failures", "failure", "moved")
_PER_RUN = ("open", "shares")


class MemoryByStructure:
    """Estimates, better with each reading."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._redis = connection
        self._queue_keys = transport.queue_keys
        self._prefix = connection.keys.prefix
        self._drawn: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)

    def read(self, tasks: Iterable[TaskId]) -> dict[str, float]:
        """Bytes by structure. Empty if this Redis does not tell sizes.

        Raises:
            StoreUnavailable: if it cannot be reached.
        """
        try:
            return self._read(self._single(tasks))
        except StoreRefused:
            return {}

    def _read(self, single: Mapping[str, None]) -> dict[str, float]:
        keys, *drawn = self._redis.calls([("DBSIZE",), *[("RANDOMKEY",)] * DRAWN])
        others = [key for key in drawn if key is not None and key not in single]
        # What was drawn and is asked for by itself takes a place among the draws, and no memory.
        self._drawn.extend([("", 0)] * (len(drawn) - len(others)))
        asked = [*single, *others]
        sizes = self._redis.calls([("MEMORY", "USAGE", key, "SAMPLES", SAMPLES) for key in asked])
        found = dict.fromkeys((*STRUCTURES, OTHER), 0.0)
        for key, size in zip(single, sizes, strict=False):
            found[self._structure_of(key)] += size or 0
        self._drawn.extend(
            (self._structure_of(key), size or 0)
            for key, size in zip(others, sizes[len(single) :], strict=True)
        )
        for structure, size in self._drawn:
            if structure:
                found[structure] += keys * size / len(self._drawn)
        return found

    def _single(self, tasks: Iterable[TaskId]) -> dict[str, None]:
        """The keys that are asked one by one."""
        keys = self._redis.keys
        running = self._redis.call("SMEMBERS", keys("running"))
        single = [*keys.fixed(), *self._queue_keys]
        single += [keys(family, task) for task in tasks for family in _PER_TASK]
        single += [keys(family, run) for run in running for family in _PER_RUN]
        return dict.fromkeys(single)

    def _structure_of(self, key: str) -> str:
        if not key.startswith(self._prefix):
            return OTHER
        family = key.removeprefix(self._prefix).partition(":")[0]
        if family == "queue":
            return QUEUES
        return _OF_FAMILY.get(family, OTHER) if family in TABLE else OTHER
