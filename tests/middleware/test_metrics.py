"""What a worker process notes of its work, and when that reaches Redis."""

import threading
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker

from actors.encoding import MessageEncoder
from actors.transport import make_transport
from middleware.metrics import Metrics
from tests.waiting import eventually
from tq.models import Envelope
from tq.runtime import Runtime
from tq.settings import Settings
from tq.telemetry.observations import TICK, WAIT
from tq.testing import make_envelope

dramatiq.set_encoder(MessageEncoder())


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A worker's runtime."""
    settings.tasks_file.write_text("tasks: []")
    runtime = Runtime(settings, make_transport(settings))
    yield runtime
    runtime.close()


def message_of(actor: str) -> MessageProxy:
    return MessageProxy(dramatiq.Message("control", actor, (), {}, {}))


def test_a_ticks_time_is_noted_and_no_other_messages(runtime: Runtime) -> None:
    metrics, broker = Metrics(runtime), StubBroker(middleware=[])
    for actor in ("tick", "distribute"):
        metrics.before_process_message(broker, message_of(actor))
        metrics.after_process_message(broker, message_of(actor))

    [(task, of_task)] = runtime.observations.take().items()

    assert (task, [*of_task]) == ("", [TICK])
    assert sum(of_task[TICK][:-1]) == 1


def test_a_tick_that_failed_says_nothing_of_how_long_ticks_take(runtime: Runtime) -> None:
    metrics, broker = Metrics(runtime), StubBroker(middleware=[])
    metrics.before_process_message(broker, message_of("tick"))
    metrics.after_process_message(broker, message_of("tick"), exception=RuntimeError("no"))

    assert runtime.observations.take() == {}


def test_how_long_a_job_waited_for_its_slot_is_noted(runtime: Runtime) -> None:
    limiter, envelope = runtime.limiter, make_envelope("ada")
    limiter.start(1)
    entered = threading.Event()

    def enter(job: Envelope) -> None:
        assert limiter.enter(job, patience_s=30) == 0
        entered.set()

    threading.Thread(target=enter, args=(envelope,)).start()
    eventually(entered.is_set)
    limiter.stop()

    *buckets, total = runtime.observations.take()[envelope.task_id][WAIT]
    assert sum(buckets) == 1
    assert total > 0
