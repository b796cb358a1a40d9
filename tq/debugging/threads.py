"""What every thread of the process does now: its name, its CPU time so far, and its stack."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from tq.debugging.frames import frames_now
from tq.debugging.places import Place, place_of
from tq.debugging.profile import DEEPEST, clock_of_threads
from tq.redaction import redact


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread; its stack with the innermost function last. Its CPU time is None where nothing tells it."""

    name: str
    native_id: int | None
    is_daemon: bool
    cpu_s: float | None
    stack: tuple[Place, ...]


def threads_now() -> list[Thread]:
    """All threads, those that have used most CPU time first; who asks is left out."""
    with frames_now() as frames:
        found = _threads_in(frames)
    return sorted(found, key=lambda thread: (-(thread.cpu_s or 0.0), thread.name))


def _threads_in(frames: Mapping[int, FrameType]) -> list[Thread]:
    clock = clock_of_threads()
    found = []
    for thread in threading.enumerate():
        if thread is threading.current_thread():
            continue
        cpu_s = None
        if clock is not None and thread.native_id is not None:
            try:
                cpu_s = clock(thread.native_id) / 1e9
            except OSError:  # it has just ended
                continue
        found.append(
            Thread(
                redact(thread.name),
                thread.native_id,
                thread.daemon,
                cpu_s,
                _stack(frames.get(thread.ident or 0)),
            )
        )
    return found


def threads_text(threads: Sequence[Thread]) -> str:
    """The same for people."""
    return "\n".join(_lines(thread) for thread in threads)


def _lines(thread: Thread) -> str:
    used = "" if thread.cpu_s is None else f", {thread.cpu_s:.3f} s of CPU time"
    kind = ", daemon" if thread.is_daemon else ""
    stack = "".join(f"    {place}\n" for place in thread.stack) or "    no Python code\n"
    return f"{thread.name} [{thread.native_id}]{kind}{used}\n{stack}"


def _stack(frame: FrameType | None) -> tuple[Place, ...]:
    places: list[Place] = []
    while frame is not None and len(places) < DEEPEST:
        places.append(place_of(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(places))
