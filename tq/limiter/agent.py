"""A process' side of the limiter: which slots are in hand, what there is to report, when to ask again.

No clock, no threads, no Redis: instants are handed in, in seconds of any clock that never goes
back. `Limiter` puts threads and Redis around it, the simulation virtual ones.

Slots are asked for ahead of time and many at once, outcomes ride along. An exchange is due when the
last slot in hand is, and then a little later (`LINGER_S`), so that more jobs share it: at 100 calls
a second eight processes need some ten exchanges for a hundred calls.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from tq.limits import EVERY_TASK, KINDS, Kind, Limit, Signal
from tq.models import TaskId
from tq.store.limits import Answer, Ask, Report, Request, State

LINGER_S = 0.25
FLUSH_S = 0.75  # outcomes wait for so long for an exchange that would take them along
URGENT_EVERY_S = 0.1
BREATH_S = 0.01  # between the exchanges of a process that makes calls by the hundred a second
FEW_CALLS = 4
FAILURES_TO_TELL = 5  # in a row; then it is time that all others know
KEEP_ALIVE_S = 5.0
# A slot that nobody could use in time is let go: used late, it would come on top of later ones. What
# this adds up to in one second is within the twentieth that the ceiling allows for.
STALE_S = 0.04
# Slots that are due and unused, at low rates; at high ones it may be more.
MOST_DUE = 32
# Threads that will be free within this time are counted as free.
ANTICIPATED_S = 0.1
ASK_AGAIN_S = 0.05
MOST_TASKS = 50  # in one exchange: it keeps the script below a millisecond
# A task that is called steadily has some slots in hand for jobs to come, as many as will be used while they are
# good, as long as slots are to be had at once: one that goes to waste then is missed by nobody.
MOST_SPARE = 4
SPARE_FOR_S = STALE_S / 2
SPARE_LATER_S = 0.002  # after a call has begun, so that what is needed now goes first
AT_ONCE_S = 0.001
DRIFT = 0.2  # of how far apart calls are known to be, by the latest two
# Of all calls that there may be in a second, how many may be later than others are: where calls are far fewer than
# that, one that was held up need not queue again.
LATE_SHARE = 0.01
REDIS_AGAIN_S = 1.0
AWAY_SHARE = 0.5
PACE_OVER_S = 5.0
PROBE_PACE = 0.2  # calls per second of a task that is held: probes, or none


class Slot(NamedTuple):
    """Leave for one call of a task, from an instant on."""

    task: TaskId
    due: float
    epoch: int = 0
    probe: bool = False
    place: str = ""


@dataclass(slots=True)
class _Line:
    """What this process knows of a task, and the jobs of it that wait here."""

    limit: Limit
    weight: int = 1
    waiting: int = 0
    in_use: int = 0
    slots: deque[Slot] = field(default_factory=deque)
    latest_due: float = -math.inf  # of all slots that there were
    ask_at: float = 0.0
    rate: float = 0.0
    state: State = "closed"
    outage: tuple[float, float] | None = None
    unused: int = 0
    ended_places: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    reports: dict[tuple[int, bool], Report] = field(default_factory=dict)
    failures: int = 0
    paced_until: float = 0.0
    held_until: float = 0.0  # by a wait that the endpoint asked for
    pace: float = 0.0  # calls begun per second over the last seconds, at `pace_at`
    pace_at: float = 0.0
    apart: float = math.inf  # seconds between two calls, as of late
    is_ample: bool = False  # whether all slots of the last answer were to be had at once

    @property
    def owes(self) -> bool:
        """Whether others wait for what is to be given back: a place, or the leave to probe."""
        return bool(self.ended_places) or any(report.is_unused_probe for report in self.reports.values())

    @property
    def unserved(self) -> int:
        return self.waiting - len(self.slots)

    def wanted(self, now: float) -> int:
        """How many slots would be of use beyond those in hand."""
        return self.unserved if self.waiting or self.slots else self._spare(now)

    def wanted_at(self, now: float) -> float:
        """From when on slots are to be asked for; infinite if none are wanted."""
        self.drop_stale(now)
        if self.unserved > 0:
            return self.ask_at
        # What is not needed yet lets that pass which is.
        return max(self.ask_at, self.pace_at + SPARE_LATER_S) if self.wanted(now) > 0 else math.inf

    def _spare(self, now: float) -> int:
        is_called = now - self.pace_at <= STALE_S
        if not (is_called and self.is_ample and self.state == "closed") or self.limit.concurrency:
            return 0
        return min(MOST_SPARE, int(SPARE_FOR_S / max(self.apart, SPARE_FOR_S / MOST_SPARE)))

    @property
    def has_news(self) -> bool:
        return bool(self.reports or self.counts or self.ended_places or self.unused)

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.in_use or self.slots or self.has_news)

    def report(self, epoch: int, *, probe: bool) -> Report:
        report = self.reports.get((epoch, probe))
        if report is None:
            report = self.reports[epoch, probe] = Report(epoch, probe)
        return report

    def pace_now(self, now: float) -> float:
        return self.pace * math.exp((self.pace_at - now) / PACE_OVER_S)

    def count_begin(self, now: float) -> None:
        if self.pace_at:
            apart = now - self.pace_at
            self.apart = apart if self.apart == math.inf else self.apart + (apart - self.apart) * DRIFT
        self.pace, self.pace_at = self.pace_now(now) + 1 / PACE_OVER_S, now

    def due(self, now: float) -> int:
        """How many slots could be used at once; those that are stale have been let go of."""
        if self.latest_due <= now:
            return len(self.slots)
        return sum(now - STALE_S <= slot.due <= now for slot in self.slots)

    def drop_stale(self, now: float) -> None:
        """Lets go of slots that were not used in time."""
        while self.slots and self.slots[0].due < now - STALE_S and not self.slots[0].probe:
            self.let_go(self.slots.popleft())

    def add(self, slot: Slot) -> None:
        self.slots.append(slot)
        self.latest_due = max(self.latest_due, slot.due)

    def let_go(self, slot: Slot) -> None:
        """Gives back a slot that no call was made with."""
        self.unused += 1
        if slot.place:
            self.ended_places.append(slot.place)
        if slot.probe:
            self.report(slot.epoch, probe=True)


class Agent:
    """Slots and outcomes of one process. Not thread-safe."""

    def __init__(self, process: str, everything: Limit) -> None:
        self.process = process
        self.everything = everything
        self.threads = 1
        self.rate = everything.base
        self.processes = 1
        self._lines: OrderedDict[TaskId, _Line] = OrderedDict()
        self._exchanging = False
        self._is_away = False
        self._told: list[tuple[str, int | None]] = []  # by events, since an exchange began
        self._last_due = -math.inf
        self._linger = 0.0
        self._flush_at = math.inf
        self._urgent = False
        self._told_at = -math.inf
        self._again_at = -math.inf  # no exchange before, after one that failed
        self._exchanged_at = -math.inf
        self._pace, self._pace_at = 0.0, 0.0
        self._paced_until = 0.0
        self._late, self._late_at = 0.0, 0.0  # of what may be late, how much has been lately

    # Jobs that wait

    def wait(self, task: TaskId, limit: Limit, *, weight: int = 4, jobs: int = 1) -> None:
        """So many more jobs of the task wait here."""
        line = self._line(task, limit)
        line.weight = weight if not line.waiting else max(weight, line.weight)
        line.waiting += jobs

    def leave(self, task: TaskId, *, jobs: int = 1) -> None:
        """So many waiting jobs of the task went elsewhere."""
        line = self._lines[task]
        line.waiting -= jobs
        while line.unserved < 0 and line.slots:
            line.let_go(line.slots.pop())

    def expected_wait(self, task: TaskId, now: float) -> float:
        """Seconds until the next slot of the task may be had; 0 if one is in hand."""
        line = self._lines.get(task)
        if line is None or line.slots:
            return 0.0
        return max(0.0, line.ask_at - now)

    def pace_of(self, task: TaskId, now: float) -> float:
        """Calls per second that this process may expect for the task, with the others calling it, too."""
        line = self._lines.get(task)
        if line is None:
            return self.rate
        if line.state != "closed":
            return PROBE_PACE
        allowed = min(self.rate, line.rate) / max(1, self.processes)
        # Where calls at a time are limited, the rate says little: what they take says how many there will be.
        return min(allowed, max(line.pace_now(now), PROBE_PACE)) if line.limit.concurrency else allowed

    def horizon(self, task: TaskId, seconds: float, now: float) -> int:
        """How many waiting jobs of a task may expect to begin within this time."""
        left = seconds - self.expected_wait(task, now)
        line = self._lines.get(task)
        # Who has none to offer never asks; and whoever ends a call should find the next one here.
        least = 2 * line.limit.concurrency if line is not None and line.limit.concurrency else 1
        return max(least, int(left * self.pace_of(task, now))) if left > 0 else 0

    def outage_of(self, task: TaskId) -> tuple[float, float] | None:
        """The task's last outage, in Unix seconds by Redis' clock."""
        line = self._lines.get(task)
        return line.outage if line else None

    # Calls

    def has_slot(self, task: TaskId, now: float) -> bool:
        """Whether a waiting job of the task may begin now."""
        line = self._lines.get(task)
        return line is not None and line.waiting > 0 and self._due_slot(line, now)

    def slots_due(self, task: TaskId, now: float) -> int:
        """How many waiting jobs of the task may begin now, one after the other."""
        line = self._lines.get(task)
        if line is None:
            return 0
        line.drop_stale(now)
        if line.latest_due <= now:
            return min(line.waiting, len(line.slots))
        return min(line.waiting, sum(1 for _ in takewhile(lambda slot: slot.due <= now, line.slots)))

    def ready(self, now: float) -> list[TaskId]:
        """The tasks of which a job may begin now."""
        return [task for task in self._lines if self.has_slot(task, now)]

    def take(self, task: TaskId, now: float) -> Slot | None:
        """A slot of the task that is due: one waiting job becomes a call."""
        line = self._lines.get(task)
        if line is None or not line.waiting or not self._due_slot(line, now):
            return None
        slot = line.slots.popleft()
        line.waiting -= 1
        line.in_use += 1
        self._pace = self._pace_now(now) + 1
        self._pace_at = now
        line.count_begin(now)
        return slot

    def may_be_late(self, task: TaskId, now: float) -> bool:
        """Whether one more call may begin long after its slot; it counts as having begun then.

        This process' part of `LATE_SHARE` each second, and as many at once, so that the calls of any second stay
        within the ceiling's twentieth.
        """
        line = self._lines.get(task)
        if line is None or line.state != "closed" or self._is_away:
            return False
        allowed = LATE_SHARE * min(self.rate, line.rate) / max(1, self.processes)
        late = max(0.0, self._late - allowed * (now - self._late_at))
        if late + 1 > allowed:
            return False
        self._late, self._late_at = late + 1, now
        return True

    def end(
        self,
        slot: Slot,
        now: float,
        *,
        signal: Signal | None,
        seconds: float = 0.0,
        hold: float | None = None,
        throttled: bool = False,
    ) -> None:
        """A call has ended, or was not made (no signal).

        `hold` is the wait that the endpoint asked for, `throttled` whether because a quota is used up.
        """
        self.learn(slot, now, signal=signal, seconds=seconds, hold=hold, throttled=throttled)
        self.release(slot)

    def learn(
        self,
        slot: Slot,
        now: float,
        *,
        signal: Signal | None,
        seconds: float = 0.0,
        hold: float | None = None,
        throttled: bool = False,
    ) -> None:
        """What the call says about the endpoint; its thread is still busy with it."""
        line = self._lines[slot.task]
        if signal is None:
            line.unused += 1
        report = line.report(slot.epoch, probe=slot.probe)
        match signal:
            case Signal.OK:
                report.ok += 1
                report.seconds += seconds
                line.failures = 0
            case Signal.OVERLOAD:
                report.overload += 1
                line.failures += 1
            case Signal.ERROR:
                report.error += 1
                line.failures += 1
            case None:
                pass
        if hold is not None:
            report.hold = max(report.hold, hold)
            report.throttled = report.throttled or throttled
            self._void(line)
            line.ask_at = line.held_until = max(line.ask_at, now + hold)
        if slot.probe or hold is not None or line.failures >= FAILURES_TO_TELL:
            self._urgent = True
        self._flush_at = min(self._flush_at, now + FLUSH_S)

    def release(self, slot: Slot) -> None:
        """The call's thread is free, and its place."""
        line = self._lines[slot.task]
        line.in_use -= 1
        if slot.place:
            line.ended_places.append(slot.place)
            # Where places are few, whoever waits for one waits for this.
            line.ask_at = min(line.ask_at, 0.0)
            self._last_due = -math.inf

    def count(self, task: TaskId, limit: Limit, kind: Kind, now: float) -> None:
        """One more call of the task came out like this."""
        line = self._line(task, limit)
        if not line.counts:
            line.counts = [0] * len(KINDS)
        line.counts[KINDS.index(kind)] += 1
        self._flush_at = min(self._flush_at, now + FLUSH_S)

    # Exchanges

    def slot_at(self) -> float:
        """When the first slot in hand is due, perhaps in the past; infinite if there is none."""
        return min(
            (line.slots[0].due for line in self._lines.values() if line.waiting and line.slots),
            default=math.inf,
        )

    def slot_after(self, now: float) -> float:
        """When the next slot is due after this instant."""
        later = (
            slot.due
            for line in self._lines.values()
            # At high rates hundreds are due already, and this is asked for each of them.
            if line.waiting and line.latest_due > now
            for slot in line.slots
            if slot.due > now
        )
        return min(later, default=math.inf)

    def exchange_at(self, now: float) -> float:
        """When the next exchange is wanted, as things stand now; infinite if none is."""
        if self._exchanging:
            return math.inf
        at = hungry = math.inf
        has_to_tell, is_at_work = self._urgent, False
        for line in self._lines.values():
            hungry = min(hungry, line.wanted_at(now))
            has_to_tell = has_to_tell or line.owes
            is_at_work = is_at_work or line.waiting > 0 or line.in_use > 0
        # Threads that are busy need no slots; the first one to be free brings the question up again.
        if hungry < math.inf and self._free(now) > 0:
            at = max(hungry, self._last_due + self._linger)
            # Where slots are due as soon as they are asked for, nothing else would keep questions apart.
            at = max(at, self._exchanged_at + BREATH_S) if self.is_busy(now) else at
        if has_to_tell:
            at = min(at, self._told_at + URGENT_EVERY_S)
        # If a question is due soon after, outcomes go with it.
        if self._flush_at + LINGER_S < at:
            at = self._flush_at
        if is_at_work:
            at = min(at, self._exchanged_at + KEEP_ALIVE_S)
        return max(at, self._again_at)

    def is_busy(self, now: float) -> bool:
        """Whether several calls begin in the time between two questions."""
        return self._pace_now(now) * BREATH_S > FEW_CALLS

    def request(self, now: float) -> Request | None:
        """What to tell and ask now; None if that can wait."""
        if now < self.exchange_at(now):
            return None
        if self._urgent or any(line.owes for line in self._lines.values()):
            self._urgent, self._told_at = False, now
        free = self._free(now)
        asks = [self._ask(task, line, free, now) for task, line in self._in_turn()]
        self._exchanging = True
        self._exchanged_at = now
        self._flush_at = math.inf
        return self._request(free, asks)

    def accept(self, request: Request, answer: Answer, now: float) -> None:
        """Takes in what an exchange has brought."""
        self._exchanging = False
        self.rate, self.processes = answer.rate, answer.processes
        if self._is_away:
            # Redis knows nothing of the slots that were made up without it.
            self._is_away = False
            for line in self._lines.values():
                self._void(line)
        served: Counter[TaskId] = Counter()
        latest: dict[TaskId, float] = {}
        for task, delay, of_epoch, probe, place in answer.grants:
            self._lines[task].add(Slot(task, now + delay, of_epoch, probe, place))
            served[task] += 1
            latest[task] = max(delay, latest.get(task, delay))
        if served:
            lead = answer.grants[0].delay
            # The task that gets the most tells: a slow one, with a slot far ahead, must not hold up the others.
            [(most, _)] = served.most_common(1)
            self._last_due = now + latest[most]
            self._linger = min(LINGER_S, lead / 2)
        for ask in request.tasks:
            line, scope = self._lines[ask.task], answer.scopes[ask.task]
            line.rate, line.state, line.outage = scope.rate, scope.state, scope.outage
            if scope.state == "held":
                line.held_until = max(line.held_until, now + scope.wait)
            self._void(line, before=scope.epoch)
            if ask.slots:
                line.is_ample = latest.get(ask.task, math.inf) <= AT_ONCE_S
                line.ask_at = now + (scope.wait or (0.0 if ask.task in served else ASK_AGAIN_S))
            if line.is_idle:
                del self._lines[ask.task]
        # What was told since the question may be news to its answer.
        told, self._told = self._told, []
        for scope_name, epoch in told:
            known = answer.scopes.get(TaskId(scope_name))
            if epoch is None or known is None or epoch > known.epoch:
                self.heard(scope_name, epoch, now)

    def lost(self, request: Request, now: float) -> None:
        """An exchange failed: what it was to tell is kept, and until the next one calls are paced from memory."""
        self._exchanging, self._is_away = False, True
        self._told = []
        self._again_at = now + REDIS_AGAIN_S
        for ask in request.tasks:
            line = self._lines[ask.task]
            line.unused += ask.unused
            line.ended_places += ask.ended_places
            if line.counts and ask.counts:
                line.counts = [a + b for a, b in zip(ask.counts, line.counts, strict=True)]
            else:
                line.counts = line.counts or ask.counts
            for kept in ask.reports:
                report = line.report(kept.epoch, probe=kept.probe)
                report.ok += kept.ok
                report.overload += kept.overload
                report.error += kept.error
                report.seconds += kept.seconds
                report.hold = max(report.hold, kept.hold)
                report.throttled = report.throttled or kept.throttled
        self._flush_at = self._again_at
        self._pace_from_memory(now)

    def farewell(self) -> Request:
        """The last that there is to tell; slots in hand are given back."""
        asks = []
        for task, line in self._lines.items():
            self._void(line)
            for slot in line.slots:
                line.let_go(slot)
            line.slots.clear()
            line.waiting = line.in_use = 0
            if line.has_news:
                asks.append(self._ask(task, line, 0, math.inf))
        return self._request(0, asks)

    def heard(self, scope: str, epoch: int | None, now: float) -> None:
        """A scope has changed: slots of epochs before this one are void, all of them if none is named."""
        if self._exchanging:
            self._told.append((scope, epoch))
        lines = [line for task, line in self._lines.items() if scope in (task, EVERY_TASK)]
        for line in lines:
            self._void(line, before=epoch)
            line.ask_at = now
        if lines:
            self._last_due = min(self._last_due, now)
            self._linger = 0.0

    # Within

    def _request(self, slots: int, asks: list[Ask]) -> Request:
        waiting = sum(line.waiting for line in self._lines.values())
        in_use = sum(line.in_use for line in self._lines.values())
        return Request(self.process, self.everything, slots, asks, waiting, in_use)

    def _line(self, task: TaskId, limit: Limit) -> _Line:
        line = self._lines.get(task)
        if line is None:
            line = self._lines[task] = _Line(limit, rate=limit.base)
        line.limit = limit
        return line

    @staticmethod
    def _due_slot(line: _Line, now: float) -> bool:
        line.drop_stale(now)
        return bool(line.slots) and line.slots[0].due <= now

    @staticmethod
    def _void(line: _Line, *, before: int | None = None) -> None:
        kept: deque[Slot] = deque()
        for slot in line.slots:
            if slot.probe or (before is not None and slot.epoch >= before):
                kept.append(slot)
            else:
                line.let_go(slot)
        line.slots = kept

    def _pace_now(self, now: float) -> float:
        """Calls begun per second, as of late."""
        return self._pace * math.exp(self._pace_at - now)

    def _free(self, now: float) -> int:
        """Slots that this process could use beyond those in hand."""
        pace, busy = self._pace_now(now), 0
        for line in self._lines.values():
            line.drop_stale(now)  # also where no job waits any more
            busy += line.in_use + len(line.slots)
        free = self.threads + round(pace * ANTICIPATED_S) - busy
        if free <= 0:
            return 0
        # Where it has more of them due than it comes to use, they would only go stale.
        due = sum(line.due(now) for line in self._lines.values() if line.slots)
        most = max(MOST_DUE, round(pace * STALE_S))
        return min(free, most - due) if due <= most // 2 else 0

    def _in_turn(self) -> Iterator[tuple[TaskId, _Line]]:
        """The tasks of one exchange; those that were left out come first the next time."""
        chosen = [task for task, line in self._lines.items() if line.waiting or line.in_use or line.has_news][
            :MOST_TASKS
        ]
        for task in chosen:
            self._lines.move_to_end(task)
            yield task, self._lines[task]

    def _ask(self, task: TaskId, line: _Line, free: int, now: float) -> Ask:
        wanted = min(free, max(0, line.wanted(now))) if line.ask_at <= now else 0
        ask = Ask(
            task,
            line.limit,
            wanted,
            line.weight,
            line.waiting,
            line.in_use,
            unused=line.unused,
            ended_places=line.ended_places,
            counts=line.counts,
            reports=list(line.reports.values()),
        )
        line.unused, line.ended_places, line.counts, line.reports = 0, [], [], {}
        return ask

    def _pace_from_memory(self, now: float) -> None:
        """Slots until Redis is asked again: half of what it last allowed, shared by all processes."""
        processes = max(1, self.processes)
        whole = min(self.rate, self.everything.ceiling * AWAY_SHARE) / processes
        for task, line in self._lines.items():
            is_over = line.state == "held" and line.held_until <= now
            if line.limit.concurrency or line.held_until > now or line.ask_at > now:
                continue
            if line.state != "closed" and not is_over:
                continue
            own = min(line.rate, line.limit.ceiling * AWAY_SHARE) / processes
            while line.unserved > 0:
                due = max(now, self._paced_until, line.paced_until)
                if due > self._again_at:
                    break
                self._paced_until, line.paced_until = due + 1 / whole, due + 1 / own
                line.add(Slot(task, due))
