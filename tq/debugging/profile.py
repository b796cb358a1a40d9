"""Where a process spends its CPU time, found by looking at its threads a hundred times a second.

Each look weighs the stack of a thread by the CPU time that the thread has used since it was last seen at
work. So threads that wait do not show, and all that a thread has used counts somewhere.

Two things would make such looks lie, and both are met:

- A thread that works in short bursts is mostly found waiting. A stack that waits gets nothing; what the
  thread has used goes to where it is next found at work.
- Whoever looks needs the interpreter's lock, and usually gets it when another thread gives it up, which is
  when that begins to wait: a burst would never be seen. So for the fraction of a millisecond around a look
  the interpreter's switch interval is short, and the look comes at a random moment of it. That costs
  throughput, so it may be so for a small share of the time only: where many threads press for the lock, the
  looks are fewer.

A stack is functions and where they begin, and never values. What is kept is bounded.
"""

import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType

from tq.debugging.places import Place, place_of
from tq.debugging.waiting import Waiting
from tq.errors import ProfileRunning
from tq.redaction import redact

DEFAULT_SECONDS, LONGEST_S = 30.0, 300.0
DEFAULT_HZ, HIGHEST_HZ = 100, 1000
# How long threads keep the interpreter's lock just before a look, instead of 5 ms, and for how long that is so.
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 0.00002, 0.001
MOMENT_S = (0.00002, 0.002)
# It may be so for one part in so many of the time, and takes at least as often as long as we came late.
SPARING, HURRY_COSTS = 10, 2
MOST_NODES = 20_000
DEEPEST = 200  # frames
LONGEST_NAME = 60  # letters of a thread's name
MOST_NAMES = 500
OTHER_THREADS = "thread (others)"
NOT_SEEN = Place("(not seen at work)")
_ONE_AT_A_TIME = threading.Lock()
_chance = random.Random()  # of our own, so that nobody's seeded numbers come out otherwise
# The lowest three bits of the number of a thread's CPU clock: Linux' CPUCLOCK_PERTHREAD and CPUCLOCK_SCHED.
_CPU_OF_THREAD = 6

Stack = tuple[Place, ...]


@dataclass(frozen=True)
class Profile:
    """Nanoseconds by stack, outermost first; its first place is a heading for the thread."""

    name: str
    weights: Mapping[Stack, int]

    @property
    def total(self) -> int:
        """The nanoseconds of all stacks."""
        return sum(self.weights.values())

    def hottest(self, most: int) -> list[tuple[Place, int]]:
        """The functions that have used most themselves, not by what they call, with their nanoseconds."""
        own: Counter[Place] = Counter()
        for stack, weight in self.weights.items():
            if stack[-1].file:
                own[stack[-1]] += weight
        return own.most_common(most)


@dataclass(frozen=True)
class Recording:
    """A profile, how many looks it is made of, and what the process and the looking have used, in seconds."""

    profile: Profile
    looks: int
    process_s: float
    looking_s: float


def record(seconds: float = DEFAULT_SECONDS, hz: int = DEFAULT_HZ) -> Recording:
    """Looks at all threads but the caller's for so long.

    Raises:
        ProfileRunning: if another profile of this process is being made.
    """
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise ProfileRunning("a profile of this process is being made already; ask again when it has ended")
    try:
        return _record(seconds, hz)
    finally:
        _ONE_AT_A_TIME.release()


def _record(seconds: float, hz: int) -> Recording:
    clock = clock_of_threads()
    looker = _Looker(clock or _wall_clock, carries_over=clock is not None)
    process_began, looking_began = time.process_time(), time.thread_time()
    looker.begin()
    began = due = now = time.monotonic()
    end = began + seconds
    looks, hurried_s = 0, 0.0
    while now < end:
        # From when a look was due, not from when it came, so that there are as many as were asked for.
        due = max(due + 1 / hz, now)
        time.sleep(max(0.0, min(due, end) - now))
        now = time.monotonic()
        late_s = max(0.0, now - due)
        if hurried_s + HURRY_COSTS * late_s <= (now - began) / SPARING:
            hurried_s += _hurry(late_s)
        looker.look()
        looks += 1
        now = time.monotonic()
    process_s, looking_s = time.process_time() - process_began, time.thread_time() - looking_began
    weights = looker.weights()
    total_s = sum(weights.values()) / 1e9
    kind = "of CPU time" if clock else "of time"
    name = f"process {os.getpid()}: {total_s:.2f} s {kind} in {seconds:g} s, {looks:,} looks"
    return Recording(Profile(name, weights), looks, process_s, looking_s)


def _hurry(late_s: float) -> float:
    """Lets others work for a moment, in which they give up the interpreter's lock soon after they are asked to.

    Returns how long that took, in seconds.
    """
    interval = sys.getswitchinterval()
    began = time.monotonic()
    # The later we came, the more threads press for the lock, and each wakes up after every interval.
    sys.setswitchinterval(min(interval, max(SHORTEST_INTERVAL_S, min(late_s / 50, LONGEST_INTERVAL_S))))
    try:
        time.sleep(_chance.uniform(*MOMENT_S))
    finally:
        sys.setswitchinterval(interval)
    return time.monotonic() - began


def clock_of_threads() -> Callable[[int], int] | None:
    """What tells the CPU nanoseconds of a thread by its native id; None where there is no such clock.

    It raises OSError for a thread that has ended. `time.pthread_getcpuclockid` would crash the process then, so
    the clock's number is made as Linux' C library makes it, after a look whether it does.
    """
    try:
        expected = time.pthread_getcpuclockid(threading.get_ident())
    except (AttributeError, OSError):
        return None
    return _cpu_clock if _clock_number(threading.get_native_id()) == expected else None


def _clock_number(native_id: int) -> int:
    return ~native_id << 3 | _CPU_OF_THREAD


def _cpu_clock(native_id: int) -> int:
    return time.clock_gettime_ns(_clock_number(native_id))


def _wall_clock(_native_id: int) -> int:
    return time.monotonic_ns()


class _Node:
    """A function below those that have called it."""

    __slots__ = ("below", "code", "weight")

    def __init__(self, code: CodeType | None = None) -> None:
        self.code = code
        self.below: dict[int | str, _Node] = {}
        self.weight = 0


@dataclass(slots=True)
class _Known:
    """A thread: its name, its clock when it was last looked at, and up to when its time has been counted."""

    name: str
    clock: int
    counted: int


class _Looker:
    """Looks at threads, and adds up what it sees."""

    def __init__(self, clock: Callable[[int], int], *, carries_over: bool) -> None:
        self._clock = clock
        self._carries_over = carries_over
        self._own_id = threading.get_native_id()
        self._is_waiting = Waiting()
        self._threads: dict[int, _Known] = {}
        self._headings: set[str] = set()
        self._by_name: dict[str, _Node] = {}
        self._not_seen: Counter[str] = Counter()
        self._nodes = 0

    def begin(self) -> None:
        """What threads have used until now does not count."""
        for native_id, thread, clock in self._clocks():
            self._threads[native_id] = _Known(self._heading_of(thread), clock, clock)

    def look(self) -> None:
        """Counts what each thread has used since it was last seen at work."""
        frames = sys._current_frames()
        ended = set(self._threads)
        for native_id, thread, clock in self._clocks():
            ended.discard(native_id)
            known = self._threads.get(native_id)
            if known is None or clock < known.counted:
                # It has begun since the last look, so all that it has used counts.
                begin = 0 if self._carries_over else clock
                known = self._threads[native_id] = _Known(self._heading_of(thread), begin, begin)
            has_moved, known.clock = clock > known.clock, clock
            frame = frames.get(thread.ident or 0)
            if frame is None or not has_moved:
                continue
            if not self._is_waiting(frame):
                self._count(known.name, frame, clock - known.counted)
            elif self._carries_over:
                continue
            known.counted = clock
        for native_id in ended:
            self._forget(native_id)

    def weights(self) -> dict[Stack, int]:
        """Nanoseconds by stack."""
        for native_id in list(self._threads):
            self._forget(native_id)
        found: Counter[Stack] = Counter()
        for name, node in self._by_name.items():
            for stack, weight in _stacks(node, (Place(name),)):
                found[stack] += weight
        for name, weight in self._not_seen.items():
            seen = {stack: found[stack] for stack in found if stack[0].function == name}
            whole = sum(seen.values())
            for stack, part in seen.items():
                found[stack] += weight * part // whole
            if not whole:
                found[Place(name), NOT_SEEN] += weight
        return dict(found)

    def _clocks(self) -> Iterator[tuple[int, threading.Thread, int]]:
        for thread in threading.enumerate():
            native_id = thread.native_id
            if native_id is None or native_id == self._own_id:
                continue
            try:
                yield native_id, thread, self._clock(native_id)
            except OSError:  # it has just ended
                continue

    def _heading_of(self, thread: threading.Thread) -> str:
        heading = heading_of(thread.name)
        if heading not in self._headings and len(self._headings) >= MOST_NAMES:
            return OTHER_THREADS
        self._headings.add(heading)
        return heading

    def _forget(self, native_id: int) -> None:
        known = self._threads.pop(native_id)
        if known.clock > known.counted:
            self._not_seen[known.name] += known.clock - known.counted

    def _count(self, name: str, frame: FrameType | None, weight: int) -> None:
        codes: list[CodeType] = []
        while frame is not None and len(codes) < DEEPEST:
            codes.append(frame.f_code)
            frame = frame.f_back
        node = self._by_name.get(name)
        if node is None:
            node = self._by_name[name] = _Node()
        for code in reversed(codes):
            below = node.below.get(id(code))
            if below is None:
                if self._nodes >= MOST_NODES:
                    break  # it counts for who has called it
                self._nodes += 1
                below = node.below[id(code)] = _Node(code)
            node = below
        node.weight += weight


def heading_of(thread_name: str) -> str:
    """What the stacks of a thread begin with; threads whose names differ by numbers only share it."""
    return "thread " + re.sub(r"\d+", "N", redact(thread_name[:LONGEST_NAME]))


def _stacks(root: _Node, above: Stack) -> Iterator[tuple[Stack, int]]:
    left = [(root, above)]
    while left:
        node, stack = left.pop()
        if node.code is not None:
            stack = (*stack, place_of(node.code))
        if node.weight:
            yield stack, node.weight
        left += [(below, stack) for below in node.below.values()]
