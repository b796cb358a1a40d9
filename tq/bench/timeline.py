"""Simulated time: what is to happen when."""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tq.clock import to_ms

BEGIN = datetime(2026, 11, 24, tzinfo=UTC)  # any day will do; scripts see instants as large as real ones
BEGIN_MS = to_ms(BEGIN)


class Timeline:
    """Seconds from the beginning of a simulation; a Clock, too, which Redis' scripts take for the present."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, second: float, happen: Callable[[], None]) -> None:
        """Plans something; what is planned for one instant happens in the order in which it was planned."""
        self._count += 1
        heapq.heappush(self._planned, (second, self._count, happen))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Plans something for so many seconds from now."""
        self.at(self.seconds + seconds, happen)

    def run(self, until: float) -> None:
        """Has everything happen that is planned up to an instant, and what comes of it."""
        while self._planned and self._planned[0][0] <= until:
            self.seconds, _, happen = heapq.heappop(self._planned)
            happen()

    def now(self) -> datetime:
        """The present instant."""
        return BEGIN + timedelta(seconds=self.seconds)

    @property
    def override_ms(self) -> float:
        """The same in milliseconds, as scripts get it."""
        return BEGIN_MS + self.seconds * 1000
