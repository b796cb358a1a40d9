"""Consumers are told when there is something in their queue, instead of asking for it again and again.

Who finds its queue empty is noted as waiting there, and whoever puts messages into it wakes as many processes as it
puts, those that have least to do: to wake all of them for each message would cost most where there are many. What goes
back into a queue, and what an actor sends, is told to all.

Each worker process listens in one thread, which fetches jobs that can begin at once itself, and else wakes the consumer
of that queue; or whoever keeps the agenda, if something there is due at once. Nothing depends on it but time: a consumer
that was not told asks by itself every few seconds, and every second while its process cannot listen.
"""

import threading
import uuid
from contextlib import closing

import dramatiq
import redis
from dramatiq.worker import ConsumerThread
from loguru import logger

from actors.broker import Broker
from actors.consumer import Consumer
from tq.store.agenda import DUE_NOW
from tq.store.connection import open_client

LISTEN_AGAIN_S = 1.0
# So long the thread may take to notice that it is to end.
WAIT_S = 0.25


class WakeUps(dramatiq.Middleware):
    """Listens from the worker's boot to its end."""

    def __init__(self, redis_url: str, *, agenda: threading.Event, log_commands: bool = False) -> None:
        """`agenda` is what wakes its keeper."""
        self._redis_url = redis_url
        self._log_commands = log_commands
        self._agenda = agenda
        self._stopping = threading.Event()
        self._takers: dict[str, ConsumerThread] = {}

    def after_consumer_thread_boot(self, _broker: dramatiq.Broker, thread: ConsumerThread) -> None:
        """Knows who takes messages from a queue."""
        self._takers[thread.queue_name] = thread

    def after_worker_boot(self, broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Begins to listen."""
        if isinstance(broker, Broker):
            self._stopping.clear()
            threading.Thread(target=self._listen, args=(broker,), name="wake-ups", daemon=True).start()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Ends listening."""
        self._stopping.set()

    def _listen(self, broker: Broker) -> None:
        while not self._stopping.is_set():
            try:
                self._hear(broker)
            except redis.RedisError as error:
                logger.debug("wake-ups not heard for a moment", reason=str(error))
            broker.heard_as = ""
            # What was put into queues meanwhile is not to wait until the next time that they would look.
            broker.wake()
            self._stopping.wait(LISTEN_AGAIN_S)

    def _hear(self, broker: Broker) -> None:
        client = open_client(
            self._redis_url, decode_responses=True, retries=0, log_commands=self._log_commands
        )
        name = uuid.uuid4().hex
        own = f"{broker.wake_channel}:{name}"
        unheard = {broker.wake_channel, own}
        with closing(client), client.pubsub() as channel:
            channel.subscribe(*unheard)
            while not self._stopping.is_set():
                heard = channel.get_message(timeout=WAIT_S)
                if heard is None:
                    continue
                if heard["type"] == "subscribe":
                    unheard.discard(heard["channel"])
                    if not unheard:
                        broker.heard_as = name
                        broker.wake()
                elif heard["type"] == "message" and heard["data"] == DUE_NOW:
                    self._agenda.set()
                elif heard["type"] == "message" and heard["channel"] == own and broker.is_leaving:
                    broker.tell(heard["data"])  # somebody is to come
                elif heard["type"] == "message" and heard["channel"] == own:
                    self._take(broker, heard["data"])
                elif heard["type"] == "message":
                    broker.wake(heard["data"])

    def _take(self, broker: Broker, queue: str) -> None:
        """Has jobs begin that can at once, and wakes the consumer for all others."""
        thread = self._takers.get(queue)
        if thread is None or thread.paused or not isinstance(thread.consumer, Consumer):
            broker.wake(queue)
        else:
            for message in thread.consumer.take_at_once():
                thread.handle_message(message)
