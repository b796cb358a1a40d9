"""The middleware pipeline on StubBroker with real worker threads."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import SkipMessage
from loguru import logger

from actors.encoding import MessageEncoder
from actors.transport import make_transport
from middleware.context import LogContext
from middleware.fairness import LEAST_PREFETCH, FairDispatch, FairQueue
from tests.waiting import eventually
from tq.bookkeeper import Bookkeeper
from tq.limiter import Limiter
from tq.limits import limit_everything
from tq.models import Envelope
from tq.runtime import Runtime
from tq.settings import Settings
from tq.telemetry import configure_logs
from tq.testing import make_envelope

dramatiq.set_encoder(MessageEncoder())


class Skipping(dramatiq.Middleware):
    """Skips every message."""

    def before_process_message(self, _broker: dramatiq.Broker, _message: object) -> None:
        raise SkipMessage


class OpenLimiter(Limiter):
    """Is never started, so that nothing is limited."""

    def start(self, threads: int) -> None:
        """Does not."""


@pytest.fixture
def dispatch(settings: Settings) -> FairDispatch:
    """Hands out jobs with a limiter that limits nothing."""
    runtime = Runtime(settings, make_transport(settings))
    limiter = OpenLimiter(
        runtime.store.limits, limit_everything(settings), runtime.limiter.limit_of, process="test"
    )
    return FairDispatch(limiter, Bookkeeper(runtime.store.ledger, limiter))


@pytest.fixture
def lines(settings: Settings) -> Iterator[list[dict[str, object]]]:
    """The fields of every line that is logged."""
    configure_logs(settings, stream=io.StringIO())
    found: list[dict[str, object]] = []
    sink = logger.add(lambda message: found.append(dict(message.record["extra"])), level="INFO")
    yield found
    logger.remove(sink)


def work(broker: StubBroker, *queues: str, threads: int = 1) -> None:
    """Works everything that waits."""
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=10)
    worker.start()
    for queue in queues:
        broker.join(queue)
    worker.join()
    worker.stop()


def test_lines_of_a_jobs_work_carry_its_ids_and_lines_after_it_do_not(lines: list[dict[str, object]]) -> None:
    broker = StubBroker(middleware=[LogContext()])

    @dramatiq.actor(broker=broker, actor_name="execute", queue_name="normal")
    def _execute(_envelope: object) -> None:
        logger.info("at work")

    @dramatiq.actor(broker=broker, actor_name="other", queue_name="normal")
    def _other() -> None:
        logger.info("at work")

    envelope = make_envelope("ada", attempt=3)
    _execute.send(envelope)
    _other.send()

    work(broker, "normal")

    at_work = [line for line in lines if line]
    assert at_work[0] == {
        "task_id": "email_digest",
        "user_id": "ada",
        "run_id": envelope.run_id,
        "job_id": envelope.job_id,
        "attempt": 3,
    }
    assert at_work[1] == {"actor": "other"}


def test_a_skipped_message_leaves_no_ids_behind(lines: list[dict[str, object]]) -> None:
    context, broker = LogContext(), StubBroker(middleware=[])
    message = dramatiq.broker.MessageProxy(
        dramatiq.Message("normal", "execute", (make_envelope("ada"),), {}, {})
    )

    context.before_process_message(broker, message)
    context.after_skip_message(broker, message)
    logger.info("after it")

    assert lines == [{}]


def test_a_worker_gets_the_fair_queue_before_its_threads_exist(dispatch: FairDispatch) -> None:
    broker = StubBroker(middleware=[dispatch])
    worker = dramatiq.Worker(broker, worker_threads=2)

    worker.start()

    assert isinstance(worker.work_queue, FairQueue)
    assert worker.queue_prefetch == LEAST_PREFETCH
    assert all(thread.work_queue is worker.work_queue for thread in worker.workers)
    worker.stop()


class LedgerBroker(StubBroker):
    """A broker that leaves it to the ledger to acknowledge jobs."""

    spare: Callable[[], int] = int

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """Nothing to acknowledge."""


def test_a_broker_whose_jobs_may_come_with_leave_knows_how_many_threads_rest(dispatch: FairDispatch) -> None:
    broker = LedgerBroker(middleware=[dispatch])
    worker = dramatiq.Worker(broker, worker_threads=3)

    worker.start()

    eventually(lambda: broker.spare() == 3)
    worker.stop()


def test_a_worker_serves_low_priority_while_high_waits_and_control_before_all(dispatch: FairDispatch) -> None:
    broker = StubBroker(middleware=[dispatch])
    served: list[str] = []
    gate = threading.Event()

    @dramatiq.actor(broker=broker, actor_name="control", queue_name="control")
    def _control() -> None:
        served.append("control")

    for queue in ("high", "normal", "low"):
        broker.declare_queue(queue)

    @dramatiq.actor(broker=broker, actor_name="execute", queue_name="normal")
    def _execute(envelope: object) -> None:
        gate.wait(timeout=30)
        served.append(str(getattr(envelope, "task_id", "")))

    def send(queue: str) -> None:
        message = _execute.message(make_envelope("ada", task_id=queue)).copy(queue_name=queue)
        broker.enqueue(message)

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    for queue in ("low", "high", "normal"):
        for _ in range(21):
            send(queue)
    eventually(lambda: worker.work_queue.qsize() == 62)
    _control.send()
    eventually(lambda: worker.work_queue.qsize() == 63)
    gate.set()
    for queue in ("control", "high", "normal", "low"):
        broker.join(queue)
    worker.join()
    worker.stop()

    assert served[1] == "control"
    assert served[2:23].count("high") == 16
    assert served[2:23].count("normal") == 4
    assert served[2:23].count("low") == 1
    assert len(served) == 64
