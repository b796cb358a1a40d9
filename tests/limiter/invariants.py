"""What must hold of the limiter whatever happens, checked from outside: by what goes to the script and comes back.

The checker keeps books of its own on holds, probes, places, failures and orders. It knows the rule's
promises and none of its variables.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tests.limiter.fleet import Given
from tq.limits import EVERY_TASK, Limit
from tq.models import Strategy, TaskId
from tq.store.limits import Answer, Ask, Request

# Instants travel in whole microseconds, and as seconds since 1970 they are known to a quarter of one.
ROUNDING_S = 2e-6
AHEAD_S = 2.0
SOON_FREE_S = 0.1  # slots are asked for as many threads as are free within this time
LEASE_S, LONGEST_LEASE = 0.25, 100
NO_WAIT_NAMED_S = 1.0
# A step doubles the rate while it eases in after an outage. Else it is a fifth for each second of its window, or a
# bit of the ceiling where that is more.
EASING, STEP, LEAST_STEP = 2.0, 1.2, 0.0025
LONGEST_WINDOW_S = 10.0  # five, and as long again until somebody asks next
# So many failures in a row, and so long without a success, are an outage and not an accident.
DEAD_AFTER = ((40, 0.5), (10, 3.0))


@dataclass
class Task:
    """What an onlooker knows of a task."""

    held_until: float = 0.0
    probes: dict[str, float] = field(default_factory=dict)  # process → since when its probe is out
    places: dict[str, float] = field(default_factory=dict)  # place → when it is given up
    failures: int = 0
    last_ok: float = 0.0
    rate: float = 0.0
    steady_since: float = 0.0
    rises: int = 0  # since the last success
    may_leap: bool = True  # once: after an order, and from what it was before the breaker opened
    state: str = "closed"


@dataclass
class Order:
    """What an operator has ordered for a scope."""

    rate: float | None = None
    pinned: bool = False
    paused: bool = False


class Checker:
    """Looks on, and notes each violation: a word for its kind, and what was seen."""

    def __init__(self, everything: Limit, limits: dict[TaskId, Limit], *, begins_at: float = 0.0) -> None:
        self._everything = everything
        self._limits = limits
        self._tasks: dict[TaskId, Task] = defaultdict(lambda: Task(last_ok=begins_at))
        self.orders: dict[str, Order] = defaultdict(Order)
        self._instants: dict[str, list[float]] = defaultdict(list)
        self._rates: dict[str, list[float]] = defaultdict(list)  # in force from the same instants on
        self._free_from = 0.0  # no slot of any task lies after this instant
        self.violations: list[tuple[str, str]] = []
        self.seen: Counter[str] = Counter()

    # What happens

    def ordered(self, scope: str) -> None:
        """An order was given or withdrawn."""
        for task in self._limits if scope == "*" else [TaskId(scope)]:
            self._tasks[task].may_leap = True

    def executed(self, now: float, request: Request, answer: Answer) -> None:
        """An exchange was carried out, whether its answer arrives or not."""
        self._note_rate(now, "*", answer.rate)
        for task, scope in answer.scopes.items():
            self._note_rate(now, task, scope.rate)
        whole = self._in_force(self._everything, "*")
        if not whole.floor - ROUNDING_S <= answer.rate <= whole.ceiling + ROUNDING_S:
            self._violated("bounds", f"{answer.rate} of everything is not within {whole}")
        for ask in request.tasks:
            self._hear(now, request.process, ask, answer)
        self._look_at_lease(now, request, answer)
        for ask in request.tasks:
            self._look_at_rate(now, ask, answer, whole)

    def crashed(self, now: float, in_hand: Sequence[Given], *, threads: int) -> None:
        """A process is gone with the slots that it had in hand."""
        if not in_hand:
            return
        self.seen["crashes with slots in hand"] += 1
        whole = in_hand[-1].whole
        if len(in_hand) > threads + SOON_FREE_S * whole + 1:
            self._violated(
                "crash", f"{len(in_hand)} slots were lost with a process of {threads} threads at {whole}/s"
            )
        if max(slot.at for slot in in_hand) > now + AHEAD_S + 1 / whole + ROUNDING_S:
            self._violated("crash", f"slots were lost for more than {AHEAD_S} s")

    def finished(self, given: Sequence[Given]) -> None:
        """All is over; these slots were given."""
        self._look_at_distances("*", given)
        for task in self._limits:
            self._look_at_distances(task, [slot for slot in given if slot.task == task])

    # What it means

    def _hear(self, now: float, process: str, ask: Ask, answer: Answer) -> None:
        task, scope = self._tasks[ask.task], answer.scopes[ask.task]
        for report in ask.reports:
            if report.ok:
                task.failures, task.last_ok, task.rises = 0, now, 0
            else:
                task.failures += report.overload + report.error
            if report.hold >= 0:
                task.held_until = max(task.held_until, now + (report.hold or NO_WAIT_NAMED_S))
            if report.probe:
                task.probes.pop(process, None)
        for place in ask.ended_places:
            task.places.pop(place, None)
        self.seen[scope.state] += 1
        if task.state == "half_open" and scope.state == "closed":
            task.failures, task.may_leap = 0, True
        dead = any(task.failures >= row and now - task.last_ok >= seconds for row, seconds in DEAD_AFTER)
        if scope.state == "closed" and dead and any(r.overload + r.error for r in ask.reports):
            self._violated(
                "dead", f"{ask.task} failed {task.failures} times in a row, and its breaker is closed"
            )
        if scope.state in ("closed", "open", "half_open"):
            task.state = scope.state

    def _look_at_lease(self, now: float, request: Request, answer: Answer) -> None:
        leases = Counter(grant.task for grant in answer.grants)
        most = min(request.slots, LONGEST_LEASE, max(1, int(answer.rate * LEASE_S)))
        if len(answer.grants) > max(0, most):
            self._violated(
                "lease", f"{len(answer.grants)} slots at {answer.rate}/s, {request.slots} asked for"
            )
        for ask in request.tasks:
            slots, scope, task = leases[ask.task], answer.scopes[ask.task], self._tasks[ask.task]
            if not slots:
                continue
            self.seen["grants"] += slots
            # Behind slots of other tasks what a task gets has to last until its process asks again.
            lasts = LEASE_S + max(0.0, self._free_from - now)
            if slots > min(ask.slots, math.ceil(scope.rate * lasts)):
                self._violated(
                    "lease", f"{slots} slots of {ask.task} at {scope.rate}/s, {ask.slots} asked for"
                )
            if self.orders["*"].paused or self.orders[ask.task].paused:
                self._violated("pause", f"{slots} slots of {ask.task} in its pause")
            if scope.state == "open":
                self._violated("open", f"{slots} slots of {ask.task} while its breaker is open")
            if now < task.held_until - ROUNDING_S:
                self._violated(
                    "hold", f"{slots} slots of {ask.task} {task.held_until - now} s before its hold ends"
                )
            self._look_at_slots(now, request.process, ask, answer)
        for grant in answer.grants:
            self._free_from = max(self._free_from, now + grant.delay + 1.03 / answer.rate)

    def _look_at_slots(self, now: float, process: str, ask: Ask, answer: Answer) -> None:
        task, scope = self._tasks[ask.task], answer.scopes[ask.task]
        limit = self._limits[ask.task]
        for grant in answer.grants:
            if grant.task != ask.task:
                continue
            if grant.delay < 0:
                self._violated("past", f"a slot of {ask.task} {grant.delay} s from now")
            if grant.delay > AHEAD_S + 1 / answer.rate + ROUNDING_S:
                self._violated(
                    "ahead", f"a slot of {ask.task} {grant.delay} s from now at {answer.rate}/s of all"
                )
            if (scope.state == "half_open") != grant.probe:
                self._violated("probe", f"a slot of {ask.task}, {scope.state}, is a probe: {grant.probe}")
            if grant.probe:
                self.seen["probes"] += 1
                out = [since for since in task.probes.values() if now - since <= limit.patience]
                if out:
                    self._violated("probe", f"a probe of {ask.task} beside those since {out}, now {now}")
                task.probes[process] = now
            if limit.concurrency:
                if not grant.place or grant.place in task.places:
                    self._violated("place", f"{grant.place!r} of {ask.task} is none, or somebody's already")
                task.places[grant.place] = now + grant.delay + limit.patience
                taken = sum(1 for until in task.places.values() if until > now)
                if taken > limit.concurrency:
                    self._violated("place", f"{taken} places of {limit.concurrency} are taken at {ask.task}")

    def _look_at_rate(self, now: float, ask: Ask, answer: Answer, whole: Limit) -> None:
        task, scope = self._tasks[ask.task], answer.scopes[ask.task]
        limit = self._in_force(self._limits[ask.task], ask.task, whole)
        if not limit.floor * (1 - 1e-9) <= scope.rate <= limit.ceiling * (1 + 1e-9):
            self._violated("bounds", f"{scope.rate} of {ask.task} is not within {limit}")
        if limit.strategy is not Strategy.ADAPTIVE or self.orders[ask.task].pinned:
            return
        # The window that heard of the last success may still end, and raise the rate by one step.
        rises = scope.rate > task.rate * (1 + 1e-9)
        if rises and not task.may_leap:
            task.rises += 1
            seconds = min(now - task.steady_since, LONGEST_WINDOW_S)
            most = max(
                EASING * task.rate,
                task.rate * STEP**seconds,
                task.rate + LEAST_STEP * limit.ceiling * seconds,
            )
            if scope.rate > most * (1 + 1e-6):
                self._violated("rise", f"{task.rate} to {scope.rate} of {ask.task} at once, most is {most}")
            if task.rises > 1:
                self._violated(
                    "rise", f"{task.rate} to {scope.rate} of {ask.task} on {task.failures} failures"
                )
        if scope.rate != task.rate:
            task.rate, task.steady_since = scope.rate, now
        task.may_leap = task.may_leap and not rises

    def _look_at_distances(self, scope: str, given: Sequence[Given]) -> None:
        """At most rate x t + 1 slots in any time t, the rate being the highest that was in force meanwhile.

        Those of a task may lie closer by one slot of all tasks, among which they have to find their place.

        That holds for every interval if it holds for two neighbours; longer ones are looked at, too,
        lest what is forgiven as rounding adds up.
        """
        slots = sorted(given, key=lambda slot: slot.at)
        for slot, following in pairwise(slots):
            highest = self._highest(scope, [slot, following])
            apart = following.at - slot.at + self._play(scope, [slot, following])
            if apart < (1 - 2e-3) / highest - ROUNDING_S:
                self._violated("burst", f"{scope}: {apart} s between two slots at {highest}/s")
        for length in (10, 100, 1000):
            for first in range(0, len(slots) - length, length // 10):
                part = slots[first : first + length]
                seconds, highest = part[-1].at - part[0].at, self._highest(scope, part)
                seconds += self._play(scope, part)
                if length > highest * seconds * 1.003 + 1.01:
                    self._violated("burst", f"{scope}: {length} slots in {seconds} s at {highest}/s")

    @staticmethod
    def _play(scope: str, slots: Sequence[Given]) -> float:
        return 0.0 if scope == EVERY_TASK else 1.03 / min(slot.whole for slot in slots)

    def _highest(self, scope: str, slots: Sequence[Given]) -> float:
        """The highest rate that was in force while these slots were given."""
        instants, rates = self._instants[scope], self._rates[scope]
        first = bisect_left(instants, min(slot.given_at for slot in slots)) - 1
        last = bisect_right(instants, max(slot.given_at for slot in slots))
        return max(rates[max(0, first) : last])

    def _note_rate(self, now: float, scope: str, rate: float) -> None:
        rates = self._rates[scope]
        if not rates or rates[-1] != rate:
            self._instants[scope].append(now)
            rates.append(rate)

    def _in_force(self, limit: Limit, scope: str, whole: Limit | None = None) -> Limit:
        order = self.orders[scope]
        if order.rate is not None:
            floor = order.rate if order.pinned else min(order.rate, limit.floor)
            return replace(limit, floor=floor, ceiling=order.rate)
        if whole is None:
            return limit
        rates = limit if limit.own else whole
        return replace(
            limit,
            floor=min(rates.floor, limit.floor),
            ceiling=max(limit.floor, min(rates.ceiling, whole.ceiling)),
        )

    def _violated(self, kind: str, what: str) -> None:
        self.violations.append((kind, what))


def kinds(violations: Iterable[tuple[str, str]]) -> set[str]:
    """Which invariants were violated."""
    return {kind for kind, _ in violations}
