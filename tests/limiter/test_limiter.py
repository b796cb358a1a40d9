"""The limiter's threads in a worker process, with a real Redis and real time."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.worker import _WorkQueueItem

from middleware.fairness import FairQueue
from tests.limiter.fleet import adaptive
from tests.store import open_store
from tests.waiting import eventually
from tq.bookkeeper import Bookkeeper
from tq.clock import SystemClock
from tq.limiter import Limiter
from tq.limits import EVERY_TASK, Limit
from tq.models import Envelope, ErrorDetail, ExecutionResult, Outcome, TaskId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.connection import Connection
from tq.store.limits import Answer, Grant, Limits, Request
from tq.testing import make_envelope

A, B = TaskId("a"), TaskId("b")
FINE = ExecutionResult.success()
THROTTLED = ExecutionResult(outcome=Outcome.THROTTLED, http_status=429, retry_after=timedelta(seconds=300))
BROKEN = ExecutionResult(
    outcome=Outcome.RETRY, http_status=500, error=ErrorDetail(code="HTTP_500", retry=True)
)
HOUR = timedelta(hours=1)

_processes = count(1)


class NotedLimits(Limits):
    """The real thing, and a note of what was asked and given."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.requests: list[Request] = []
        self.grants: list[Grant] = []

    def exchange(self, request: Request) -> Answer:
        answer = super().exchange(request)
        self.requests.append(request)
        self.grants += answer.grants
        return answer

    @property
    def unused(self) -> int:
        """How many slots came back without a call."""
        return sum(ask.unused for request in self.requests for ask in request.tasks)


class Process:
    """What a worker process has of the limiter."""

    def __init__(self, store: Store, limits: dict[TaskId, Limit], *, everything: Limit | None = None) -> None:
        self.store = store
        self.limits = NotedLimits(store.connection)
        self.limiter = Limiter(
            self.limits,
            everything or adaptive(1000),
            lambda envelope: (limits[envelope.task_id], 4),
            process=f"process-{next(_processes)}",
        )
        self.queue = FairQueue(self.limiter, Bookkeeper(store.ledger, self.limiter))

    @contextmanager
    def running(self, *, threads: int = 4) -> Iterator["Process"]:
        """At work."""
        self.limiter.start(threads)
        try:
            yield self
        finally:
            self.limiter.stop()

    def call(self, envelope: Envelope, result: ExecutionResult = FINE) -> None:
        """Tells how a call came out."""
        self.limiter.learn(envelope, result, most_hold=HOUR)
        self.limiter.count(envelope, result)
        self.limiter.end(envelope)

    @contextmanager
    def working(
        self, *, threads: int, jobs: Callable[[], Any], waiting: int = 64
    ) -> Iterator[list[Envelope]]:
        """Threads that call one job after the other, of which there are always more; what they have begun."""
        begun: list[Envelope] = []
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                with suppress(queue.Empty):
                    envelope = envelope_of(self.queue.get(timeout=0.1))
                    begun.append(envelope)
                    self.call(envelope)
                    self.queue.put(jobs())

        for _ in range(waiting):
            self.queue.put(jobs())
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield begun
        finally:
            done.set()
            for worker in workers:
                worker.join()

    def has_slots_in_hand(self) -> bool:
        """Whether there are slots here that a job may yet use."""
        with self.limiter.lock:
            return self.limiter.agent.slot_at() < float("inf")

    @property
    def longest_absence(self) -> timedelta:
        """When a job that went back comes again at the latest."""
        return timedelta(seconds=self.limiter.LONGEST_ABSENCE_S * 1.25)

    def expected_wait(self, task: TaskId) -> float:
        """For how many seconds there is no slot of the task."""
        with self.limiter.lock:
            return self.limiter.agent.expected_wait(task, time.monotonic())


Start = Callable[..., Process]


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A store whose time is Redis' own."""
    with closing(open_store(redis_server.url, clock=SystemClock())) as store:
        yield store


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Starts processes under these limits."""
    with ExitStack() as stack:

        def begin(*, threads: int = 4, everything: Limit | None = None, **limits: Limit) -> Process:
            named = {TaskId(name): limit for name, limit in limits.items()}
            process = Process(store, named, everything=everything)
            return stack.enter_context(process.running(threads=threads))

        yield begin


def job(task: TaskId = A, *, number: int = 0, lane: str = "normal", attempt: int = 1) -> Any:
    """A job as a worker's queue holds it."""
    envelope = make_envelope(f"user-{number}", task_id=task, attempt=attempt)
    return _WorkQueueItem(0, MessageProxy(dramatiq.Message(lane, "execute", (envelope,), {}, {})))


def control() -> Any:
    """A control message."""
    return _WorkQueueItem(0, MessageProxy(dramatiq.Message("control", "distribute", ("run",), {}, {})))


def envelope_of(item: Any) -> Envelope:
    """The job of an item."""
    envelope = item.message.args[0]
    assert isinstance(envelope, Envelope)
    return envelope


# --- Leave to call --------------------------------------------------------------------------------


def test_a_call_may_begin_as_soon_as_there_is_a_slot(start: Start) -> None:
    process = start(a=adaptive(100))

    assert process.limiter.enter(make_envelope(task_id=A), patience_s=30) == 0


def test_who_cannot_begin_in_time_is_told_for_how_long_not(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))
    store.orders.pause(A)

    wait_s = process.limiter.enter(make_envelope(task_id=A), patience_s=0.05)

    assert 1 <= wait_s <= 10


def test_a_second_call_of_a_slow_task_is_told_to_come_back(start: Start) -> None:
    process = start(a=adaptive(0.2))

    first, second = make_envelope("ada", task_id=A), make_envelope("bob", task_id=A)

    assert process.limiter.enter(first, patience_s=30) == 0
    assert process.limiter.enter(second, patience_s=0.05) >= 1


def test_where_no_worker_runs_nothing_is_limited(store: Store) -> None:
    store.orders.pause(EVERY_TASK)
    process = Process(store, {A: adaptive(0.2)})

    assert [process.limiter.enter(make_envelope(task_id=A), patience_s=0) for _ in range(3)] == [0, 0, 0]


def test_a_job_that_begins_without_a_slot_waits_no_more(store: Store) -> None:
    process = Process(store, {A: adaptive(100)})
    envelope = make_envelope(task_id=A)

    with process.limiter.lock:
        process.limiter.wait(envelope, adaptive(100), 4)
        process.limiter.begin(envelope)

        assert process.limiter.agent.request(time.monotonic()) is None


def test_a_probe_counts_even_if_its_job_has_failed_before(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))

    def try_again() -> bool:
        envelope = make_envelope(task_id=A, attempt=1)
        if process.limiter.enter(envelope, patience_s=5) == 0:
            process.call(envelope, BROKEN)
        return state_of(store, A) != "closed"

    eventually(try_again)
    eventually(lambda: state_of(store, A) == "half_open")
    probe = make_envelope(task_id=A, attempt=2)

    eventually(lambda: process.limiter.enter(probe, patience_s=5) == 0)
    assert process.limiter.is_probe(probe)
    process.call(probe, BROKEN)

    eventually(lambda: state_of(store, A) == "open")


def state_of(store: Store, task: TaskId) -> str:
    """The task's breaker."""
    return store.limits.standings({task: adaptive(100), EVERY_TASK: adaptive(1000)})[task].state


def test_who_waits_sleeps_even_if_a_slot_of_another_task_is_there_that_nobody_uses(
    start: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(a=adaptive(100), b=adaptive(100))
    store.orders.pause(A)
    process.queue.put(job(B))
    eventually(process.has_slots_in_hand)
    turns = count()
    sleep = process.limiter.sleep
    monkeypatch.setattr(process.limiter, "sleep", lambda seconds: (next(turns), sleep(seconds)))

    process.limiter.enter(make_envelope(task_id=A), patience_s=1)

    assert next(turns) < 100


# --- Among processes ------------------------------------------------------------------------------


def test_a_pause_voids_what_every_process_has_in_hand(start: Start, store: Store) -> None:
    processes = [start(a=adaptive(4)) for _ in range(2)]
    for process in processes:
        process.queue.put(job())
    eventually(lambda: all(process.limits.grants for process in processes))

    store.orders.pause(A)

    eventually(lambda: not any(process.has_slots_in_hand() for process in processes))


def test_a_429_holds_the_task_in_every_process(start: Start) -> None:
    one, other = start(a=adaptive(20), b=adaptive(20)), start(a=adaptive(20), b=adaptive(20))
    other.queue.put(job(A))
    eventually(other.has_slots_in_hand)
    envelope = make_envelope(task_id=A)
    assert one.limiter.enter(envelope, patience_s=30) == 0

    one.call(envelope, THROTTLED)

    eventually(lambda: not other.has_slots_in_hand() and other.expected_wait(A) > 200)
    assert other.limiter.enter(make_envelope(task_id=B), patience_s=30) == 0


def test_the_end_of_a_pause_is_heard_by_who_waits(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))
    store.orders.pause(A)
    process.queue.put(job())
    eventually(lambda: process.expected_wait(A) > 1)

    store.orders.resume(A)

    assert process.queue.get(timeout=30)


# --- The end --------------------------------------------------------------------------------------


def test_a_process_that_stops_tells_how_its_last_calls_came_out(store: Store) -> None:
    process = Process(store, {A: adaptive(100, concurrency=3)})
    with process.running():
        for _ in range(2):
            envelope = make_envelope(task_id=A)
            assert process.limiter.enter(envelope, patience_s=30) == 0
            process.call(envelope)

    assert store.limits.outcomes([A], over=timedelta(minutes=1))[A].calls == 2
    assert sum(r.ok for request in process.limits.requests for ask in request.tasks for r in ask.reports) == 2
    assert store.connection.call("ZCARD", store.keys("places", A)) == 0


def test_a_process_that_stops_gives_back_what_it_has_in_hand(store: Store) -> None:
    process = Process(store, {A: adaptive(2, concurrency=3)})
    with process.running():
        for number in range(3):
            process.queue.put(job(number=number))
        eventually(lambda: len(process.limits.grants) >= 1)

    assert process.limits.unused == len(process.limits.grants)
    assert store.connection.call("ZCARD", store.keys("places", A)) == 0


def test_who_waits_for_a_slot_when_the_process_stops_is_let_go(store: Store) -> None:
    process = Process(store, {A: adaptive(100)})
    store.orders.pause(A)
    with process.running():
        thread = threading.Thread(
            target=process.limiter.enter, args=(make_envelope(task_id=A),), kwargs={"patience_s": 600}
        )
        thread.start()
        eventually(lambda: process.expected_wait(A) > 1)

    thread.join(timeout=30)
    assert not thread.is_alive()


# --- Redis goes and comes -------------------------------------------------------------------------


@pytest.mark.parametrize("persist", [True, False], ids=["kept", "lost"])
def test_calls_go_on_when_redis_is_killed_and_when_it_is_back(tmp_path: Path, persist: bool) -> None:
    with (
        RedisServer(tmp_path, persist=persist) as server,
        closing(open_store(server.url, clock=SystemClock())) as store,
        Process(store, {A: adaptive(100)}).running(threads=8) as process,
        process.working(threads=8, jobs=job) as begun,
    ):
        eventually(lambda: len(begun) > 100)

        server.kill()
        at_kill = len(begun)
        eventually(lambda: len(begun) > at_kill + 100)

        server.start()
        exchanges = len(process.limits.requests)
        eventually(lambda: len(process.limits.requests) > exchanges)
        at_start = len(begun)
        eventually(lambda: len(begun) > at_start + 100)

        store.orders.pause(A)
        eventually(lambda: process.expected_wait(A) > 1)


# --- The worker's queue ---------------------------------------------------------------------------


def test_sixteen_threads_begin_each_job_once_and_each_with_a_slot_of_its_own(store: Store) -> None:
    process = Process(store, {A: adaptive(400), B: adaptive(400)})
    jobs, begun, lock = 600, Counter[str](), threading.Lock()

    def work() -> None:
        while sum(begun.values()) < jobs:
            try:
                item = process.queue.get(timeout=0.1)
            except queue.Empty:
                continue
            envelope = envelope_of(item)
            with lock:
                begun[envelope.job_id] += 1
            assert process.limiter.enter(envelope, patience_s=30) == 0
            process.call(envelope)
            process.queue.task_done()

    with process.running(threads=16):
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for number in range(jobs):
            process.queue.put(job(A if number % 3 else B, number=number))
        for thread in threads:
            thread.join(timeout=60)

    assert len(begun) == jobs
    assert set(begun.values()) == {1}
    assert len(process.limits.grants) == jobs + process.limits.unused
    assert process.queue.unfinished_tasks == 0
    assert process.limiter.agent.farewell().tasks == []


def test_control_messages_pass_while_all_jobs_wait(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))
    store.orders.pause(A)
    for number in range(20):
        process.queue.put(job(number=number))
    message = control()
    process.queue.put(message)

    assert process.queue.get(timeout=30) is message
    with pytest.raises(queue.Empty):
        process.queue.get(timeout=0.05)


def test_a_thread_that_sleeps_is_woken_by_a_control_message(start: Start) -> None:
    process = start()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(process.queue.get(timeout=60)))
    thread.start()
    message = control()

    process.queue.put(message)

    thread.join(timeout=30)
    assert found == [message]


def test_who_waits_without_a_limit_of_time_gets_what_comes(start: Start) -> None:
    process = start(a=adaptive(100))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(process.queue.get()), daemon=True)
    thread.start()
    item = job()

    process.queue.put(item)

    thread.join(timeout=30)
    assert found == [item]


def test_the_queue_is_emptied_at_shutdown_whatever_waits(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))
    store.orders.pause(A)
    items = [job(number=number) for number in range(5)] + [control()]
    for item in items:
        process.queue.put(item)

    taken = [process.queue.get(block=False) for _ in items]

    assert {id(item) for item in taken} == {id(item) for item in items}
    with pytest.raises(queue.Empty):
        process.queue.get(block=False)
    assert process.queue.qsize() == 0


# --- What must wait for long ----------------------------------------------------------------------


def test_jobs_of_a_paused_task_go_back_and_those_of_others_stay(start: Start, store: Store) -> None:
    process = start(a=adaptive(100), b=adaptive(100))
    store.orders.pause(A)
    for number in range(30):
        process.queue.put(job(A, number=number))
    eventually(lambda: process.expected_wait(A) > 1)
    for number in range(30):
        process.queue.put(job(B, number=number))

    withdrawn = process.queue.withdraw()

    assert {envelope_of(item).task_id for item, _ in withdrawn} == {A}
    assert all(timedelta(0) < delay <= 1.25 * process.longest_absence for _, delay in withdrawn)
    assert process.queue.qsize() == 60 - len(withdrawn)
    assert len(withdrawn) >= 28


def test_of_a_slow_task_those_stay_whose_turn_comes_soon(start: Start) -> None:
    process = start(a=adaptive(1))
    for number in range(30):
        process.queue.put(job(number=number))
    eventually(lambda: bool(process.limits.grants))

    withdrawn = {envelope_of(item).user_id for item, _ in process.queue.withdraw()}

    kept = []
    while process.queue.qsize():
        kept.append(envelope_of(process.queue.get(block=False)).user_id)
    assert 3 <= len(kept) <= 12
    assert kept == [f"user-{number}" for number in range(len(kept))]
    assert withdrawn == {f"user-{number}" for number in range(len(kept), 30)}


def test_what_was_withdrawn_and_given_away_is_waited_for_no_more(start: Start, store: Store) -> None:
    process = start(a=adaptive(100))
    store.orders.pause(A)
    for number in range(10):
        process.queue.put(job(number=number))
    eventually(lambda: process.expected_wait(A) > 1)

    withdrawn = process.queue.withdraw()
    process.queue.given_away(len(withdrawn))

    assert process.queue.unfinished_tasks == 10 - len(withdrawn)
