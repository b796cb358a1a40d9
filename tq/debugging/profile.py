"""Where a process spends its CPU time, found by looking at its threads a hundred times a second.

Each look weighs the stack of a thread by the CPU time that the thread has used since it was last seen at
work. So threads that wait do not show, and all that a thread has used counts somewhere.

Two things would make such looks lie, and both are met:

- A thread that works in short bursts is mostly found waiting. A stack that waits gets nothing; what the
  thread has used goes to where it is next found at work.
- Whoever looks needs the interpreter's lock, and usually gets it when another thread gives it up, which is
  when that begins to wait: a burst would never be seen. So for up to two milliseconds before a look the
  interpreter's switch interval is short, and the look comes at a random moment of it. Where threads press
  for the lock that costs throughput, so it may be so for a small share of the time only.

What a thread has used and was never seen at is shared out as what threads of its name were seen at.

A stack is functions and where they begin, and never values. What is kept is bounded.
"""

import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, FrameType

from tq.debugging.frames import frames_now
from tq.debugging.places import Place, place_of
from tq.debugging.waiting import waits
from tq.errors import ProfileRunning
from tq.redaction import redact

DEFAULT_SECONDS, LONGEST_S = 30.0, 300.0
DEFAULT_HZ, HIGHEST_HZ = 100, 1000
# How long threads keep the interpreter's lock just before a look, instead of 5 ms, and for how long that is so.
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 0.00002, 0.001
MOMENT_S = (0.00002, 0.002)
# It may be so for one part in so many of the time; where threads press for the lock, which is where we came
# late, that harms them, and counts many times. It takes at least as many times as long as we came late.
SPARING, CALM_S, PRESSED_COSTS, HURRY_TAKES = 10, 0.001, 10, 2
SPARING_LOOKS = 60  # the looks themselves may take one part in so many of the time
READ_ALL_EVERY = 16  # looks
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
    by_cpu = clock_of_threads() is not None
    looker = _Looker(by_cpu=by_cpu)
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
        costs = 1 if late_s < CALM_S else PRESSED_COSTS
        if hurried_s + HURRY_TAKES * late_s * costs <= (now - began) / SPARING:
            hurried_s += _hurry(late_s) * costs
        looking_began_s = time.thread_time()
        looker.look()
        # With many threads looks cost more, so there are fewer.
        due += max(0.0, SPARING_LOOKS * (time.thread_time() - looking_began_s) - 1 / hz)
        looks += 1
        now = time.monotonic()
    process_s, looking_s = time.process_time() - process_began, time.thread_time() - looking_began
    weights = looker.weights()
    total_s = sum(weights.values()) / 1e9
    kind = "of CPU time" if by_cpu else "of time"
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
    if _clock_number(threading.get_native_id()) != expected:
        return None
    return lambda native_id: time.clock_gettime_ns(_clock_number(native_id))


def _clock_number(native_id: int) -> int:
    return ~native_id << 3 | _CPU_OF_THREAD


class _Node:
    """A function below those that have called it."""

    __slots__ = ("below", "code", "weight")

    def __init__(self, code: CodeType | None = None) -> None:
        self.code = code
        self.below: dict[int | str, _Node] = {}
        self.weight = 0


@dataclass(slots=True)
class _Known:
    """A thread: its name, the number of its clock, what that showed last, and up to when its time has been counted."""

    name: str
    number: int
    clock: int = 0
    counted: int = 0


class _Looker:
    """Looks at threads, and adds up what it sees.

    Of hundreds of threads most wait, and each look has the interpreter's lock. So the clock of one that waits is
    read now and then only, for when it ends: what it has used counts later anyhow.
    """

    def __init__(self, *, by_cpu: bool) -> None:
        self._by_cpu = by_cpu
        self._read: Callable[[int], int] = time.clock_gettime_ns
        self._own = threading.get_ident()
        self._known: dict[int, _Known] = {}
        self._seen: Set[int] = frozenset()  # whose frames there were at the last look
        self._has_strangers = False
        self._headings: set[str] = set()
        self._by_name: dict[str, _Node] = {}
        self._not_seen: Counter[str] = Counter()
        self._nodes = 0
        self._looks = 0

    def begin(self) -> None:
        """What threads have used until now does not count."""
        with frames_now() as frames:
            self._meet(frames)
        for ident, known in list(self._known.items()):
            try:
                known.clock = known.counted = self._read(known.number)
            except OSError:  # it has just ended
                del self._known[ident]

    def look(self) -> None:
        """Counts what each thread has used since it was last seen at work."""
        with frames_now() as frames:
            self._look_at(frames)

    def _look_at(self, frames: Mapping[int, FrameType]) -> None:
        if self._has_strangers or frames.keys() != self._seen:
            self._meet(frames)
        ended = []
        self._looks += 1
        reads_all = self._looks % READ_ALL_EVERY == 0 or not self._by_cpu
        for ident, known in self._known.items():
            frame = frames[ident]
            is_waiting = waits(frame.f_code)
            if is_waiting and not reads_all:
                continue
            try:
                clock = self._read(known.number)
            except OSError:
                ended.append(ident)
                continue
            if clock == known.clock:
                continue
            known.clock = clock
            if not is_waiting:
                self._count(known.name, frame, clock - known.counted)
                known.counted = clock
            elif not self._by_cpu:
                known.counted = clock
        if ended:
            self._has_strangers = True  # another thread may have the place of one of these
            for ident in ended:
                self._forget(ident)

    def weights(self) -> dict[Stack, int]:
        """Nanoseconds by stack, up to now."""
        for ident, known in list(self._known.items()):
            if self._by_cpu:
                with suppress(OSError):  # it has just ended
                    known.clock = self._read(known.number)
            self._forget(ident)
        found: Counter[Stack] = Counter()
        for name, node in self._by_name.items():
            for stack, weight in _stacks(node, (Place(name),)):
                found[stack] += weight
        for name, weight in self._not_seen.items():
            # Threads of one name do the same kind of work.
            seen = {stack: found[stack] for stack in found if stack[0].function == name}
            whole = sum(seen.values())
            for stack, part in seen.items():
                found[stack] += weight * part // whole
            if not whole:
                found[Place(name), NOT_SEEN] += weight
        return dict(found)

    def _meet(self, frames: Mapping[int, FrameType]) -> None:
        """Gets to know the threads that there are, and forgets those that have ended."""
        for ident in self._known.keys() - frames.keys():
            self._forget(ident)
        for thread in threading.enumerate():
            ident, native_id = thread.ident or 0, thread.native_id
            if ident in frames and ident not in self._known and ident != self._own and native_id is not None:
                number = _clock_number(native_id) if self._by_cpu else time.CLOCK_MONOTONIC
                # All that it has used counts, since it has begun after the profile.
                begun = 0 if self._by_cpu else time.monotonic_ns()
                self._known[ident] = _Known(self._heading_of(thread), number, begun, begun)
        self._seen = frozenset(frames)
        # A thread that is just beginning has a frame before it has a name; others never get one.
        self._has_strangers = len(self._known) + 1 < len(frames)

    def _heading_of(self, thread: threading.Thread) -> str:
        heading = heading_of(thread.name)
        if heading not in self._headings and len(self._headings) >= MOST_NAMES:
            return OTHER_THREADS
        self._headings.add(heading)
        return heading

    def _forget(self, ident: int) -> None:
        known = self._known.pop(ident)
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
