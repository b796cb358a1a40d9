"""Threads, the queue and the bookkeeper together: every job is handed out once, and its end is stored."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import current_millis
from dramatiq.worker import ConsumerThread, _WorkQueueItem

from middleware.fairness import MOST_AT_ONCE, FairDispatch, FairQueue
from tests.store import distribute, end_of, fresh_store, hold, jobs_sent, names, running
from tests.waiting import eventually
from tq.bookkeeper import Bookkeeper
from tq.limiter import Limiter
from tq.limits import Limit
from tq.models import SUSPECTS, Envelope, RunId
from tq.models.rates import Strategy
from tq.redis_server import RedisServer
from tq.store import Store

HOLDER = "process-1"
UNLIMITED = Limit(Strategy.ADAPTIVE, 1000.0, 1000.0, 1000.0)


class Workshop:
    """Threads that work jobs, as a worker process has them; the limiter limits nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.limiter = Limiter(store.limits, UNLIMITED, lambda _job: (UNLIMITED, 1), process="test")
        self.bookkeeper = Bookkeeper(store.ledger, self.limiter)
        self.queue = FairQueue(self.limiter, self.bookkeeper)
        self.worked: list[str] = []
        self.settled: list[Envelope] = []  # their ends are stored
        self.hands: set[int] = set()  # the threads that have worked
        self.beside_suspects: set[str] = set()
        self.slow: set[str] = set()  # whose calls last until they are let go
        self.let_go = threading.Event()
        self._at_work: set[str] = set()
        self._over = threading.Event()

    @contextmanager
    def at_work(self, threads: int) -> Iterator[None]:
        """Has so many threads work."""
        self.bookkeeper.start(self.queue, on_settled=self.settled.extend)
        crew = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in crew:
            thread.start()
        yield
        self._over.set()
        self.queue.close()
        for thread in crew:
            thread.join(timeout=10)
        self.bookkeeper.stop()

    def put(self, jobs: list[Envelope], *, queue_name: str = "normal") -> None:
        """Has jobs wait that the process has fetched."""
        hold(self.store, HOLDER, *jobs)
        for job in jobs:
            self.queue.put(_item(job, queue_name))

    def _work(self) -> None:
        while not self._over.is_set():
            with suppress(queue.Empty):
                message = self.queue.get(timeout=0.1).message
                job = message.args[0]
                self.hands.add(threading.get_ident())
                self._at_work.add(job.user_id)
                if job.is_suspect:
                    self.beside_suspects |= self._at_work - {job.user_id}
                if job.user_id in self.slow:
                    job.called_at = time.monotonic()
                    self.let_go.wait(timeout=30)
                    job.called_at = None
                self.worked.append(job.user_id)
                self._at_work.discard(job.user_id)
                assert self.bookkeeper.record(end_of(job))
                self.queue.worked(message)


def _item(job: Envelope, queue_name: str = "normal") -> _WorkQueueItem:
    return _WorkQueueItem(0, MessageProxy(dramatiq.Message(queue_name, "execute", (job,), {}, {})))


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    with fresh_store(redis_server.url) as store:
        yield store


def jobs_of(store: Store, users: int) -> tuple[RunId, list[Envelope]]:
    """The jobs of a run."""
    run_id = running(store, names(users))
    distribute(store, run_id)
    return run_id, jobs_sent(store)


@pytest.mark.parametrize("threads", [1, 4, 40])
def test_every_job_is_worked_once_and_counted_whatever_the_number_of_threads(
    store: Store, threads: int
) -> None:
    run_id, jobs = jobs_of(store, 300)
    shop = Workshop(store)

    with shop.at_work(threads):
        shop.put(jobs)
        eventually(lambda: store.runs.get(run_id).counts.success == 300)

    assert sorted(shop.worked) == names(300)


def test_jobs_that_come_one_at_a_time_are_worked_by_a_few_threads_of_many(store: Store) -> None:
    _, jobs = jobs_of(store, 40)
    shop = Workshop(store)

    with shop.at_work(40):
        for worked, job in enumerate(jobs, start=1):
            eventually(lambda: shop.queue._idle == 40)
            shop.put([job])
            eventually(lambda: len(shop.worked) == worked)  # noqa: B023 - asked before the next one comes

    # Not by one: another is woken where one that was woken does not come within milliseconds.
    assert len(shop.hands) <= 10


def test_a_job_that_comes_with_the_ledgers_leave_begins_without_a_question(store: Store) -> None:
    _, [first, job] = jobs_of(store, 2)
    shop = Workshop(store)

    with shop.at_work(2):
        shop.put([first])
        eventually(lambda: shop.settled == [first] and shop.queue._idle == 2)
        [job.permission] = store.ledger.begin([job])
        hold(store, HOLDER, job)
        before = store.connection.round_trips
        shop.queue.put(_item(job))
        eventually(lambda: shop.settled == [first, job])
        asked = store.connection.round_trips - before

    assert shop.worked == [first.user_id, job.user_id]
    assert asked == 1  # to store its end


@pytest.mark.parametrize(
    "why", ["no thread rests", "the process ends", "there is no slot", "a suspect waits"]
)
def test_leave_is_given_up_by_a_job_that_has_to_wait(store: Store, why: str) -> None:
    _, [job, suspect, before_it] = jobs_of(store, 3)
    shop = Workshop(store)
    shop.slow = {before_it.user_id}
    threads = 0 if why == "no thread rests" else 3

    with shop.at_work(threads):
        eventually(lambda: shop.queue._idle == threads)
        [job.permission] = store.ledger.begin([job])
        if why == "the process ends":
            shop.bookkeeper.close()
        if why == "there is no slot":
            shop.limiter.is_running = True  # and nobody asks for any
        if why == "a suspect waits":
            shop.put([before_it])
            eventually(lambda: shop._at_work == shop.slow)
            shop.put([suspect], queue_name=SUSPECTS)
        shop.queue.put(_item(job))

        assert job.permission is None
        assert shop.queue.qsize() == (2 if why == "a suspect waits" else 1)
        shop.let_go.set()


def test_there_are_as_many_threads_to_spare_as_rest_while_nothing_waits(store: Store) -> None:
    _, jobs = jobs_of(store, 2)
    shop = Workshop(store)
    shop.slow = {jobs[0].user_id}
    assert shop.queue.spare() == 0

    with shop.at_work(3):
        eventually(lambda: shop.queue._idle == 3)
        assert shop.queue.spare() == 3
        shop.put(jobs[:1])
        eventually(lambda: shop._at_work == shop.slow)
        assert shop.queue.spare() == 2
        shop.put(jobs[1:], queue_name=SUSPECTS)  # which waits for the other
        assert shop.queue.spare() == 0
        shop.let_go.set()
        eventually(lambda: len(shop.settled) == 2)


def test_of_many_threads_few_are_kept_to_spare(store: Store) -> None:
    shop = Workshop(store)

    with shop.at_work(20):
        eventually(lambda: shop.queue._idle == 20)
        assert shop.queue.spare() == MOST_AT_ONCE


def test_a_message_that_is_no_job_does_not_make_slow_jobs_look_quick(store: Store) -> None:
    _, jobs = jobs_of(store, 1)
    queue_ = Workshop(store).queue
    learnt = queue_._staffing
    for _ in range(200):
        learnt.begin()
        learnt.end(0.2)
    queue_.put(_WorkQueueItem(0, MessageProxy(dramatiq.Message("control", "tick", (), {}, {}))))

    queue_.worked(queue_.get(timeout=5).message)
    with suppress(queue.Empty):
        queue_.get(timeout=0.01)

    assert learnt.wanted(8, left=0, stuck=0, now=1.0) == 8
    assert jobs[0].took_s is None


def test_a_delayed_message_that_strangers_sent_is_kept_until_it_is_due(store: Store) -> None:
    shop, broker = Workshop(store), StubBroker(middleware=[])
    broker.declare_queue("control")
    consumer = ConsumerThread(
        broker=broker, queue_name="control.DQ", prefetch=1, work_queue=shop.queue, worker_timeout=1
    )
    FairDispatch(shop.limiter, shop.bookkeeper).after_consumer_thread_boot(broker, consumer)
    consumer.consumer = broker.consume("control.DQ")
    now_ms = current_millis()
    for eta in (now_ms + 3_600_000, now_ms):
        message: dramatiq.Message[None] = dramatiq.Message("control.DQ", "tick", (), {}, {"eta": eta})
        consumer.handle_message(MessageProxy(message))

    consumer.handle_delayed_messages()

    assert broker.queues["control"].qsize() == 1
    assert consumer.delay_queue.qsize() == 1


def test_quick_jobs_are_not_kept_by_slow_ones_among_them(store: Store) -> None:
    run_id, jobs = jobs_of(store, 200)
    shop = Workshop(store)
    shop.slow = {job.user_id for job in jobs[:6]}

    with shop.at_work(8):
        shop.put(jobs)
        eventually(lambda: store.runs.get(run_id).counts.success == 194)
        shop.let_go.set()
        eventually(lambda: store.runs.get(run_id).counts.success == 200)

    assert set(shop.worked[:194]).isdisjoint(shop.slow)


def test_suspects_among_many_are_worked_beside_nobody(store: Store) -> None:
    run_id, jobs = jobs_of(store, 60)
    shop = Workshop(store)

    with shop.at_work(8):
        shop.put(jobs[:20])
        shop.put(jobs[20:25], queue_name=SUSPECTS)
        shop.put(jobs[25:])
        eventually(lambda: store.runs.get(run_id).counts.success == 60)

    assert sorted(shop.worked) == names(60)
    assert shop.beside_suspects == set()
