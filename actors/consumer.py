"""How a process takes messages from a queue and lets go of them, so that none is lost or held for ever.

- What a live process had fetched survives the loss of its connection.
- A message whose record could not be stored goes back to its queue instead of being acknowledged.
- A job that may not run now goes onto the agenda, in one step with leaving its queue.
- A job whose end is being stored is acknowledged in the same step as that.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import _RedisConsumer
from dramatiq.common import compute_backoff
from loguru import logger

from actors.encoding import redis_id_of
from tq.errors import NotHeld, NotNow, StoreError
from tq.models import Envelope, Permission
from tq.store import QueuedMessage
from tq.store.agenda import PutOff
from tq.store.refusals import explained

if TYPE_CHECKING:
    from actors.broker import Broker

# A consumer that is told of messages asks nevertheless, in case it was not.
ASK_ANYWAY_S = 15.0
# How late a consumer of a process that ends notices that it is to end itself.
LEAVING_PAUSE_S = 0.1
AGAIN_AFTER_S = 0.5
# Room for less than this part of what may be fetched is no reason for a round trip.
LEAST_PART = 4
# A script has no room for more messages at a time.
MOST_FETCHED = 5_000


class Consumer(_RedisConsumer):
    """Takes messages from a queue.

    After a lost connection Dramatiq makes a new consumer and forgets what the old one had fetched
    (its issue 527). This one takes over from its predecessor, and what was fetched by a command
    whose answer never came goes back to the queue. So does what this process has let go of by a
    command whose answer never came. `unsure` is set while there may be such messages, `outdated` when
    what was fetched has become somebody else's.
    """

    def __init__(
        self, broker: "Broker", queue_name: str, prefetch: int, timeout: int, predecessor: "Consumer | None"
    ) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call] # Dramatiq leaves it untyped
        self._held: set[str] = set()  # ids under which Redis keeps what was fetched
        self._permissions: dict[str, Permission] = {}  # by these ids, of those fetched last
        self._come_twice: set[str] = set()  # of those, whoever came again while the process had them
        self._fetched_as = broker.broker_id
        self._is_drained = False  # whether its queue was empty when it asked, and it would know otherwise
        self._least_room = max(1, prefetch // LEAST_PART)
        self.unsure = threading.Event()
        self.outdated = threading.Event()
        self.woken = threading.Event()
        self._taking = threading.Lock()  # for whoever takes messages
        self._is_retired = False
        if predecessor is not None:
            self._succeed(predecessor)

    def _succeed(self, predecessor: "Consumer") -> None:
        with predecessor._taking:
            predecessor._is_retired = True
            self.message_cache = predecessor.message_cache
        self.queued_message_ids = predecessor.queued_message_ids
        self._held, self._come_twice = predecessor._held, predecessor._come_twice
        self.unsure, self.outdated = predecessor.unsure, predecessor.outdated
        self.woken = predecessor.woken
        self.unsure.set()

    def __next__(self) -> MessageProxy | None:
        """The next message, or None if there was none in a while.

        Raises:
            dramatiq.ConnectionClosed: if Redis cannot be reached.
        """
        with self._taking:
            if self.message_cache and not self._has_news:
                return self._next_fetched()
            with _closing_on_loss():
                # First, so that it is not slept through what is told of from now on.
                if self.woken.is_set():
                    self.woken.clear()
                    self._is_drained = False
                if self.outdated.is_set():
                    self.outdated.clear()
                    self.message_cache = []
                    self.unsure.set()
                if self.unsure.is_set():
                    self._reconcile()
                if not self.broker.is_leaving and (self.message_cache or self._fetch()):
                    return self._next_fetched()
        self._rest()
        return None

    def take_at_once(self) -> list[MessageProxy]:
        """The messages of jobs that may begin at once, for another thread, which has just heard that there are some.

        It has woken up already, and to have it wake the consumer's own takes as long as some of what follows. What is
        not for it, or went wrong, is left to that one.
        """
        if not self._taking.acquire(blocking=False):
            self.woken.set()
            return []
        taken: list[MessageProxy] = []
        try:
            if not (self._is_retired or self.message_cache or self._has_news):
                self._is_drained = False
                self._fetch()
                for _ in range(min(len(self._permissions), len(self.message_cache))):
                    message = self._next_fetched()
                    if message is not None:
                        taken.append(message)
        except (redis.RedisError, dramatiq.ConnectionClosed):
            self.unsure.set()
        finally:
            if self.message_cache or not self._is_drained:
                self.woken.set()
            self._taking.release()
        return taken

    @property
    def _has_news(self) -> bool:
        return self.outdated.is_set() or self.unsure.is_set() or self.broker.is_leaving

    def _rest(self) -> None:
        """Waits until there may be messages."""
        if self.broker.is_leaving:
            self.woken.wait(LEAVING_PAUSE_S)
        elif self.broker.heard_as:
            if not self.woken.wait(ASK_ANYWAY_S):
                self._is_drained = False
        else:
            self.misses, pause_ms = compute_backoff(self.misses, max_backoff=self.timeout)
            self.woken.wait(pause_ms / 1000)

    def _fetch(self) -> bool:
        """Whether messages could be fetched."""
        if self._has_room and not self._is_drained:
            self._fetched_as, heard_as = self.broker.broker_id, self.broker.heard_as
            room = min(self.prefetch - self.outstanding_message_count, MOST_FETCHED)
            self.message_cache, self._permissions = self.broker.do_fetch(
                self.queue_name, room, heard_as=heard_as, least=self._least_room
            )
            # Of what comes after the last one it will be told.
            self._is_drained = bool(heard_as) and room - len(self.message_cache) >= self._least_room
        if self.message_cache:
            self.misses = 0
        return bool(self.message_cache)

    @property
    def _has_room(self) -> bool:
        return bool(self.prefetch - self.outstanding_message_count >= self._least_room)

    def _next_fetched(self) -> MessageProxy | None:
        body = self.message_cache.pop(0)
        if body is None:  # it was deleted while its id was in the queue
            return None
        try:
            message = _Fetched(dramatiq.Message.decode(body))
        except dramatiq.DecodeError as error:
            self._put_away(error)
            return None
        if message.options["redis_message_id"] in self._held:
            # Redis has gone back to before it was fetched, or others put it back: one of the two is enough.
            self._come_twice.add(message.options["redis_message_id"])
            return None
        self.queued_message_ids.add(message.message_id)
        self._held.add(message.options["redis_message_id"])
        if message.args and isinstance(message.args[0], Envelope):
            job = message.args[0]
            job.holder, job.queue = self._fetched_as, self.queue_name
            job.permission = self._permissions.get(job.message_id)
        return message

    def ack(self, message: MessageProxy) -> None:
        """Acknowledges a message; or puts it off if it may not run now, or back if its record could not be stored.

        One that others have by now is theirs to acknowledge.
        """
        delay = put_off_for(message)
        if delay is not None:
            self.broker.put_off([(message, delay)])
        elif isinstance(message._exception, NotHeld):
            self.let_go(message)
        elif isinstance(message._exception, StoreError):
            # What Redis has just refused it would refuse again, hundreds of times a second.
            if not self.broker.is_leaving:
                time.sleep(AGAIN_AFTER_S)
            self._put_back(message)
        elif message.args and isinstance(message.args[0], Envelope) and message.args[0].is_recorded:
            return  # acknowledged when its end is stored; the broker hears of that
        else:
            with self._not_waiting_to_end():
                super().ack(message)  # type: ignore[no-untyped-call] # likewise
            self.let_go(message)

    def nack(self, message: MessageProxy) -> None:
        """Moves a message to the dead letters."""
        with self._not_waiting_to_end():
            super().nack(message)  # type: ignore[no-untyped-call] # likewise
        self.let_go(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Puts messages back into their queue.

        Raises:
            dramatiq.ConnectionClosed: if Redis cannot be reached.
        """
        with _closing_on_loss():
            super().requeue(messages)  # type: ignore[no-untyped-call] # likewise
        self.broker.tell(self.queue_name)

    def let_go(self, message: MessageProxy) -> None:
        """Forgets a message that was fetched, so that another may be."""
        self._forget([(message.message_id, message.options["redis_message_id"])])

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """The messages of these jobs have been acknowledged."""
        # The store gives a message one id for both.
        self._forget([(job.message_id, job.message_id) for job in jobs])

    def close(self) -> None:
        """Puts back what was fetched and not yet handed out; if Redis is away, a successor has it.

        Raises:
            dramatiq.ConnectionClosed: if Redis cannot be reached.
        """
        with self._taking, _closing_on_loss():
            if self.message_cache:
                self.broker.do_requeue(self.queue_name, *_redis_ids(self.message_cache))
                self.message_cache = []
                self.broker.tell(self.queue_name)

    def _forget(self, ids: Iterable[tuple[str, str]]) -> None:
        had_room = self._has_room
        for message_id, redis_id in ids:
            self.queued_message_ids.discard(message_id)
            self._held.discard(redis_id)
            if redis_id in self._come_twice:
                # Only if the one that was worked had the same holder is the other acknowledged with it.
                self._come_twice.discard(redis_id)
                self.unsure.set()
                self.woken.set()
        if not had_room and self._has_room:
            self.woken.set()

    def _put_back(self, message: MessageProxy) -> None:
        """Puts a message back into its queue; if Redis is away, when it is there again."""
        self.let_go(message)
        try:
            self.requeue([message])
        except dramatiq.ConnectionClosed:
            self.unsure.set()

    @contextmanager
    def _not_waiting_to_end(self) -> Iterator[None]:
        """Dramatiq would try again for as long as it takes. To end, a process need not have acknowledged:
        the message comes back, and is dropped if the job's end was stored."""
        try:
            with _closing_on_loss():
                yield
        except dramatiq.ConnectionClosed:
            if not self.broker.is_leaving:
                raise

    def _put_away(self, unreadable: dramatiq.DecodeError) -> None:
        """Moves a message that nobody can read to the dead letters, or it would come again for ever."""
        try:
            [message_id] = _redis_ids([unreadable.data])
        except (LookupError, TypeError, ValueError):
            logger.error("message cannot be read, and has no id", queue=self.queue_name)
            return
        with _closing_on_loss():
            self.broker.do_nack(self.queue_name, message_id)
        logger.error(
            "message cannot be read; moved to the dead letters", queue=self.queue_name, message_id=message_id
        )

    def _reconcile(self) -> None:
        """Puts back what Redis counts as fetched by us, and we do not hold."""
        self.unsure.clear()  # first, so that what is let go of from now on is looked for the next time
        key = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{self.queue_name}"
        fetched = {member.decode() for member in self.broker.client.smembers(key)}
        unseen = fetched - set(_redis_ids(self.message_cache)) - self._held
        if unseen:
            self.broker.do_requeue(self.queue_name, *sorted(unseen))
            self.broker.tell(self.queue_name)


class _Fetched(MessageProxy):
    """A message with its fields at hand; Dramatiq's looks them up one by one, some twenty times a job."""

    put_off_for: timedelta | None = None  # middleware's mark

    def __init__(self, message: dramatiq.Message[Any]) -> None:
        super().__init__(message)
        self.queue_name, self.actor_name = message.queue_name, message.actor_name
        self.args, self.kwargs, self.options = message.args, message.kwargs, message.options
        self.message_id, self.message_timestamp = message.message_id, message.message_timestamp


def put_off_for(message: MessageProxy) -> timedelta | None:
    """After which delay a message wants to come again: by what its work raised, or by middleware's mark."""
    if isinstance(message._exception, NotNow):
        return message._exception.delay
    delay: timedelta | None = getattr(message, "put_off_for", None)
    return delay


def as_put_off(message: MessageProxy, delay: timedelta, *, body: bytes = b"") -> PutOff:
    """A job's message as the agenda takes it; Redis has the body."""
    queued = QueuedMessage(message.queue_name, message.options["redis_message_id"], body)
    return PutOff(message.args[0], queued, delay)


def _redis_ids(bodies: Iterable[bytes | None]) -> list[str]:
    """The ids under which Redis keeps these messages; one that was deleted meanwhile has no body."""
    return [redis_id_of(body) for body in bodies if body]


@contextmanager
def _closing_on_loss() -> Iterator[None]:
    """Dramatiq tries again after its own error only; for any other of Redis', such as a full memory, it gives up."""
    try:
        yield
    except redis.RedisError as error:
        raise dramatiq.ConnectionClosed(explained(error)) from None
