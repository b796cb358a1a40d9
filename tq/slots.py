"""Where in a run's window a user is served.

Pure. A user's place in a task is a hash, so the same minute every day, whoever else is enabled.
It must never change between releases: a test pins it, and `store/lua/places.lua` computes the same.
"""

import hashlib
from collections.abc import Iterable
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


def slot_offset(place: int, spread: timedelta) -> timedelta:
    """How long after a run's start the slot of a place begins."""
    [slot] = slots_of([place], spread)
    return slot * SLOT


def slots_of(places: Iterable[int], spread: timedelta) -> list[int]:
    """In which slot, counted from a run's start, each place is served."""
    spread_ms, slot_ms = spread // MILLISECOND, SLOT // MILLISECOND
    return [(place * spread_ms >> 31) // slot_ms for place in places]


def last_place_due(elapsed: timedelta, spread: timedelta) -> int:
    """The last place whose slot has begun `elapsed` after the start; -1 before the start."""
    if elapsed < timedelta(0):
        return -1
    end_of_slot = elapsed - elapsed % SLOT + SLOT
    if end_of_slot >= spread:
        return LAST_PLACE
    # place * spread >> 31 < end, for whole numbers: place < end * 2**31 / spread, rounded up.
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
