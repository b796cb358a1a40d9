"""The limiter in a worker process: one thread that talks to Redis, one that listens to events.

Whoever wants to begin a call does so under `lock`: the worker's queue, which hands out a job only
with a slot for it, and `enter`, for calls that did not come that way or were held up since.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from tq.errors import StoreError
from tq.limiter.agent import BREATH_S, Agent, Slot
from tq.limits import EVERY_TASK, Kind, Limit, Signal, hold_of, kind_of, signal_of
from tq.models import Envelope, ExecutionResult, Outcome, TaskId
from tq.store.limits import Answer, Limits

# A call that begins so long after its slot would come on top of those that follow it; with what may
# happen on the way to the endpoint this keeps any second within a twentieth above the ceiling.
LATE_S = 0.05
# Few enough may come later than that (see `Agent.may_be_late`), but what a slot was given for is not true for ever.
LATEST_S = 0.5
LISTEN_AGAIN_S = 1.0
LONGEST_SLEEP_S = 5.0

LimitOf = Callable[[Envelope], tuple[Limit, int]]


def _unheard(_seconds: float) -> None:
    """Nobody listens."""


def _unheard_of(_task: TaskId, _seconds: float) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class _Call:
    slot: Slot
    is_told: bool = False  # whether the limiter knows how it came out


class Limiter:
    """Slots for the calls of this process. Until it is started, nothing is limited."""

    # A job that was given back is looked at again after this long, in case things have become better.
    LONGEST_ABSENCE_S = 8.0

    def __init__(self, limits: Limits, everything: Limit, limit_of: LimitOf, *, process: str) -> None:
        self.lock = threading.Lock()
        self.idle = threading.Condition(self.lock)  # threads that wait for a job
        self.agent = Agent(process, everything)
        self._limits = limits
        self.limit_of = limit_of
        self.on_wait: Callable[[float], None] = _unheard  # is told for how long a thread has waited here
        # Is told for how long a job has waited for its slot, without a thread or with one.
        self.on_slot: Callable[[TaskId, float], None] = _unheard_of
        self._work = threading.Condition(self.lock)  # the limiter's own thread
        self._sleeps_until = 0.0
        self._idlers = 0
        self._entering = 0
        self._calls: dict[int, _Call] = {}
        self._threads: list[threading.Thread] = []
        self.is_running = False  # whether calls are limited: in a worker, from its boot to its end
        self._stopping = threading.Event()
        self._away = ""

    # Life

    def start(self, threads: int) -> None:
        """Begins to limit the calls of so many threads."""
        self.agent.threads = threads
        self._stopping.clear()
        self.is_running = True
        for target in (self._exchange, self._listen):
            thread = threading.Thread(
                target=self._while_running, args=(target,), name=f"limiter{target.__name__}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Tells Redis how the last calls came out, and gives back what is in hand."""
        self._stopping.set()
        self.is_running = False
        with self.lock:
            self._work.notify_all()
            self.idle.notify_all()
        for thread in self._threads:
            thread.join(timeout=LISTEN_AGAIN_S * 2)
        if self._threads:
            with self.lock:
                request = self.agent.farewell()
            with suppress(StoreError):
                self._limits.exchange(request)
        self._threads = []

    # Jobs that wait (whoever calls these holds the lock)

    def wait(self, envelope: Envelope, limit: Limit, weight: int) -> None:
        """One more job waits here."""
        self.agent.wait(envelope.task_id, limit, weight=weight)
        envelope.waits_since = now = time.monotonic()
        self._wake_if_due(now)

    def slots_due(self, task: TaskId) -> int:
        """How many jobs of the task may begin now."""
        return self.agent.slots_due(task, time.monotonic())

    def begin(self, envelope: Envelope) -> bool:
        """The job begins, with the slot that is there for it; False if that has lapsed this very moment."""
        now = time.monotonic()
        slot = self.agent.take(envelope.task_id, now)
        if slot is None:
            self.agent.leave(envelope.task_id)
            return False
        self.on_slot(envelope.task_id, now - envelope.waits_since)
        self._calls[id(envelope)] = _Call(slot)
        return True

    def give_up(self, envelope: Envelope) -> None:
        """A job that had begun, if it had, needs its slot no more."""
        call = self._calls.pop(id(envelope), None)
        if call is None:
            return
        now = time.monotonic()
        if not call.is_told:
            self.agent.learn(call.slot, now, signal=None)
        self.agent.release(call.slot)
        self._wake_if_due(now)

    def pass_on(self) -> None:
        """Wakes the next thread, in case there is more to begin."""
        if self._idlers:
            # One that waits for another task would not do.
            self.idle.notify(self._idlers if self._entering else 1)

    def horizon(self, task: TaskId, seconds: float) -> tuple[int, float, float]:
        """How many waiting jobs of a task will begin within this time; seconds until the first, and then per second."""
        now = time.monotonic()
        wait_s, pace = self.agent.expected_wait(task, now), self.agent.pace_of(task, now)
        return self.agent.horizon(task, seconds, now), wait_s, pace

    def sleep(self, seconds: float) -> None:
        """Waits until there may be something to begin."""
        self._idlers += 1
        try:
            # What is due already is nothing for who goes to sleep, and whoever sleeps was told when it fell due.
            now = time.monotonic()
            self._wake_if_due(now, after=now)
            self.idle.wait(min(seconds, LONGEST_SLEEP_S))
        finally:
            self._idlers -= 1

    # Calls

    def enter(self, envelope: Envelope, *, patience_s: float) -> float:
        """Leave for the call to begin now: 0, or else for how many seconds there is none.

        A call that comes with a slot that is still good passes at once. Any other waits for one, for
        `patience_s` at most.
        """
        if not self.is_running:
            return 0.0
        with self.lock:
            call = self._calls.get(id(envelope))
            now = time.monotonic()
            if call is not None:
                late_s = now - call.slot.due
                if call.slot.probe or late_s <= LATE_S:
                    return 0.0
                if late_s <= LATEST_S and self.agent.may_be_late(envelope.task_id, now):
                    return 0.0
                logger.debug("slot has lapsed", late_ms=round(late_s * 1000))
                self.agent.end(self._calls.pop(id(envelope)).slot, now, signal=None)
        # Not within the lock: to know a task's limit may take a question to Redis.
        limit, weight = self.limit_of(envelope)
        wait_s = self._enter_late(envelope, limit, weight, until=now + patience_s)
        self.on_wait(time.monotonic() - now)
        return wait_s

    def _enter_late(self, envelope: Envelope, limit: Limit, weight: int, *, until: float) -> float:
        """As `enter`, for a call that has no slot that is good."""
        task = envelope.task_id
        with self.lock:
            now = time.monotonic()
            while not self._stopping.is_set():
                self.wait(envelope, limit, weight)
                while (
                    not self.agent.has_slot(task, now := time.monotonic())
                    and now < until
                    and not self._stopping.is_set()
                ):
                    self._entering += 1
                    self.sleep(until - now)
                    self._entering -= 1
                if self.begin(envelope):
                    self.pass_on()
                    return 0.0
                if now >= until:
                    break
            self._wake_if_due(now)
            wait_s = min(max(self.agent.expected_wait(task, now), 1.0), self.LONGEST_ABSENCE_S)
            return wait_s * (1 + random.random())

    def is_probe(self, envelope: Envelope) -> bool:
        """Whether the call asks on behalf of all whether an outage is over."""
        call = self._calls.get(id(envelope))
        return call is not None and call.slot.probe

    def in_outage(self, task: TaskId, instant: float) -> bool:
        """Whether an instant (Unix seconds) lies in the last outage of the task, as far as it is known here."""
        with self.lock:
            outage = self.agent.outage_of(task)
        return outage is not None and outage[0] <= instant <= outage[1]

    def learn(self, envelope: Envelope, result: ExecutionResult, *, most_hold: timedelta) -> None:
        """How a call came out; a wait that the endpoint asks for is kept up to `most_hold`."""
        with self.lock:
            call = self._calls.get(id(envelope))
            if call is None:
                return
            now = time.monotonic()
            seconds = result.duration.total_seconds()
            hold = hold_of(result, most=most_hold)
            said = signal_of(result)
            if said is Signal.ERROR and envelope.attempt > 1 and not call.slot.probe:
                said = None  # a job that fails again says more of the job than of the endpoint
            throttled = result.outcome is Outcome.THROTTLED
            self.agent.learn(call.slot, now, signal=said, seconds=seconds, hold=hold, throttled=throttled)
            call.is_told = True
            self._wake_if_due(now)

    def count(self, envelope: Envelope, result: ExecutionResult) -> None:
        """Counts a call among the outcomes of its task."""
        kind: Kind | None = kind_of(result)
        if kind is None or not self.is_running:
            return
        limit, _ = self.limit_of(envelope)
        with self.lock:
            now = time.monotonic()
            self.agent.count(envelope.task_id, limit, kind, now)
            self._wake_if_due(now)

    def end(self, envelope: Envelope) -> None:
        """The job is done with, its thread free."""
        with self.lock:
            self.give_up(envelope)

    def _while_running(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            if not self._stopping.is_set():
                # Without slots no job would ever begin: better a new process.
                logger.critical("limiter ended unexpectedly; the process ends, to be started anew")
                os.kill(os.getpid(), signal.SIGTERM)

    # The thread that talks to Redis

    def _exchange(self) -> None:
        with self.lock:
            while not self._stopping.is_set():
                now = time.monotonic()
                request = self.agent.request(now)
                if request is not None:
                    self.lock.release()
                    answer: Answer | StoreError
                    try:
                        answer = self._limits.exchange(request)
                    except StoreError as error:
                        answer = error
                    finally:
                        self.lock.acquire()
                    now = time.monotonic()
                    if isinstance(answer, StoreError):
                        self._tell_away(str(answer))
                        self.agent.lost(request, now)
                    else:
                        self._tell_away("")
                        self.agent.accept(request, answer, now)
                slot_at = self.agent.slot_at() if self._idlers else float("inf")
                if slot_at <= now:
                    # Whoever takes a job wakes the next; but one that waits for another task would not.
                    self.idle.notify(self._idlers if self._entering else 1)
                    slot_at = self.agent.slot_after(now)
                # While many calls are made, to look every now and then costs less than to look at each of them.
                longest = BREATH_S if self.agent.is_busy(now) else LONGEST_SLEEP_S
                self._sleeps_until = min(slot_at, self.agent.exchange_at(now), now + longest)
                if self._sleeps_until > now:
                    self._work.wait(self._sleeps_until - now)

    def _wake_if_due(self, now: float, *, after: float = float("-inf")) -> None:
        """Wakes the limiter's thread if it would sleep through something that falls due after an instant."""
        if self._sleeps_until <= now + BREATH_S:
            return
        slot_at = self.agent.slot_after(after) if self._idlers else float("inf")
        if min(slot_at, self.agent.exchange_at(now)) < self._sleeps_until:
            self._sleeps_until = 0.0
            self._work.notify()

    def _tell_away(self, failure: str) -> None:
        if failure and not self._away:
            logger.warning("limiter cannot ask Redis; calls are paced from memory", reason=failure)
        elif self._away and not failure:
            logger.info("limiter asks Redis again")
        self._away = failure

    # The thread that listens

    def _listen(self) -> None:
        while not self._stopping.is_set():
            is_listening = False
            try:
                for event in self._limits.events(self._stopping):
                    is_listening = True
                    with self.lock:
                        self.agent.heard(event.scope, event.epoch, time.monotonic())
                        self._work.notify()
            except StoreError as error:
                logger.debug("limiter's events lost", reason=str(error))
                # A Redis that was restarted may have forgotten the slots that are in hand, and give them
                # away once more. Those that were paced from memory since are good.
                if is_listening:
                    with self.lock:
                        self.agent.heard(EVERY_TASK, None, time.monotonic())
                self._stopping.wait(LISTEN_AGAIN_S)
