"""Worker processes in virtual time: real agents, the real script on a real Redis, an endpoint made up by the test.

Redis takes the timeline for the present. Each process has a clock of its own, which may be off by
anything, as machines' clocks are; what happens here and there meets only in exchanges and events.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from tests.store import ListTransport
from tq.bench.timeline import Timeline
from tq.errors import StoreError
from tq.limiter.agent import Agent, Slot
from tq.limits import Kind, Limit, Signal
from tq.models import Strategy, TaskId
from tq.settings import Settings
from tq.store import Store
from tq.store.limits import Answer, Request

WAY_S = 0.0005  # from a process to Redis, and back
EVENT_S = 0.002
# Nothing that a process does at one instant takes this many turns.
BUSY = 10_000
ROUNDING_S = 1e-6

_namespaces = count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call comes out, and after how many seconds."""

    signal: Signal = Signal.OK
    seconds: float = 0.05
    hold: float | None = None
    throttled: bool = False

    @property
    def kind(self) -> Kind:
        """The same for error rates."""
        return Kind.THROTTLED if self.throttled else Kind(self.signal.value)


FINE = Reply()
BROKEN = Reply(Signal.ERROR)
BUSY_NOW = Reply(Signal.OVERLOAD, 0.01)
Endpoint = Callable[[float], Reply]


def adaptive(
    ceiling: float, *, floor: float | None = None, concurrency: int = 0, patience: float = 10.0
) -> Limit:
    """What the settings make of a number."""
    floor = min(ceiling, max(0.2, ceiling / 100)) if floor is None else floor
    return Limit(Strategy.ADAPTIVE, floor, max(floor, ceiling / 2), ceiling, concurrency, patience)


@dataclass(frozen=True, slots=True)
class Given:
    """A slot that Redis gave away: for which instant by its clock, when, and under which rates."""

    at: float
    task: TaskId
    rate: float
    whole: float
    process: str
    given_at: float
    probe: bool
    place: str


@dataclass
class Log:
    """What happened, by Redis' clock."""

    given: list[Given] = field(default_factory=list)
    begun: list[tuple[float, TaskId]] = field(default_factory=list)
    replies: list[tuple[float, TaskId, Reply]] = field(default_factory=list)
    exchanges: int = 0

    def calls(self, task: TaskId | None = None, *, since: float = 0.0, until: float = math.inf) -> int:
        """How many calls began in a time."""
        return sum(1 for at, of in self.begun if since <= at < until and task in (None, of))


def virtual_store(url: str, timeline: Timeline) -> Store:
    """A store in a namespace of its own that lives in virtual time."""
    namespace = f"fleet.{next(_namespaces)}"
    settings = Settings(redis_url=url, namespace=namespace, broker="stub")
    return Store(settings, ListTransport(namespace), clock=timeline)


class Fleet:
    """Processes, what limits them, and what they call."""

    def __init__(self, store: Store, timeline: Timeline, everything: Limit) -> None:
        self.store = store
        self.timeline = timeline
        self.everything = everything
        self.limits: dict[TaskId, Limit] = {}
        self.weights: dict[TaskId, int] = {}
        self.endpoints: dict[TaskId, Endpoint] = {}
        self.backlog: dict[TaskId, int] = {}
        self.processes: list[Process] = []
        self.log = Log()
        self.answers: dict[TaskId, tuple[float, str]] = {}

    @property
    def now(self) -> float:
        """Seconds from the beginning, by Redis' clock."""
        return self.timeline.seconds

    def task(
        self,
        name: str,
        limit: Limit,
        *,
        endpoint: Endpoint = lambda _: FINE,
        weight: int = 4,
        backlog: int = 32,
    ) -> TaskId:
        """One more task; of its jobs so many always wait in each process."""
        task = TaskId(name)
        self.limits[task], self.weights[task] = limit, weight
        self.endpoints[task], self.backlog[task] = endpoint, backlog
        return task

    def start(
        self, processes: int, *, threads: int = 32, tasks: Iterable[TaskId] | None = None
    ) -> "list[Process]":
        """So many more processes, which work on these tasks, or on all."""
        new = [
            Process(
                self,
                f"process-{len(self.processes) + number}",
                threads,
                None if tasks is None else list(tasks),
            )
            for number in range(processes)
        ]
        self.processes += new
        for number, process in enumerate(new):
            self.timeline.after(0.01 * number, process.look)
        return new

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        until = self.timeline.seconds + seconds
        self.timeline.at(until, lambda: None)
        self.timeline.run(until)

    def arrive(self, task: TaskId, per_second: float, seconds: float) -> None:
        """Jobs come in at a pace, each in the next process, instead of waiting already."""
        for number in range(int(per_second * seconds)):
            process = self.processes[number % len(self.processes)]
            self.timeline.after(number / per_second, partial(process.receive, task))

    def rate(self, task: TaskId) -> float:
        """The task's rate, as the last exchange about it told."""
        return self.answers[task][0]

    def state(self, task: TaskId) -> str:
        """The task's breaker, or whether it is paused, as the last exchange about it told."""
        return self.answers[task][1]

    def exchange(self, request: Request) -> Answer:
        """The real script, and a note of what it gave."""
        answer = self.store.limits.exchange(request)
        self.note(request, answer)
        self.tell(answer.events)
        return answer

    def note(self, request: Request, answer: Answer) -> None:
        """Remembers what was given."""
        self.log.exchanges += 1
        for task, scope in answer.scopes.items():
            self.answers[task] = (scope.rate, scope.state)
        for grant in answer.grants:
            self.log.given.append(
                Given(
                    at=self.now + grant.delay,
                    task=grant.task,
                    rate=answer.scopes[grant.task].rate,
                    whole=answer.rate,
                    process=request.process,
                    given_at=self.now,
                    probe=grant.probe,
                    place=grant.place,
                )
            )

    def tell(self, events: Iterable[tuple[str, int | None]]) -> None:
        """Every process hears of it in a moment."""
        for scope, epoch in events:
            for process in self.processes:
                self.timeline.after(EVENT_S, partial(process.hear, scope, epoch))

    def order(self, give: Callable[[Store], object], scope: str) -> None:
        """An operator gives an order, and all processes are told."""
        give(self.store)
        self.tell([(scope, None)])


class Process:
    """One process: jobs wait, slots come due, calls begin and end."""

    def __init__(self, fleet: Fleet, name: str, threads: int, tasks: list[TaskId] | None = None) -> None:
        self.fleet = fleet
        self.name = name
        self.agent = Agent(name, fleet.everything)
        self.agent.threads = self.threads = threads
        self.tasks = tasks
        self.offset = 0.0
        self.alive = True
        self.calling: Counter[TaskId] = Counter()
        self.busy = 0  # threads, with all these calls
        self.waiting: Counter[TaskId] = Counter()
        self._looked: tuple[float, int] = (-1.0, 0)
        self._alarm = math.inf

    @property
    def local(self) -> float:
        """The time by this process' clock."""
        return self.fleet.timeline.seconds + self.offset

    def receive(self, task: TaskId, jobs: int = 1) -> None:
        """Jobs have come."""
        if self.alive:
            self._wait(task, jobs)
            self.look()

    def hear(self, scope: str, epoch: int | None) -> None:
        """An event has come."""
        if self.alive:
            self.agent.heard(scope, epoch, self.local)
            self.look()

    def jump(self, seconds: float) -> None:
        """The clock of the machine is put forward."""
        self.offset += seconds
        self._alarm = math.inf
        self.look()

    def crash(self) -> None:
        """The process is gone, and what it had in hand with it."""
        self.alive = False

    def look(self) -> None:
        """Does what can be done now."""
        if not self.alive:
            return
        self._see_progress()
        self._fetch()
        while self.busy < self.threads and (ready := self.agent.ready(self.local)):
            self._begin(min(ready, key=lambda task: (self.calling[task], task)))
        exchange_at = self.agent.exchange_at(self.local)
        if exchange_at <= self.local and (request := self.agent.request(self.local)) is not None:
            self.ask(request)
            exchange_at = math.inf  # until the answer is there
        self._set_alarm(exchange_at)

    def ask(self, request: Request) -> None:
        """Has an exchange happen; what goes wrong with it is for whoever overrides this."""
        self.fleet.timeline.after(WAY_S, partial(self._exchange, request))

    def _exchange(self, request: Request) -> None:
        if not self.alive:
            return
        try:
            answer = self.fleet.exchange(request)
        except StoreError:
            self.fleet.timeline.after(WAY_S, partial(self.lose, request))
        else:
            self.fleet.timeline.after(WAY_S, partial(self.accept, request, answer))

    def accept(self, request: Request, answer: Answer) -> None:
        """The answer is there."""
        if self.alive:
            self.agent.accept(request, answer, self.local)
            self.look()

    def lose(self, request: Request) -> None:
        """There will be no answer."""
        if self.alive:
            self.agent.lost(request, self.local)
            self.look()

    def _fetch(self) -> None:
        for task, wanted in self.fleet.backlog.items():
            if self.tasks is not None and task not in self.tasks:
                continue
            missing = wanted - self.waiting[task]
            if missing > 0:
                self._wait(task, missing)

    def _wait(self, task: TaskId, jobs: int) -> None:
        self.waiting[task] += jobs
        self.agent.wait(task, self.fleet.limits[task], weight=self.fleet.weights[task], jobs=jobs)

    def give_back(self, task: TaskId) -> None:
        """The task's jobs went elsewhere."""
        if self.waiting[task]:
            self.agent.leave(task, jobs=self.waiting.pop(task))

    def _begin(self, task: TaskId) -> None:
        slot = self.agent.take(task, self.local)
        assert slot is not None
        self.calling[task] += 1
        self.busy += 1
        self.waiting[task] -= 1
        now = self.fleet.now
        self.fleet.log.begun.append((now, task))
        reply = self.fleet.endpoints[task](now)
        self.fleet.timeline.after(reply.seconds, partial(self._end, slot, reply))
        self._fetch()

    def _end(self, slot: Slot, reply: Reply) -> None:
        if not self.alive:
            return
        now = self.local
        self.calling[slot.task] -= 1
        self.busy -= 1
        self.fleet.log.replies.append((self.fleet.now, slot.task, reply))
        self.agent.end(
            slot, now, signal=reply.signal, seconds=reply.seconds, hold=reply.hold, throttled=reply.throttled
        )
        self.agent.count(slot.task, self.fleet.limits[slot.task], reply.kind, now)
        self.look()

    def _set_alarm(self, wake_at: float) -> None:
        if self.busy < self.threads:
            wake_at = min(wake_at, self.agent.slot_after(self.local))
        # What is not due yet by this process' clock is later by the fleet's, too, however the two are rounded.
        wake_at = max(wake_at - self.offset, self.fleet.now + (ROUNDING_S if wake_at > self.local else 0.0))
        if wake_at < self._alarm:
            self._alarm = wake_at
            self.fleet.timeline.at(wake_at, partial(self._wake, wake_at))

    def _wake(self, planned: float) -> None:
        if planned == self._alarm:
            self._alarm = math.inf
            self.look()

    def _see_progress(self) -> None:
        at, looks = self._looked
        self._looked = (self.fleet.now, looks + 1 if at == self.fleet.now else 0)
        assert looks < BUSY, f"{self.name} is busy without time passing"
