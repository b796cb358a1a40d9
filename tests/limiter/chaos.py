"""A random life of the limiter: everything that can go wrong goes wrong, and an onlooker keeps books.

What happens depends on the seed alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from random import Random

from tests.limiter.fleet import BUSY_NOW, FINE, Fleet, Given, Process, Reply, adaptive, virtual_store
from tests.limiter.invariants import Checker, Order
from tq.bench.timeline import Timeline
from tq.limits import Signal
from tq.models import TaskId
from tq.store import Store
from tq.store.limits import Answer, Request

PROCESSES = 4
LOST = 0.02
MODES = ("ok", "ok", "half", "dead", "dead", "throttled", "busy", "slow", "slow", "errors")
CEILINGS = (0.5, 2.0, 8.0, 40.0, 150.0, 600.0, 600.0, 2500.0)
Prepare = Callable[[Store], None]


@dataclass
class Life:
    """What one random run came to."""

    given: list[Given]
    violations: list[tuple[str, str]]
    seen: Counter[str]


def live(url: str, seed: int, *, grants: int = 3000, prepare: Prepare = lambda _: None) -> Life:
    """Goes on until so many slots were given, or long enough in virtual time for a slow limit."""
    random = Random(seed)
    timeline = Timeline()
    with closing(virtual_store(url, timeline)) as store:
        prepare(store)
        fleet = _Chaos(store, timeline, random)
        while len(fleet.log.given) < grants and timeline.seconds < fleet.longest_s:
            fleet.run(1.0)
        fleet.checker.finished(fleet.log.given)
        return Life(fleet.log.given, fleet.checker.violations, fleet.checker.seen)


class _Chaos(Fleet):
    def __init__(self, store: Store, timeline: Timeline, random: Random) -> None:
        self.random = random
        ceiling = random.choice(CEILINGS)
        super().__init__(store, timeline, adaptive(ceiling))
        self.longest_s = 90 + 150 / ceiling
        self.modes: dict[TaskId, str] = {}
        for number in range(random.randint(1, 3)):
            self._add_task(f"task-{number}", ceiling)
        self.checker = Checker(self.everything, self.limits)
        for _ in range(PROCESSES):
            self._start_one()
        self._again(8, self._change_mode)
        self._again(4, self._change_demand)
        self._again(15, self._crash_one)
        self._again(10, self._jump_one)
        if random.random() < 0.6:
            self._again(15, self._give_order)

    def exchange(self, request: Request) -> Answer:
        if self.random.random() < LOST:
            for ask in request.tasks:
                ask.reports = [report for report in ask.reports if self.random.random() < 0.5]
        answer = self.store.limits.exchange(request)
        self.checker.executed(self.now, request, answer)
        self.note(request, answer)
        self.tell(answer.events)
        return answer

    def tell(self, events: Iterable[tuple[str, int | None]]) -> None:
        super().tell([event for event in events if self.random.random() >= LOST])

    def _add_task(self, name: str, ceiling: float) -> None:
        random = self.random
        own = ceiling * random.choice([0.05, 0.3, 1.0, 1.0, 2.0])
        concurrency = random.choice([0, 0, 1, 3, 20])
        limit = adaptive(own, concurrency=concurrency, patience=random.choice([2.0, 5.0, 10.0]))
        task = self.task(
            name,
            limit,
            weight=random.choice([1, 4, 16]),
            endpoint=lambda _, name=name: self._reply(TaskId(name)),  # type: ignore[misc]
            backlog=random.choice([1, 8, 40]),
        )
        self.modes[task] = "ok"

    def _reply(self, task: TaskId) -> Reply:
        random = self.random
        seconds = random.lognormvariate(math.log(0.05), 0.5)
        just_too_late = 1.1 * self.limits[task].patience
        match self.modes[task]:
            case "half" if random.random() < 0.5:
                return BUSY_NOW
            case "dead":
                seconds = random.choice([0.002, 0.01, 1.0, just_too_late])
                return Reply(random.choice([Signal.OVERLOAD, Signal.ERROR]), seconds)
            case "throttled" if random.random() < 0.1:
                return Reply(
                    Signal.OVERLOAD, seconds, hold=random.choice([0.0, 0.3, 2.0, 6.0]), throttled=True
                )
            case "busy" if random.random() < 0.1:
                return Reply(Signal.OVERLOAD, seconds, hold=random.choice([0.5, 3.0]))
            case "slow":
                return Reply(Signal.OK, random.choice([seconds * 30, just_too_late]))
            case "errors" if random.random() < 0.3:
                return Reply(Signal.ERROR, seconds)
        return Reply(FINE.signal, seconds)

    # What goes wrong

    def _again(self, every_s: float, happen: Callable[[], None]) -> None:
        def happens() -> None:
            happen()
            self.timeline.after(self.random.expovariate(1 / every_s), happens)

        self.timeline.after(self.random.expovariate(1 / every_s), happens)

    def _change_mode(self) -> None:
        self.modes[self.random.choice(list(self.modes))] = self.random.choice(MODES)

    def _change_demand(self) -> None:
        task = self.random.choice(list(self.limits))
        self.backlog[task] = self.random.choice([0, 1, 8, 40])
        for process in self.processes:
            if not self.backlog[task] and process.alive:
                process.give_back(task)
            process.look()

    def _crash_one(self) -> None:
        alive = [process for process in self.processes if process.alive]
        if not alive:
            return
        process = self.random.choice(alive)
        process.crash()
        in_hand = [
            slot for slot in self.log.given[-1000:] if slot.process == process.name and slot.at > self.now
        ]
        self.checker.crashed(self.now, in_hand, threads=process.threads)
        self.timeline.after(self.random.random() * 2, self._start_one)

    def _start_one(self) -> None:
        process = _Unlucky(self, f"process-{len(self.processes)}", self.random.choice([1, 4, 16, 64]))
        process.offset = self.random.uniform(0, 1e6)
        self.processes.append(process)
        process.look()

    def _jump_one(self) -> None:
        process = self.random.choice(self.processes)
        process.jump(self.random.choice([0.03, 0.5, 3.0, 60.0, 86400.0]))

    def _give_order(self) -> None:
        scope = self.random.choice([*self.limits, "*"])
        order = self.checker.orders[scope]
        configured = self.everything if scope == "*" else self.limits[TaskId(scope)]
        match self.random.choice(["rate", "pin", "reset", "pause", "resume", "resume"]):
            case "rate" | "pin" as kind:
                order.rate = configured.ceiling * self.random.choice([0.1, 0.5, 1.5])
                order.pinned = kind == "pin"
                give = partial(_set_rate, order=order, scope=scope)
            case "reset":
                order.rate, order.pinned = None, False
                give = partial(_reset, scope=scope)
            case "pause":
                order.paused = True
                give = partial(_pause, scope=scope)
            case _:
                order.paused = False
                give = partial(_resume, scope=scope)
        self.checker.ordered(scope)
        self.order(give, scope)


def _set_rate(store: Store, *, order: Order, scope: str) -> None:
    store.orders.set_rate(scope, order.rate or 0.0, pinned=order.pinned)


def _reset(store: Store, *, scope: str) -> None:
    store.orders.reset_rate(scope)


def _pause(store: Store, *, scope: str) -> None:
    store.orders.pause(scope)


def _resume(store: Store, *, scope: str) -> None:
    store.orders.resume(scope)


class _Unlucky(Process):
    """A process on a bad network: some exchanges do not arrive, and of some no answer does."""

    def ask(self, request: Request) -> None:
        chaos = self._chaos
        chaos.timeline.after(
            chaos.random.choice([0.0005, 0.0005, 0.003, 0.2]), partial(self._exchange, request)
        )

    def _exchange(self, request: Request) -> None:
        chaos, random = self._chaos, self._chaos.random
        if not self.alive:
            return
        back_s = random.choice([0.0005, 0.0005, 0.003, 0.2])
        if random.random() < LOST / 2:
            chaos.timeline.after(back_s, partial(self.lose, request))
            return
        answer = chaos.exchange(request)
        arrives = random.random() >= LOST / 2
        then = partial(self.accept, request, answer) if arrives else partial(self.lose, request)
        chaos.timeline.after(back_s, then)

    @property
    def _chaos(self) -> _Chaos:
        assert isinstance(self.fleet, _Chaos)
        return self.fleet
