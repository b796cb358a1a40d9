"""Dramatiq's broker, with what the promises need beyond it.

- No delay queues: what is due later stands on the agenda. Their consumers would poll for nothing.
- Whatever a dead process had fetched comes back within seconds, found by whoever looks, instead of
  by one command in a thousand.
- Jobs that a process had begun when it died are suspected of having killed it, and worked alone.
- What a live process had fetched survives the loss of its connection.
- What a process that ends has fetched is back in its queue when it has ended.
- A message whose record could not be stored goes back to its queue instead of being acknowledged.
- A job that may not run now goes onto the agenda, in one step with leaving its queue.
"""

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.resources import files
from typing import Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import compute_backoff
from loguru import logger

from actors.encoding import TICK, redis_id_of
from actors.transport import broker_namespace
from tq.errors import NotHeld, NotNow, StoreError
from tq.models import SUSPECTS, Priority
from tq.settings import Settings
from tq.store import QueuedMessage
from tq.store.agenda import Agenda, PutOff
from tq.store.connection import open_client
from tq.store.keys import Keys
from tq.store.refusals import explained

JOB_QUEUES = frozenset({*(priority.value for priority in Priority), SUSPECTS})
# A live process shows itself every three seconds, in its upkeep.
DEAD_AFTER_MS = 15_000
# A consumer that is told of messages asks nevertheless, in case it was not.
ASK_ANYWAY_S = 15.0
# How late a consumer of a process that ends notices that it is to end itself.
LEAVING_PAUSE_S = 0.1
AGAIN_AFTER_S = 0.5


class Broker(RedisBroker):
    """A Redis broker without delay queues, that recovers what dead processes had fetched."""

    def __init__(self, settings: Settings, middleware: list[dramatiq.Middleware], agenda: Agenda) -> None:
        super().__init__(  # type: ignore[no-untyped-call] # Dramatiq leaves it untyped
            # A fetch is not to be repeated behind our back: what its lost answer held would be forgotten.
            client=open_client(settings.redis_url, decode_responses=False, retries=0),
            namespace=broker_namespace(settings.namespace),
            middleware=middleware,
            heartbeat_timeout=DEAD_AFTER_MS,
            maintenance_chance=0,
        )
        self._agenda = agenda
        self._keys = Keys(settings.namespace)
        self._begun = self._keys("begun", "")
        self._consumers: dict[str, Consumer] = {}
        self._server: bytes | None = None
        self._is_outdated = False
        self.generation = 0  # rises when all that was fetched has become somebody else's
        self.is_leaving = False
        self.is_told = False  # of messages that are put into queues; see actors/wake.py
        self.wake_channel = self._keys("wake")
        self._recover = self.client.register_script((files("actors") / "recover.lua").read_text())
        self._leave = self.client.register_script((files("actors") / "leave.lua").read_text())

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "Consumer":
        """What takes messages from a queue; it takes over from the one before it.

        Of suspects a process has one at a time, so that others share them and its threads are free.
        """
        if queue_name == SUSPECTS:
            prefetch = 1
        consumer = Consumer(self, queue_name, prefetch, timeout, self._consumers.get(queue_name))
        self._consumers[queue_name] = consumer
        return consumer

    def declare_queue(self, queue_name: str) -> None:
        """Declares a queue, without one for delayed messages beside it."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Puts a message into its queue.

        Raises:
            ValueError: if it is to be delayed; the agenda is for that.
        """
        if delay is not None:
            raise ValueError(
                f"{message.actor_name}: messages are not delayed here; put an entry on the agenda"
            )
        try:
            enqueued = super().enqueue(message)
        except redis.RedisError as error:
            if message.actor_name != TICK:
                raise
            # periodiq would end by it. A lost tick costs nothing: the next one looks back.
            logger.warning("tick not sent; the next one makes up for it", reason=str(explained(error)))
            return message
        self.tell(message.queue_name)
        return enqueued

    def tell(self, queue_name: str = "") -> None:
        """Wakes the consumers of a queue in all processes, or those of all queues; if that fails, they ask by themselves."""
        with suppress(redis.RedisError):
            self.client.publish(self.wake_channel, queue_name)

    def wake(self, queue_name: str = "") -> None:
        """Has this process' consumer of a queue ask for messages at once, or all of them."""
        for name, consumer in list(self._consumers.items()):
            if queue_name in ("", name):
                consumer.woken.set()

    def recover(self) -> int:
        """Shows that this process lives, and puts back what dead ones had fetched; returns how many messages.

        Raises:
            redis.RedisError: if Redis did not do it.
        """
        recovered, is_new, server = self._show(self.broker_id)
        if self._server and (is_new or server != self._server):
            logger.warning(
                "process was taken for dead, or Redis started anew; what it had fetched is dropped"
            )
            self._is_outdated = True
        self._server = server
        if self._is_outdated:
            # Whatever is noted under the old identity comes back like a dead process'. The new one is
            # known to live before anything is fetched under it.
            name = str(uuid.uuid4())
            recovered += self._show(name)[0]
            self.broker_id = name
            self.generation += 1
            self._is_outdated = False
        if recovered:
            self.tell()
        return recovered

    def _show(self, name: str) -> tuple[int, bool, bytes]:
        """Shows that a process of this name lives; how many messages of dead ones were put back, whether
        nobody knew that it lives, and which server this is."""
        jobs, others = sorted(self.queues & JOB_QUEUES), sorted(self.queues - JOB_QUEUES)
        arguments = [name, DEAD_AFTER_MS, SUSPECTS, len(jobs), *jobs, *others]
        recovered, is_new, server = self._recover(keys=[self.namespace, self._begun], args=arguments)
        return int(recovered), bool(is_new), bytes(server)

    def forget(self, messages: Sequence[MessageProxy]) -> None:
        """Lets go of these messages, and of all that was fetched and not handed out yet.

        Others have them by now if this process was taken for dead, and the server has them in its queues
        if it has gone back in time. What is this process' all the same goes back to its queue.
        """
        for message in messages:
            self._consumers[message.queue_name].let_go(message)
        for consumer in self._consumers.values():
            consumer.outdated.set()
        self.wake()

    def stop_fetching(self, messages: Sequence[MessageProxy]) -> None:
        """Fetches no more, and has these and all that was fetched and not handed out go back to their queues."""
        self.is_leaving = True
        self.forget(messages)

    def leave(self) -> int:
        """Puts back what this process has not acknowledged, as if it had not been begun; returns how many messages.

        Nobody knows of the process afterwards.

        Raises:
            redis.RedisError: if Redis did not do it; then it is done when the process is found dead.
        """
        keys = [self.namespace, self._keys("begun", self.broker_id), self._keys("suspects")]
        returned = int(self._leave(keys=keys, args=[self.broker_id, SUSPECTS, *sorted(self.queues)]))
        if returned:
            self.tell()
        return returned

    def put_off(self, messages: Sequence[tuple[MessageProxy, timedelta]]) -> None:
        """Has jobs that this process has fetched and not begun come again later, each after its delay.

        They are the caller's no more, whatever happens: what Redis did not take is put back into its
        queue by the consumer, as soon as Redis can be reached. Any thread may call this.
        """
        consumers = {message.queue_name: self._consumers[message.queue_name] for message, _ in messages}
        # Before the step: once it is made a message can be fetched anew, and then it is held anew.
        for message, _ in messages:
            consumers[message.queue_name].let_go(message)
        try:
            self._agenda.put_off(
                [as_put_off(message, delay) for message, delay in messages], holder=self.broker_id
            )
        except StoreError as error:
            logger.warning(
                "jobs not put off; they go back to their queues", jobs=len(messages), reason=str(error)
            )
            for consumer in consumers.values():
                consumer.unsure.set()


class Consumer(_RedisConsumer):
    """Takes messages from a queue.

    After a lost connection Dramatiq makes a new consumer and forgets what the old one had fetched
    (its issue 527). This one takes over from its predecessor, and what was fetched by a command
    whose answer never came goes back to the queue. So does what this process has let go of by a
    command whose answer never came. `unsure` is set while there may be such messages, `outdated` when
    what was fetched has become somebody else's.
    """

    def __init__(
        self, broker: Broker, queue_name: str, prefetch: int, timeout: int, predecessor: "Consumer | None"
    ) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call] # Dramatiq leaves it untyped
        self._held: set[str] = set()
        self.unsure = threading.Event()
        self.outdated = threading.Event()
        self.woken = threading.Event()
        if predecessor is not None:
            self.message_cache = predecessor.message_cache
            self.queued_message_ids = predecessor.queued_message_ids
            self._held = predecessor._held
            self.unsure, self.outdated = predecessor.unsure, predecessor.outdated
            self.woken = predecessor.woken
            self.unsure.set()

    def __next__(self) -> MessageProxy | None:
        """The next message, or None if there was none in a while.

        Raises:
            dramatiq.ConnectionClosed: if Redis cannot be reached.
        """
        with _closing_on_loss():
            # First, so that it is not slept through what is told of from now on.
            self.woken.clear()
            if self.outdated.is_set():
                self.outdated.clear()
                self.message_cache = []
                self.unsure.set()
            if self.unsure.is_set():
                self._reconcile()
            if self.broker.is_leaving:
                self.woken.wait(LEAVING_PAUSE_S)
                return None
            return self._next_fetched() if self.message_cache or self._fetch() else None

    def _fetch(self) -> bool:
        """Whether messages could be fetched; if not, some time has passed meanwhile."""
        room = self.prefetch - self.outstanding_message_count
        if room > 0:
            self.message_cache = self.broker.do_fetch(self.queue_name, room)
        if self.message_cache:
            self.misses = 0
        elif room > 0 and self.broker.is_told:
            self.woken.wait(ASK_ANYWAY_S)
        else:
            self.misses, pause_ms = compute_backoff(self.misses, max_backoff=self.timeout)
            self.woken.wait(pause_ms / 1000)
        return bool(self.message_cache)

    def _next_fetched(self) -> MessageProxy | None:
        body = self.message_cache.pop(0)
        if body is None:  # it was deleted while its id was in the queue
            return None
        try:
            message = MessageProxy(dramatiq.Message.decode(body))
        except dramatiq.DecodeError as error:
            self._put_away(error)
            return None
        self.queued_message_ids.add(message.message_id)
        self._held.add(message.options["redis_message_id"])
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
        else:
            with self._not_waiting_to_end():
                super().ack(message)  # type: ignore[no-untyped-call] # likewise
            self._held.discard(message.options["redis_message_id"])

    def nack(self, message: MessageProxy) -> None:
        """Moves a message to the dead letters."""
        with self._not_waiting_to_end():
            super().nack(message)  # type: ignore[no-untyped-call] # likewise
        self._held.discard(message.options["redis_message_id"])

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
        self.queued_message_ids.discard(message.message_id)
        self._held.discard(message.options["redis_message_id"])

    def close(self) -> None:
        """Puts back what was fetched and not yet handed out; if Redis is away, a successor has it.

        Raises:
            dramatiq.ConnectionClosed: if Redis cannot be reached.
        """
        with _closing_on_loss():
            if self.message_cache:
                self.broker.do_requeue(self.queue_name, *_redis_ids(self.message_cache))
                self.message_cache = []
                self.broker.tell(self.queue_name)

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


def make_broker(
    settings: Settings, middleware: list[dramatiq.Middleware], agenda: Agenda
) -> Broker | StubBroker:
    """The broker that the settings ask for."""
    if settings.broker == "stub":
        return StubBroker(middleware=middleware)
    return Broker(settings, middleware, agenda)
