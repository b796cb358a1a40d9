"""An endpoint that can take so much and no more.

It works at its capacity on a queue. What it does when more comes is its mood: it sheds what would
wait too long, or it becomes slow before it does, or it is down. A quota, background errors and a
task whose calls always fail can be added to any mood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tq.models import TaskId

USUAL_S = 0.08  # an idle endpoint answers in about this time
SPREAD = 0.25  # of the logarithm of that time
TIMEOUT_S = 3.0  # after which the caller gives up
QUICK_S = 0.015  # in which it says no
REFUSED_S = 0.02  # in which a connection is refused
BROKEN_S = 0.03  # in which the calls of a broken task fail
SHEDS_FROM_S = 0.5  # of work in the queue
LEAST_QUEUE = 2.0  # calls; a tiny capacity has room for two, too
REFUSAL = 0.1  # of the work of a call: saying no is cheap, not free
# A brown-out says no to a growing share of calls, from half a second of work in the queue on.
BROWN_FROM_S, BROWN_OVER_S, BROWN_MOST = 0.5, 3.0, 0.8


class Mood(StrEnum):
    """How it treats what is too much."""

    SHEDDING = "shedding"  # 503 at once for what would wait longer than half a second
    BROWN = "brown"  # ever slower, then some 503, then time-outs
    DOWN = "down"  # no connection
    SILENT = "silent"  # takes calls and never answers

    @property
    def serves(self) -> bool:
        """Whether any call succeeds."""
        return self in {Mood.SHEDDING, Mood.BROWN}


class Answer(StrEnum):
    """What becomes of a call."""

    OK = "ok"
    ERROR = "500"
    BUSY = "503"
    THROTTLED = "429"
    TIMEOUT = "timeout"
    REFUSED = "no connection"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, after how long it is there, and the wait that it asks for."""

    answer: Answer
    seconds: float
    retry_after: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the job is done."""
        return self.answer is Answer.OK


@dataclass(frozen=True)
class Phase:
    """From this second on it serves so many calls a second, in this mood."""

    since: int
    capacity: float
    mood: Mood = Mood.SHEDDING


@dataclass(frozen=True)
class Quota:
    """So many calls in each window of time, counted from the beginning; then 429 until the next one."""

    calls: int
    seconds: int


class Downstream:
    """The endpoint; calls must come in the order of time."""

    def __init__(
        self,
        phases: Sequence[Phase],
        random: Random,
        *,
        quota: Quota | None = None,
        background_errors: float = 0.0,
        broken_task: TaskId | None = None,
    ) -> None:
        """`background_errors` is the share of calls that fail whatever the load, half with 500, half with 503."""
        self._phases = phases
        self._phase = 0
        self._random = random
        self._quota = quota
        self._background_errors = background_errors
        self._broken_task = broken_task
        self._queue = 0.0  # calls' worth of work
        self._last = 0.0
        self._window = -1
        self._in_window = 0

    def call(self, now: float, task: TaskId) -> Reply:
        """What becomes of a call that comes in now."""
        phase = self._phase_at(now)
        if not phase.mood.serves:
            down = phase.mood is Mood.DOWN
            return Reply(Answer.REFUSED, REFUSED_S) if down else Reply(Answer.TIMEOUT, TIMEOUT_S)
        self._queue = max(0.0, self._queue - phase.capacity * (now - self._last))
        self._last = now
        if (wait := self._wait_for_quota(now)) is not None:
            return Reply(Answer.THROTTLED, QUICK_S, wait)
        if self._is_too_much(phase):
            self._queue += REFUSAL
            return Reply(Answer.BUSY, QUICK_S)
        self._queue += 1.0
        seconds = USUAL_S * math.exp(self._random.gauss(0, SPREAD)) + self._queue / phase.capacity
        if task == self._broken_task:
            return Reply(Answer.ERROR, BROKEN_S)
        if self._background_errors and self._random.random() < self._background_errors:
            return Reply(Answer.ERROR if self._random.random() < 0.5 else Answer.BUSY, seconds)
        if seconds > TIMEOUT_S:
            return Reply(Answer.TIMEOUT, TIMEOUT_S)
        return Reply(Answer.OK, seconds)

    def _phase_at(self, now: float) -> Phase:
        while self._phase + 1 < len(self._phases) and self._phases[self._phase + 1].since <= now:
            self._phase += 1
        return self._phases[self._phase]

    def _wait_for_quota(self, now: float) -> int | None:
        if self._quota is None:
            return None
        window = int(now // self._quota.seconds)
        if window != self._window:
            self._window, self._in_window = window, 0
        if self._in_window >= self._quota.calls:
            return math.ceil((window + 1) * self._quota.seconds - now)
        self._in_window += 1
        return None

    def _is_too_much(self, phase: Phase) -> bool:
        if phase.mood is Mood.SHEDDING:
            return self._queue + 1 > max(LEAST_QUEUE, SHEDS_FROM_S * phase.capacity)
        share = (self._queue / phase.capacity - BROWN_FROM_S) / BROWN_OVER_S
        return self._random.random() < min(BROWN_MOST, max(0.0, share))
