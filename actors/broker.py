"""Dramatiq's broker, with what the promises need beyond it.

- No delay queues: what is due later stands on the agenda. Their consumers would poll for nothing.
- Whatever a dead process had fetched comes back within seconds, found by whoever looks, instead of
  by one command in a thousand.
- Jobs that a process had begun when it died are suspected of having killed it, and worked alone.
- What a process that ends has fetched is back in its queue when it has ended.

What concerns the messages of one queue in one process stands in `actors/consumer.py`.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.resources import files
from typing import Any, NamedTuple

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import MiddlewareError
from loguru import logger
from redis.commands.core import Script

from actors.consumer import Consumer, as_put_off
from actors.encoding import TICK
from actors.transport import broker_namespace
from tq.errors import StoreError
from tq.models import SUSPECTS, Envelope, Permission, Priority
from tq.settings import Settings
from tq.store import Store
from tq.store.commands import name_script
from tq.store.connection import open_client
from tq.store.ledger import permissions_in
from tq.store.refusals import explained

JOB_QUEUES = frozenset({*(priority.value for priority in Priority), SUSPECTS})
# A live process shows itself every three seconds, in its upkeep.
DEAD_AFTER_MS = 15_000


class Fetched(NamedTuple):
    """What a process was handed: bodies of messages, None for one that was deleted while its id was in the queue.

    `permissions` is what the ledger says of the first of them, by the id of the message.
    """

    bodies: list[bytes | None]
    permissions: dict[str, Permission]


class Broker(RedisBroker):
    """A Redis broker without delay queues, that recovers what dead processes had fetched."""

    def __init__(self, settings: Settings, middleware: list[dramatiq.Middleware], store: Store) -> None:
        self._before, self._after = _Listeners(self, "before_"), _Listeners(self, "after_", last_first=True)
        super().__init__(  # type: ignore[no-untyped-call] # Dramatiq leaves it untyped
            # A fetch is not to be repeated behind our back: what its lost answer held would be forgotten.
            client=open_client(
                settings.redis_url,
                decode_responses=False,
                retries=0,
                log_commands=settings.debug_redis,
            ),
            namespace=broker_namespace(settings.namespace),
            middleware=middleware,
            heartbeat_timeout=DEAD_AFTER_MS,
            maintenance_chance=0,
        )
        self._agenda, self._keys, self._clock = store.agenda, store.keys, store.clock
        self._begun = self._keys("begun", "")
        self._consumers: dict[str, Consumer] = {}
        self._server: bytes | None = None
        self._is_outdated = False
        self.generation = 0  # rises when all that was fetched has become somebody else's
        self.is_leaving = False
        # The name under which this process is woken when messages are put into queues; '' while it cannot be.
        self.heard_as = ""
        self.wake_channel = self._keys("wake")
        for name, script in self.scripts.items():
            name_script(script, name, has_actions=name == "dispatch")  # one for all that Dramatiq does
        self._fetch = name_script(self.client.register_script(store.connection.source("fetch")), "fetch")
        # For how many jobs there is somebody who could begin at once.
        self.spare: Callable[[], int] = int
        self._recover = self._script("recover")
        self._leave = self._script("leave")

    def _script(self, name: str) -> Script:
        text = (files("actors") / f"{name}.lua").read_text()
        return name_script(self.client.register_script(text), name)

    def add_middleware(self, middleware: dramatiq.Middleware, **where: Any) -> None:
        """Adds a middleware."""
        super().add_middleware(middleware, **where)
        self._before.clear()
        self._after.clear()

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Has those hear of a signal who listen to it; Dramatiq calls all, many times for each message.

        Raises:
            MiddlewareError: whatever stops a message.
        """
        for listener in self._before[signal]:
            try:
                listener(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.logger.critical("middleware failed before %s", signal, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Likewise, last ones first."""
        for listener in self._after[signal]:
            try:
                listener(self, *args, **kwargs)
            except Exception:
                self.logger.critical("middleware failed after %s", signal, exc_info=True)

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

    def do_fetch(self, queue_name: str, most: int, *, heard_as: str = "", least: int = 1) -> Fetched:
        """Takes so many messages at most from a queue, in the name of this process.

        If the queue is empty then, and there is room for `least` more, the process will be woken under the name
        `heard_as`, if it is not empty, when more come; unless others who wait for them are woken first.
        For as many jobs as could begin at once the ledger's leave comes with them; suspects are for the bookkeeper.

        Raises:
            redis.RedisError: if Redis did not do it, or it is not known whether it did.
        """
        busy_with = sum(consumer.outstanding_message_count for consumer in list(self._consumers.values()))
        begun = 0 if queue_name == SUSPECTS else self.spare()
        who = (self.broker_id, queue_name, most, heard_as, least, busy_with, begun)
        asked = time.monotonic()
        bodies, ids, answer = self._fetch(keys=[self._keys.prefix], args=[self._clock.override_ms, *who])
        permissions = permissions_in([text.decode() for text in answer], asked) if ids else []
        return Fetched(bodies, dict(zip((text.decode() for text in ids), permissions, strict=True)))

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

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """The messages of these jobs are acknowledged; others may be fetched. Any thread may call this."""
        by_queue: defaultdict[str, list[Envelope]] = defaultdict(list)
        for job in jobs:
            by_queue[job.queue].append(job)
        for queue_name, acknowledged in by_queue.items():
            self._consumers[queue_name].settled(acknowledged)

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
        arguments = [self.broker_id, SUSPECTS, self.heard_as, *sorted(self.queues)]
        returned = int(self._leave(keys=keys, args=arguments))
        # Also if nothing was put back: whoever has woken this process in its last moment takes it that somebody comes.
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


class _Listeners(dict[str, list[Callable[..., None]]]):
    """Those of a broker's middleware that listen to a signal, by signal, in the order in which they hear of it."""

    def __init__(self, broker: Broker, when: str, *, last_first: bool = False) -> None:
        super().__init__()
        self._broker, self._when, self._last_first = broker, when, last_first

    def __missing__(self, signal: str) -> list[Callable[..., None]]:
        hook = self._when + signal
        deaf = getattr(dramatiq.Middleware, hook, None)
        found = [
            getattr(each, hook)
            for each in self._broker.middleware
            if getattr(type(each), hook, deaf) is not deaf
        ]
        self[signal] = found[::-1] if self._last_first else found
        return self[signal]


def make_broker(
    settings: Settings, middleware: list[dramatiq.Middleware], store: Store
) -> Broker | StubBroker:
    """The broker that the settings ask for."""
    if settings.broker == "stub":
        return StubBroker(middleware=middleware)
    return Broker(settings, middleware, store)
