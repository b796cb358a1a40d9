"""Where in a run's window a user is served.

Pure. A user's place in a task is a hash, so the same minute every day, whoever else is enabled.
It must never change between releases: a test pins it, and `store/lua/places.lua` computes the same.

A run passes the places in their cyclic order. It begins at place 0, unless the run before it was cut: then
where that one stopped, so that those whom it did not reach come first. How far along its order a run meets a
place is the place's position; windows, slots and cursors go by positions, so all slots come earlier by as much.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from tq.clock import MILLISECOND
from tq.models import TaskId, UserId

PLACES = 1 << 31  # 31 bits: Redis stores a score of that size in 5 bytes
LAST_PLACE = PLACES - 1
SLOT = timedelta(seconds=10)
# A run that is claimed within a minute keeps its minute for everybody; a later one is spread anew.
PUNCTUAL = timedelta(minutes=1)


def place_of(task_id: TaskId, user_id: UserId) -> int:
    """The user's fixed place among all that have the task enabled: 0 to 2**31 - 1, evenly spread."""
    return int(hashlib.sha1(f"{task_id}|{user_id}".encode(), usedforsecurity=False).hexdigest()[:8], 16) >> 1


def position_of(place: int, first: int) -> int:
    """How far along an order that begins at the place `first` a place stands: 0 to 2**31 - 1."""
    return (place - first) % PLACES


def stretches(first: int, *, after: int, upto: int = LAST_PLACE) -> Iterator[tuple[int, int]]:
    """The places at the positions beyond `after` and up to `upto`, in their order.

    Each stretch is told as a page is asked for: by the place before its first one, and its last place.
    There are two where the order goes round in between.
    """
    while after < upto:
        begin = (first + after + 1) % PLACES
        end = min(begin + upto - after - 1, LAST_PLACE)
        yield begin - 1, end
        after = position_of(end, first)


def slot_offset(position: int, spread: timedelta) -> timedelta:
    """How long after a run's start the slot of a position begins."""
    [slot] = slots_of([position], spread)
    return slot * SLOT


def slots_of(positions: Iterable[int], spread: timedelta) -> list[int]:
    """In which slot, counted from a run's start, each position is served."""
    spread_ms, slot_ms = spread // MILLISECOND, SLOT // MILLISECOND
    return [(position * spread_ms >> 31) // slot_ms for position in positions]


def last_place_due(elapsed: timedelta, spread: timedelta) -> int:
    """The last position whose slot has begun `elapsed` after the start; -1 before the start."""
    if elapsed < timedelta(0):
        return -1
    end_of_slot = elapsed - elapsed % SLOT + SLOT
    if end_of_slot >= spread:
        return LAST_PLACE
    # position * spread >> 31 < end, for whole numbers: position < end * 2**31 / spread, rounded up.
    return -(-(end_of_slot // MILLISECOND * PLACES) // (spread // MILLISECOND)) - 1


def next_slot(elapsed: timedelta) -> timedelta:
    """When, counted from the start, the slot after the present one begins."""
    return timedelta(0) if elapsed < timedelta(0) else elapsed - elapsed % SLOT + SLOT


def spread_of(*, window: timedelta, nominal_at: datetime, claimed_at: datetime) -> tuple[datetime, timedelta]:
    """From when on, and over how long, a run is spread.

    A punctual run keeps its window. A late one begins when it is claimed and takes what remains of
    the window, but at least a quarter of it, so that catching up is never a burst.
    """
    lateness = claimed_at - nominal_at
    if lateness <= PUNCTUAL:
        return nominal_at, window
    return claimed_at, max(window - lateness, window / 4)
