"""Workers and schedulers show themselves, and Redis away costs them nothing but that."""

import signal
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from loguru import logger

from actors.assembly import assemble
from actors.transport import make_transport
from middleware.presence import SchedulerPresence
from tests.waiting import eventually
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.heartbeats import SCHEDULER, WORKER


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """What the middleware is made around; without any task."""
    settings.tasks_file.write_text("tasks: []")
    opened = Runtime(settings, make_transport(settings))
    yield opened
    opened.close()


def shown(runtime: Runtime) -> list[str]:
    """The components of the processes that show themselves."""
    return [process.component for process in runtime.store.vitals.signs().processes]


def ticking(runtime: Runtime) -> "dramatiq.Actor[[], None]":
    """The tick of a scheduler that is made around a runtime."""
    broker = StubBroker(middleware=[SchedulerPresence(runtime)])

    @dramatiq.actor(broker=broker, actor_name="tick", queue_name="control")
    def _tick() -> None: ...

    return _tick


def test_a_worker_is_shown_from_its_boot_to_its_end(settings: Settings, runtime: Runtime) -> None:
    of_worker = settings.model_copy(update={"broker": "redis"})
    worker = dramatiq.Worker(assemble(Runtime(of_worker, make_transport(of_worker))), worker_threads=1)

    worker.start()
    eventually(lambda: shown(runtime) == [WORKER])
    worker.stop()

    assert shown(runtime) == []


def test_a_scheduler_is_shown_with_each_tick_that_it_sends_by_schedule(runtime: Runtime) -> None:
    tick = ticking(runtime)

    tick.send()
    by_hand = shown(runtime)
    tick.send_with_options(scheduled_at="2026-11-24 09:45:00+00:00")

    assert by_hand == []
    assert shown(runtime) == [SCHEDULER]


def test_the_health_file_of_a_scheduler_is_touched_as_it_wakes_up_also_while_redis_is_away(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "healthy"
    ends = signal.getsignal(signal.SIGTERM)
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "health_file": file})
    tick = ticking(Runtime(away, make_transport(away)))

    tick.send()
    by_hand = file.exists()
    tick.send_with_options(scheduled_at="2026-11-24 09:45:00+00:00")

    signal.signal(signal.SIGTERM, ends)  # a scheduler's, which removes its file, is not this process'
    assert not by_hand
    assert file.exists()


def test_a_tick_is_sent_although_its_scheduler_cannot_be_shown(settings: Settings) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    tick = ticking(Runtime(away, make_transport(away)))

    tick.send_with_options(scheduled_at="2026-11-24 09:45:00+00:00")
    logger.remove(sink)

    assert told == ["scheduler not shown; the next tick shows it"]
    assert tick.broker.queues["control"].qsize() == 1
