"""An endpoint that bears so much and no more, for tests of limits with real processes and real calls.

    with Downstream(Behaviour(capacity=100)) as downstream:
        ...  # have workers call downstream.url
        downstream.behave(Behaviour(capacity=20))
        ...
        assert downstream.calls.peak_per_second() <= 150

It serves `capacity` calls a second. What comes faster waits, and when more waits than `queue` allows,
a call is refused at once. It remembers every call: of what task, for whom, when it arrived and how
it was answered. Instants are those of `time.monotonic()` in this process.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple, Self

from tq.errors import InvalidInput
from tq.http_server import Connection, Request, Server

OK = 200
THROTTLED = 429
ABANDONED = 499  # nginx' word for a caller that left before the answer
OVERLOADED = 503
# However slow an endpoint is, one call can be at work and one wait.
LEAST_QUEUE = 2.0


class State(StrEnum):
    """Whether calls are answered at all."""

    UP = "up"
    DOWN = "down"  # connections are refused, and those that there were have ended
    HANGING = "hanging"  # calls are taken and never answered


class Quota(NamedTuple):
    """So many calls in each stretch of time; further ones get 429, and are told when the next one begins."""

    calls: int
    per: timedelta


@dataclass(frozen=True)
class Behaviour:
    """How calls are treated, from the moment at which this is put into force.

    A call takes as long as those before it need at `capacity` calls per second (None for any number),
    and then `takes`. One that would wait for longer than `queue` gets 503. A long queue makes a
    brown-out: answers become slow, then come after the caller's patience, and only then are refused.

    `closed_for` is for how long every call gets 429, with what is left of it as `Retry-After`.
    `statuses` are what calls of some tasks get in place of 200.
    """

    capacity: float | None = None
    takes: timedelta = timedelta(milliseconds=20)
    queue: timedelta = timedelta(milliseconds=500)
    state: State = State.UP
    quota: Quota | None = None
    closed_for: timedelta = timedelta(0)
    statuses: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.capacity is not None and self.capacity <= 0:
            raise InvalidInput(
                f"capacity is {self.capacity}; write more than 0, or state=State.DOWN for an endpoint that serves nobody"
            )
        if self.quota is not None and (self.quota.calls < 0 or self.quota.per <= timedelta(0)):
            raise InvalidInput(f"{self.quota} is no quota; write at least 0 calls per more than 0 seconds")


class Call(NamedTuple):
    """A call that arrived. Until it has ended, there is no status either."""

    task: str
    user: str
    attempt: int
    begun: float
    ended: float | None = None
    status: int | None = None


class Calls(tuple[Call, ...]):
    """Calls in the order of their arrival."""

    __slots__ = ()

    def between(self, begin: float, end: float) -> Self:
        """Those that arrived from one instant on until before another."""
        return type(self)(call for call in self if begin <= call.begun < end)

    def of(self, task: str) -> Self:
        """Those of a task."""
        return type(self)(call for call in self if call.task == task)

    @property
    def served(self) -> Self:
        """Those that were answered 200."""
        return type(self)(call for call in self if call.status == OK)

    @property
    def refused(self) -> Self:
        """Those that were told to come back later, by 429 or 503."""
        return type(self)(call for call in self if call.status in (THROTTLED, OVERLOADED))

    def peak_per_second(self) -> int:
        """The most arrivals within any one second, wherever it begins."""
        most = first = 0
        for number, call in enumerate(self):
            while call.begun - self[first].begun >= 1:
                first += 1
            most = max(most, number - first + 1)
        return most

    def most_at_once(self) -> int:
        """The most calls that were under way at one instant; one that ends as another begins is not."""
        ends = sorted(call.ended for call in self if call.ended is not None)
        most = ended = 0
        for begun, call in enumerate(self, start=1):
            while ended < len(ends) and ends[ended] <= call.begun:
                ended += 1
            most = max(most, begun - ended)
        return most


class Downstream(Server):
    """Serves on loopback, in a thread of its own, for as long as it is entered; `url` is where."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        super().__init__()
        self._first = behaviour or Behaviour()
        self._calls: list[Call] = []

    @property
    def calls(self) -> Calls:
        """All that have arrived so far."""
        return Calls(self._calls)

    def behave(self, behaviour: Behaviour, *, after: timedelta = timedelta(0)) -> None:
        """Puts another behaviour into force: before this returns, or after a while."""
        change = asyncio.run_coroutine_threadsafe(self._change(behaviour, after), self._loop)
        if not after:
            change.result()

    def __enter__(self) -> Self:
        self._host = Host(self._first, time.monotonic())
        super().__enter__()
        self.behave(self._first)
        return self

    def connect(self) -> "_Connection":
        """What answers a new caller."""
        return _Connection(self, self._host, self._calls)

    async def _change(self, behaviour: Behaviour, after: timedelta) -> None:
        await asyncio.sleep(after.total_seconds())
        self._host.behave(behaviour, time.monotonic())
        if behaviour.state is State.DOWN:
            self.refuse()
        else:
            await self.accept_again()


class Answer(NamedTuple):
    """What a call gets, after how many seconds, and in how many it is told to come back."""

    status: int
    after: float = 0.0
    retry_after: int | None = None


class Host:
    """The model behind the endpoint; instants are in seconds and never go back."""

    def __init__(self, behaviour: Behaviour, now: float) -> None:
        self._waiting = 0.0  # calls at work or waiting, as of `_counted_at`
        self._counted_at = now
        self._behaviour = behaviour
        self.behave(behaviour, now)

    def behave(self, behaviour: Behaviour, now: float) -> None:
        """Puts a behaviour into force; what waits by then is answered as it was going to be."""
        self._work_off(now)
        self._behaviour = behaviour
        self._since = now
        self._window = 0.0  # of the quota, counted from `_since`
        self._calls_in_window = 0

    def answer(self, task: str, now: float) -> Answer | None:
        """What a call gets that arrives now; None if that is nothing, ever."""
        if self._behaviour.state is not State.UP:
            return None
        closed_until = self._closed_until(now)
        if closed_until is not None:
            return Answer(THROTTLED, retry_after=math.ceil(closed_until - now))
        wait = self._wait(now)
        if wait is None:
            return Answer(OVERLOADED)
        takes = self._behaviour.takes.total_seconds()
        return Answer(self._behaviour.statuses.get(task, OK), wait + takes)

    def _closed_until(self, now: float) -> float | None:
        """Until when calls get 429; None if this one does not, and then it counts against the quota."""
        opens_at = self._since + self._behaviour.closed_for.total_seconds()
        if now < opens_at:
            return opens_at
        if self._behaviour.quota is None:
            return None
        most, per = self._behaviour.quota
        window = (now - self._since) // per.total_seconds()
        if window != self._window:
            self._window, self._calls_in_window = window, 0
        if self._calls_in_window >= most:
            return self._since + (window + 1) * per.total_seconds()
        self._calls_in_window += 1
        return None

    def _wait(self, now: float) -> float | None:
        """How long the work takes that waits now, this call's included; None if that is too much."""
        self._work_off(now)
        capacity = self._behaviour.capacity
        if capacity is None:
            return 0.0
        if self._waiting + 1 > max(LEAST_QUEUE, capacity * self._behaviour.queue.total_seconds()):
            return None
        self._waiting += 1
        return self._waiting / capacity

    def _work_off(self, now: float) -> None:
        capacity = self._behaviour.capacity
        done = math.inf if capacity is None else (now - self._counted_at) * capacity
        self._waiting = max(0.0, self._waiting - done)
        self._counted_at = now


class _Connection(Connection):
    """One caller. Its call goes on when it has left, as a real host's work does."""

    def __init__(self, server: Server, host: Host, calls: list[Call]) -> None:
        super().__init__(server)
        self._host = host
        self._calls = calls
        self._is_deserted = False

    def take(self, request: Request) -> None:
        now = time.monotonic()
        told = request.headers.get
        task, attempt = told("x-task-type", ""), told("x-attempt", "1")
        self._number = len(self._calls)
        self._calls.append(
            Call(task, told("x-user-id", ""), int(attempt) if attempt.isdecimal() else 1, begun=now)
        )
        answer = self._host.answer(task, now)
        self._is_hanging = answer is None
        if answer is not None and answer.after:
            asyncio.get_running_loop().call_later(answer.after, self._end, answer)
        elif answer is not None:
            self._end(answer)

    def abandon(self) -> None:
        self._is_deserted = True
        if self._is_hanging:
            self._note_end(ABANDONED)

    def _end(self, answer: Answer) -> None:
        self._note_end(ABANDONED if self._is_deserted else answer.status)
        self.answer(answer.status, retry_after=answer.retry_after)

    def _note_end(self, status: int) -> None:
        task, user, attempt, begun, _, _ = self._calls[self._number]
        self._calls[self._number] = Call(task, user, attempt, begun, time.monotonic(), status)
