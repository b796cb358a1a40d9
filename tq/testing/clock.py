"""A clock that stands still until it is told to move."""

from datetime import UTC, datetime, timedelta

from tq.clock import to_ms


class FrozenClock:
    """Time for tests; handed to a store, it replaces Redis' own."""

    def __init__(self, at: datetime | str) -> None:
        self._now = utc(at) if isinstance(at, str) else at.astimezone(UTC)

    def now(self) -> datetime:
        """The instant at which it stands."""
        return self._now

    @property
    def override_ms(self) -> int:
        """The same in milliseconds since the epoch."""
        return to_ms(self._now)

    def advance(self, by: timedelta) -> datetime:
        """Moves on, and returns where it stands then."""
        self._now += by
        return self._now

    def move_to(self, at: datetime | str) -> datetime:
        """Moves to an instant, forward or back."""
        self._now = utc(at) if isinstance(at, str) else at.astimezone(UTC)
        return self._now


def utc(text: str) -> datetime:
    """The UTC instant of a text such as `2026-10-24T12:00`."""
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
