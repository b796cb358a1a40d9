"""Which process tells of what is not well, and what was told: the same for all processes, over restarts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tq.clock import duration_ms, from_ms, to_ms
from tq.store.connection import Argument, Connection

_HEARTBEAT = "@heartbeat"
_OF_OURS = "@"  # begins the name of a field that is no check's


@dataclass(frozen=True, slots=True)
class Notes:
    """What stands there at an instant: an alert per check, as it was written, and the last heartbeat."""

    now: datetime
    alerts: Mapping[str, str]
    heartbeat_at: datetime | None


class Alerts:
    """The watch, which one process at a time has, and its notes."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def take(
        self,
        process: str,
        *,
        lasts: timedelta,
        changes: Mapping[str, str | None] | None = None,
        heartbeat_at: datetime | None = None,
    ) -> Notes | None:
        """Takes the watch, or goes on with it, and notes what has changed, in one step; None forgets an alert.

        Returns None if another process has it: then nothing is noted.

        Raises:
            StoreError: if Redis did not do it.
        """
        fields = {check: text or "" for check, text in (changes or {}).items()}
        if heartbeat_at is not None:
            fields[_HEARTBEAT] = str(to_ms(heartbeat_at))
        words: list[Argument] = [word for field in fields.items() for word in field]
        is_mine, now, found = self._redis.script("watch", process, duration_ms(lasts), *words)
        if not is_mine:
            return None
        notes = dict(zip(found[::2], found[1::2], strict=True))
        beat = notes.get(_HEARTBEAT)
        return Notes(
            now=from_ms(int(now)),
            alerts={check: text for check, text in notes.items() if not check.startswith(_OF_OURS)},
            heartbeat_at=None if beat is None else from_ms(int(beat)),
        )

    def give_up(self, process: str) -> None:
        """Lets another process have the watch at once.

        Raises:
            StoreError: if Redis did not do it; then it is free when its time is over.
        """
        self._redis.script("watch", process, 0)
