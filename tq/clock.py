"""What time it is, for whoever must not ask the machine.

Ages and deadlines are decided by Redis' own TIME, inside scripts. A process asks a Clock only
for what stays inside it (how long a call took, what to print). A frozen clock, handed to the
store, replaces Redis' time too, so that a test can live through a month in a second.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """Gives the present instant."""

    def now(self) -> datetime:
        """The present instant, aware and in UTC."""
        ...

    @property
    def override_ms(self) -> float:
        """Milliseconds since the epoch that scripts take for the present, or 0 for Redis' own time."""
        ...


class SystemClock:
    """The machine's time for what is local; Redis' own for what is shared."""

    override_ms = 0

    def now(self) -> datetime:
        """The machine's present instant."""
        return datetime.now(UTC)


class Stopwatch:
    """Measures elapsed time; blind to changes of the machine's date."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed(self) -> timedelta:
        """Time since this stopwatch was made."""
        return timedelta(seconds=time.monotonic() - self._started)


def to_ms(instant: datetime) -> int:
    """Whole milliseconds since the epoch, rounded down."""
    return (instant - EPOCH) // MILLISECOND


@lru_cache(maxsize=1024)  # all jobs of a run, and of a slot, share their instants
def from_ms(ms: float) -> datetime:
    """The instant that lies `ms` milliseconds after the epoch."""
    return EPOCH + timedelta(milliseconds=ms)


def duration_ms(duration: timedelta) -> int:
    """Whole milliseconds of a duration, rounded down."""
    return duration // MILLISECOND


@lru_cache(maxsize=1024)  # likewise
def iso(instant: datetime) -> str:
    """RFC 3339 in UTC with a `Z`, with milliseconds only where there are any."""
    text = instant.astimezone(UTC).isoformat(timespec="milliseconds" if instant.microsecond else "seconds")
    return text.replace("+00:00", "Z")
