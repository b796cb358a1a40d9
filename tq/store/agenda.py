"""What is due later: retries, jobs that were put off, and the next slots of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from tq.clock import duration_ms, to_ms
from tq.models import Envelope, RunId
from tq.store.connection import Argument, Connection, chunks
from tq.store.transport import QueuedMessage

# One script releases, or puts off, so many entries: about 2 ms of Redis' time.
BATCH = 200
# What is told on the channel `wake` when something is due at once.
DUE_NOW = "agenda"


@dataclass(frozen=True)
class PutOff:
    """A job's message that is to come again later. Where the broker has its body, that may be empty."""

    envelope: Envelope
    message: QueuedMessage
    delay: timedelta


class Release(NamedTuple):
    """How many messages were put into their queues, and how many entries wait for their time."""

    messages: int
    left: int


class Agenda:
    """The entries that wait for their time."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._keys = connection.keys

    def release_due(self, *, limit: int = BATCH) -> int:
        """Puts everything that has come due into its queue; returns how many messages that were."""
        return self.release(limit=limit).messages

    def release(self, *, limit: int = BATCH) -> Release:
        """Puts everything that has come due into its queue."""
        messages = 0
        while True:
            released, due, left = self._redis.script("release", limit)
            messages += int(released)
            if int(due) < limit:
                return Release(messages, int(left))

    def put_off(self, messages: Sequence[PutOff], *, holder: str = "") -> int:
        """Has messages that a process has fetched and not begun come again later; returns how many will.

        Left as they are: those that the holder does not hold any more. Dropped: those whose job has
        ended or has a later attempt on its way. An attempt that is put off is not spent.

        Raises:
            StoreError: if Redis did not say that it was done; asking once more does no harm.
        """
        put_off = 0
        for some in chunks(messages, BATCH):
            arguments: list[Argument] = [holder]
            for one in some:
                envelope, message = one.envelope, one.message
                arguments += [envelope.run_id, envelope.user_id, envelope.attempt, duration_ms(one.delay)]
                arguments += [message.queue, message.id, message.body]
            put_off += int(self._redis.script("put_off", *arguments))
        return put_off

    def distribute_by(self, run_id: RunId, instant: datetime) -> None:
        """Has a run distributed further at an instant, if it is not to be earlier, nor has been to its end."""
        self._redis.call("ZADD", self._keys("agenda"), "XX", "LT", to_ms(instant), f"d|{run_id}")

    def size(self) -> int:
        """How many entries wait."""
        return int(self._redis.call("ZCARD", self._keys("agenda")))
