"""Whoever hears of jobs that could begin at once fetches them itself; the consumer's own thread has the rest."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.worker import ConsumerThread

from actors.broker import Broker, Fetched
from actors.consumer import Consumer
from actors.encoding import EXECUTE
from actors.transport import DramatiqTransport
from actors.wake import WakeUps
from tests.waiting import eventually
from tq.models import Priority
from tq.settings import Settings
from tq.store import Store
from tq.store.agenda import DUE_NOW
from tq.testing import make_envelope

QUEUE = Priority.NORMAL.value
LISTENER = "wake-ups"


class Desk(queue.PriorityQueue[Any]):
    """A worker's queue that notes which thread has put whose job there."""

    def __init__(self) -> None:
        super().__init__()
        self.by: dict[str, str] = {}

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002 - the signature is queue.Queue's
        """Notes it."""
        self.by[item.message.args[0].user_id] = threading.current_thread().name


class Process:
    """A worker process without threads for work: one consumer, and who listens for it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._agenda = threading.Event()
        wake_ups = WakeUps(settings.redis_url, agenda=self._agenda)
        self.broker = Broker(settings, [wake_ups], store)
        self.broker.spare = lambda: 100
        dramatiq.actor(broker=self.broker, actor_name=EXECUTE, queue_name=QUEUE)(lambda _job: None)
        self.desk = Desk()
        self.thread = ConsumerThread(
            broker=self.broker, queue_name=QUEUE, prefetch=8, work_queue=self.desk, worker_timeout=1
        )
        self.thread.name = "consumer"
        self.broker.emit_after("worker_boot", None)
        eventually(lambda: bool(self.broker.heard_as))
        self.thread.start()
        eventually(lambda: self._is_waiting)

    @property
    def _is_waiting(self) -> bool:
        return bool(self.broker.client.zcard(f"{self.broker.namespace}:{QUEUE}.waiting"))

    @property
    def consumer(self) -> Consumer:
        """The one that the thread has now."""
        assert isinstance(self.thread.consumer, Consumer)
        return self.thread.consumer

    def put(self, *users: str) -> None:
        """Puts a job per user into the queue, and has a process that waits woken."""
        transport = DramatiqTransport(self._settings)
        for user in users:
            message = transport.job_message(make_envelope(user), Priority.NORMAL)
            self.broker.client.hset(f"{self.broker.namespace}:{QUEUE}.msgs", message.id, message.body)
            self.broker.client.rpush(f"{self.broker.namespace}:{QUEUE}", message.id)
        self.broker.client.eval(f"{transport.enqueue_lua} wake('{QUEUE}', 1)", 0)

    def hear_out(self) -> None:
        """Has it deal with all that it was told so far."""
        self._agenda.clear()
        self.broker.client.publish(f"{self.broker.wake_channel}:{self.broker.heard_as}", DUE_NOW)
        assert self._agenda.wait(timeout=10)

    @property
    def waiting(self) -> int:
        """How many messages nobody has fetched."""
        return int(self.broker.client.llen(f"{self.broker.namespace}:{QUEUE}"))

    def end(self) -> None:
        """Ends its threads."""
        self.thread.stop()
        self.broker.emit_after("worker_shutdown", None)
        eventually(lambda: not self.broker.heard_as)
        self.broker.wake()
        self.thread.join(timeout=10)
        self.broker.client.close()


@pytest.fixture
def process(settings: Settings, store: Store) -> Iterator[Process]:
    """A process that waits for jobs."""
    made = Process(settings, store)
    yield made
    made.end()


def test_a_job_that_may_begin_at_once_needs_no_other_thread_to_be_fetched(process: Process) -> None:
    process.put("ada")
    eventually(lambda: "ada" in process.desk.by)
    process.put("bob")
    eventually(lambda: "bob" in process.desk.by)

    assert process.desk.by == {"ada": LISTENER, "bob": LISTENER}


def test_what_cannot_begin_at_once_is_left_to_the_consumer(process: Process) -> None:
    process.broker.spare = lambda: 1
    process.put("ada", "bob", "cyd")

    eventually(lambda: len(process.desk.by) == 3)

    assert process.desk.by == {"ada": LISTENER, "bob": "consumer", "cyd": "consumer"}


def test_of_a_process_without_a_thread_to_spare_the_consumer_takes_all(process: Process) -> None:
    process.broker.spare = int
    process.put("ada")

    eventually(lambda: "ada" in process.desk.by)

    assert process.desk.by == {"ada": "consumer"}


def test_of_a_consumer_that_is_paused_nothing_is_taken(process: Process) -> None:
    process.thread.pause()

    process.put("ada")
    process.hear_out()

    assert process.desk.by == {}
    assert process.waiting == 1


def test_what_was_fetched_by_a_command_whose_answer_was_lost_comes_all_the_same(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = process.broker.do_fetch

    def losing(*arguments: Any, **options: Any) -> Fetched:
        monkeypatch.setattr(process.broker, "do_fetch", fetch)
        fetch(*arguments, **options)
        raise redis.ConnectionError("lost")

    monkeypatch.setattr(process.broker, "do_fetch", losing)
    process.put("ada")

    eventually(lambda: "ada" in process.desk.by)


def test_a_consumer_that_has_a_successor_takes_nothing_any_more(process: Process) -> None:
    process.thread.pause()
    process.put("ada")
    process.hear_out()
    retired = process.consumer
    successor = process.broker.consume(QUEUE, prefetch=8)
    assert next(successor) is not None
    process.put("bob")

    assert retired.take_at_once() == []
    assert process.waiting == 1
    assert [message.args[0].user_id for message in successor.take_at_once()] == ["bob"]


def test_one_who_hears_while_the_consumer_is_fetching_leaves_it_to_that(process: Process) -> None:
    with process.consumer._taking:
        assert process.consumer.take_at_once() == []

    assert process.consumer.woken.is_set()
