"""What is due later: retries, and the next slots of runs."""

from tq.store.connection import Connection

# One script releases so many entries: about 2 ms of Redis' time.
BATCH = 200


class Agenda:
    """The entries that wait for their time."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def release_due(self, *, limit: int = BATCH) -> int:
        """Puts everything that has come due into its queue; returns how many messages that were."""
        released = 0
        while True:
            now_released, due = self._redis.script("release", limit)
            released += int(now_released)
            if int(due) < limit:
                return released

    def size(self) -> int:
        """How many entries wait."""
        return int(self._redis.call("ZCARD", self._keys("agenda")))
