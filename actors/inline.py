"""The actors without threads: what waits in the outbox and on the agenda, carried out on the spot.

For tests. Dramatiq's own code works each message, with the whole middleware pipeline, in the
caller's thread.
"""

from typing import Any

import dramatiq
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.worker import WorkerThread

from actors.assembly import assemble
from actors.consumer import as_put_off, put_off_for
from actors.transport import OutboxTransport
from middleware.fairness import FairQueue
from tq.errors import InvalidSetting, NotNow
from tq.runtime import Runtime
from tq.store.agenda import Agenda


class InlineWorker:
    """Works everything that there is to do, in one thread."""

    def __init__(self, runtime: Runtime) -> None:
        broker = assemble(runtime)
        if not isinstance(broker, StubBroker) or not isinstance(runtime.transport, OutboxTransport):
            raise InvalidSetting("TQ_BROKER: the journey runs inline with TQ_BROKER=stub only")
        self._runtime = runtime
        self._outbox = runtime.transport.outbox
        self.broker = broker
        self._work_queue = FairQueue(runtime.limiter, runtime.bookkeeper)
        sources = {
            name: _Source(broker.consume(name, prefetch=1_000_000, timeout=0), runtime.store.agenda)
            for name in broker.queues
        }
        self._sources = sources
        consumers: dict[str, Any] = dict(sources)
        self._thread = WorkerThread(
            broker=broker, consumers=consumers, work_queue=self._work_queue, worker_timeout=0
        )

    def send(self, actor: str, *arguments: object) -> None:
        """Sends a message to an actor."""
        self.broker.get_actor(actor).send(*arguments)

    def drain(self) -> int:
        """Works until nothing is left to do now; returns how many messages that were."""
        worked = 0
        while True:
            self._runtime.store.agenda.release_due()
            self._pump()
            if not self._work_queue.qsize():
                return worked
            while self._work_queue.qsize():
                message = self._work_queue.get_nowait().message
                self._thread.process_message(message)
                # What a worker would only log is the test's business.
                if message._exception is not None and not isinstance(message._exception, NotNow):
                    raise message._exception
                worked += 1
                self._pump()

    def _pump(self) -> None:
        while body := self._runtime.store.connection.call("LPOP", self._outbox):
            self.broker.enqueue(dramatiq.Message.decode(body.encode()))
        for source in self._sources.values():
            for message in source.waiting():
                self._work_queue.put(_Item(message))


class _Item:
    """A message in the worker's queue."""

    def __init__(self, message: MessageProxy) -> None:
        self.message = message


class _Source:
    """A queue of the stub broker, in the shape that Dramatiq's worker thread expects."""

    def __init__(self, consumer: Consumer, agenda: Agenda) -> None:
        self._consumer = consumer
        self._agenda = agenda

    def waiting(self) -> list[MessageProxy]:
        """The messages that wait."""
        found = []
        while (message := next(self._consumer)) is not None:
            found.append(message)
        return found

    def post_process_message(self, message: MessageProxy) -> None:
        """Acknowledges a message that was worked, or puts it off, or rejects it."""
        delay = put_off_for(message)
        if delay is not None:
            self._agenda.put_off([as_put_off(message, delay, body=message.encode())])
        if message.failed:
            self._consumer.nack(message)
        else:
            self._consumer.ack(message)
