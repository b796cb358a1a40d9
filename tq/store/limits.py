"""The limiter that all processes share: outcomes in, slots out, and how it stands.

What is decided, and why, stands in `lua/limiter.lua` and `lua/rate_rule.lua`.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import orjson

from tq.clock import from_ms
from tq.limits import EVERY_TASK, KINDS, LEAST_RATE, Kind, Limit
from tq.models import TaskId
from tq.store.connection import Connection, open_client

OUTCOMES_KEPT = timedelta(hours=1)
# So long a listener may take to notice that it is to stop.
EVENT_WAIT_S = 0.25
BreakerState = Literal["closed", "open", "half_open"]
State = Literal["closed", "open", "half_open", "paused", "held"]


@dataclass(slots=True)
class Report:
    """How calls came out that began in one epoch of their task's rate."""

    epoch: int
    probe: bool
    ok: int = 0
    overload: int = 0
    error: int = 0
    seconds: float = 0.0  # that the good ones took, together
    hold: float = (
        -1.0
    )  # the longest wait that was asked for, in seconds; 0 if it was not said how long, -1 if none

    throttled: bool = False  # whether a quota was used up

    @property
    def is_unused_probe(self) -> bool:
        """Whether it gives back the leave to probe, with which no call was made."""
        return self.probe and not (self.ok or self.overload or self.error)

    def to_wire(self) -> list[float]:
        """The fields in the script's order."""
        return [
            *(self.ok, self.overload, self.error, self.seconds),
            *(self.epoch, int(self.probe), self.hold, int(self.throttled)),
        ]


@dataclass(slots=True)
class Ask:
    """What a process has to say of a task, and how many slots it could use."""

    task: TaskId
    limit: Limit
    slots: int
    weight: int
    waiting: int
    in_use: int
    unused: int = 0
    ended_places: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        """The fields under the script's names."""
        return {
            "task": self.task,
            "limit": self.limit,
            "ask": self.slots,
            "weight": self.weight,
            "waiting": self.waiting,
            "in_use": self.in_use,
            "unused": self.unused,
            "ended": self.ended_places,
            "counts": self.counts,
            "reports": [report.to_wire() for report in self.reports],
        }


@dataclass(slots=True)
class Request:
    """One exchange of a process with the limiter."""

    process: str
    everything: Limit
    slots: int  # at most, of all tasks together
    tasks: list[Ask]
    waiting: int = 0
    in_use: int = 0


class Grant(NamedTuple):
    """One slot: a call of the task may begin this many seconds after the answer."""

    task: TaskId
    delay: float
    epoch: int
    probe: bool
    place: str  # '' where calls at a time are not limited


@dataclass(frozen=True, slots=True)
class Scope:
    """How a task stands after an exchange; `wait` is for how many seconds it need not ask."""

    rate: float
    wait: float
    epoch: int
    state: State
    outage: tuple[float, float] | None  # the last one, from its first failure to its end, in Unix seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exchange brings. `events` are what all processes were told by it."""

    grants: list[Grant]
    scopes: dict[TaskId, Scope]
    rate: float
    processes: int
    events: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many calls came out how."""

    counts: dict[Kind, int]

    @property
    def calls(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def error_rate(self) -> float:
        """The share that did not succeed; 0 if there were none."""
        return 1 - self.counts[Kind.OK] / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """A scope has changed: slots of earlier epochs are void, or all of them if none is named."""

    scope: str
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a scope stands now: rates in calls per second, `pace` as measured, `error_rate` of the last minute."""

    scope: str
    strategy: str
    rate: float
    ceiling: float
    state: BreakerState
    why: str
    until: datetime | None
    in_use: int
    waiting: int
    pace: float
    error_rate: float
    paused: bool
    busy_tasks: int = 0  # of all tasks together: how many had jobs waiting in the last seconds

    @property
    def held(self) -> bool:
        """Whether no call may begin now, or single probes at most."""
        return self.paused or self.state != "closed" or self.until is not None

    def effective_within(self, whole: "Standing") -> float:
        """The calls per second that may begin now, given how all tasks together stand."""
        probes = self.state == "half_open" and not (self.paused or whole.paused)
        is_held = whole.held or (self.held and not probes)
        return 0.0 if is_held else min(self.rate, whole.rate)

    def ceiling_within(self, whole: "Standing") -> float:
        """The highest rate that there may be beside all tasks together."""
        return min(self.ceiling, whole.ceiling)

    def why_within(self, whole: "Standing") -> str:
        """Why that rate is as it is."""
        return f"all tasks {whole.why}" if whole.held and self.scope != EVERY_TASK else self.why

    def until_within(self, whole: "Standing") -> datetime | None:
        """Until when, if that is known."""
        return (whole if whole.held else self).until


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a task's jobs may expect now: calls per second; and whether the task is held, and why.

    Held is a task that may not be called, and then the rate is 0; or by single probes at most.
    """

    rate: float
    held: bool
    why: str


# A task that uses what it gets may be given so much more, in case it could use that, too.
HEADROOM = 1.5


class Limits:
    """The limiter's script, and how it stands."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self.events_channel = connection.keys("limit_events")

    def exchange(self, request: Request) -> Answer:
        """Reports outcomes and gets slots.

        Raises:
            StoreError: if Redis did not do it; whether it took in the outcomes is not known then.
        """
        body = {
            "process": request.process,
            "everything": request.everything,
            "slots": request.slots,
            "waiting": request.waiting,
            "in_use": request.in_use,
            "tasks": [ask.to_wire() for ask in request.tasks],
        }
        answer = orjson.loads(self._redis.script("limiter", orjson.dumps(body)))
        tasks = [ask.task for ask in request.tasks]
        scopes = {
            task: Scope(rate, wait, epoch, breaker, (began, ended) if began else None)
            for task, (rate, wait, epoch, breaker, began, ended) in zip(
                tasks, answer["tasks"] or [], strict=True
            )
        }
        grants = [
            Grant(tasks[index - 1], delay / 1e6, scopes[tasks[index - 1]].epoch, bool(probe), place)
            for index, delay, probe, place in answer["grants"] or []
        ]
        events = [(scope, epoch) for scope, epoch in answer["events"] or []]
        return Answer(grants, scopes, answer["rate"], answer["processes"], events)

    def events(self, stopped: threading.Event) -> Iterator[Event]:
        """What the limiter and operators tell all processes, as it comes, until the event is set.

        It begins with one about everything, for what was told before.

        Raises:
            StoreUnavailable: if the connection is lost; what is told until it is there again is missed.
        """
        # A connection that is mended behind our back would hide that something was missed.
        client = open_client(
            self._redis.url, decode_responses=True, retries=0, log_commands=self._redis.log_commands
        )
        with self._redis.errors(), closing(client), client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(self.events_channel)
            yield Event(EVERY_TASK, None)
            while not stopped.is_set():
                message = channel.get_message(timeout=EVENT_WAIT_S)
                if message is not None:
                    told = orjson.loads(message["data"])
                    yield Event(told["scope"], told.get("epoch"))

    def standings(self, limits: Mapping[str, Limit]) -> dict[str, Standing]:
        """How these scopes stand, given what is configured for them; `*` must be among them."""
        scopes = [{"scope": scope, "limit": limit} for scope, limit in limits.items()]
        everything = limits[EVERY_TASK]
        answer = orjson.loads(self._redis.script("standings", orjson.dumps(everything), orjson.dumps(scopes)))
        return {found["scope"]: _standing(found, answer["now"]) for found in answer["scopes"]}

    def outcomes(self, scopes: Sequence[str], *, over: timedelta) -> dict[str, Outcomes]:
        """How calls of these scopes came out over the last while, of up to an hour.

        Counted in slots of ten seconds, the present one included; so the while is up to ten seconds longer.

        Raises:
            ValueError: if it is longer than an hour, which is how long outcomes are kept.
        """
        if over > OUTCOMES_KEPT:
            raise ValueError(f"outcomes of the last {over} are not kept; ask for {OUTCOMES_KEPT} at most")
        found = self._redis.script("outcomes", over.total_seconds(), *scopes)
        return {
            scope: Outcomes(dict(zip(KINDS, (int(count) for count in counts), strict=True)))
            for scope, counts in zip(scopes, found, strict=True)
        }

    def outlook(self, task: TaskId, limit: Limit, everything: Limit) -> Outlook:
        """What the jobs of a task may expect among those of the others."""
        standings = self.standings({task: limit, EVERY_TASK: everything})
        own, whole = standings[task], standings[EVERY_TASK]
        for standing in (whole, own):
            if standing.held:
                # Probes are made with jobs: without any, nobody would ever find out that an outage is over.
                may_probe = standing.state == "half_open" and not (whole.paused or own.paused)
                return Outlook(LEAST_RATE if may_probe else 0.0, held=True, why=standing.why)
        even_share = whole.rate / max(1, whole.busy_tasks)
        rate = min(own.rate, whole.rate, max(even_share, HEADROOM * own.pace))
        return Outlook(rate, held=False, why=own.why)


def _standing(found: dict[str, Any], now: float) -> Standing:
    why, until = _reason(found, now)
    return Standing(
        scope=found["scope"],
        strategy=found["strategy"],
        rate=found["rate"],
        ceiling=found["ceiling"],
        state=found["breaker"],
        why=why,
        until=until,
        in_use=found["in_use"],
        waiting=found["waiting"],
        pace=found["pace"],
        error_rate=found["error_rate"],
        paused=found.get("pause") is not None,
        busy_tasks=found["busy"],
    )


def _reason(found: dict[str, Any], now: float) -> tuple[str, datetime | None]:
    """Why the rate is what it is, in words, and until when if that is known."""
    pause, order = found.get("pause"), found.get("order")
    if pause is not None:
        by = f" by {pause['by']}" if pause.get("by") else ""
        reason = f": {pause['reason']}" if pause.get("reason") else ""
        until = pause.get("until")
        return f"paused{by}{reason}", from_ms(until) if until else None
    if found["breaker"] == "open":
        return "breaker open: nothing but failures", from_ms(found["breaker_until"] * 1000)
    if found["breaker"] == "half_open":
        return "breaker half open: single calls ask whether it is over", None
    if found["held_until"] > now:
        return "the endpoint asked for a wait (Retry-After)", from_ms(found["held_until"] * 1000)
    if found["strategy"] == "pinned":
        return f"pinned by {order['by']}" if order and order.get("by") else "pinned", None
    return WHY.get(found["why"], found["why"]), None


WHY = {
    "starting": "starting halfway up",
    "refused": "cut: calls were refused",
    "slow": "cut: answers became slow",
    "throttled": "cut: the endpoint named a quota",
    "failing": "cut: nothing but failures",
    "recovering": "coming back to the last known capacity",
    "probing": "finding out whether more is possible",
    "steady": "as much as is asked for",
}
