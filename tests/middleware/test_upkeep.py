"""What every worker process does beside its jobs, and what it does when it no longer can."""

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from loguru import logger

from actors.broker import make_broker
from actors.transport import make_transport
from middleware import upkeep
from middleware.upkeep import Upkeep
from tests.bad_days import administrator, full
from tests.waiting import eventually
from tq.models import RunId
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings

if TYPE_CHECKING:
    import loguru

DOOMED = """
import time
from types import SimpleNamespace
from threading import Event
import middleware.upkeep as upkeep
from dramatiq.brokers.stub import StubBroker

def broken():
    raise RuntimeError("a bug")

runtime = SimpleNamespace(
    settings=SimpleNamespace(health_file=None), stopping=Event(), executors=None, definitions=None,
    registry=SimpleNamespace(refresh=lambda: False),
    facts={},
    store=SimpleNamespace(agenda=SimpleNamespace(release=broken), heartbeats=None),
)
upkeep.RELEASE_EVERY_S = 0.01
upkeep.Upkeep(runtime).after_worker_boot(StubBroker(), SimpleNamespace(work_queue=None))
time.sleep(60)
"""


def test_a_process_whose_upkeep_breaks_ends_so_that_another_is_started() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DOOMED], capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == -signal.SIGTERM
    assert "the process ends, to be started anew" in done.stderr


def test_what_comes_due_is_released_and_trouble_with_redis_is_told_once(
    redis_server: RedisServer, settings: Settings
) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="INFO")
    settings.tasks_file.write_text("tasks: []")
    runtime = Runtime(settings, make_transport(settings))
    connection = runtime.store.connection
    broker = StubBroker(middleware=[Upkeep(runtime)])
    worker = dramatiq.Worker(broker, worker_threads=1)

    worker.start()
    redis_server.kill()
    eventually(lambda: "upkeep failed, trying again" in told)
    redis_server.start()
    eventually(lambda: "upkeep works again" in told)
    message = runtime.transport.distribution_message(RunId("some~run"))
    connection.calls(
        [
            (
                "HSET",
                runtime.store.keys("agenda_messages"),
                "d|some~run",
                f"{message.queue}\n{message.id}\n{message.body.decode()}",
            ),
            ("ZADD", runtime.store.keys("agenda"), 1, "d|some~run"),
        ]
    )
    eventually(lambda: connection.call("LLEN", f"{settings.namespace}:outbox") == 1)
    connection.calls([("DEL", f"{settings.namespace}:outbox")])
    worker.stop()
    logger.remove(sink)

    assert told.count("upkeep failed, trying again") == 1


def test_the_health_file_is_touched_as_long_as_the_loop_turns_also_while_redis_is_away(
    tmp_path: Path, settings: Settings
) -> None:
    file = tmp_path / "healthy"
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "health_file": file})
    away.tasks_file.write_text("tasks: []")
    runtime = Runtime(away, make_transport(away))
    worker = dramatiq.Worker(StubBroker(middleware=[Upkeep(runtime)]), worker_threads=1)

    worker.start()
    eventually(file.exists)
    first = file.stat().st_mtime_ns
    eventually(lambda: file.stat().st_mtime_ns > first)
    worker.stop()

    assert not file.exists()


def test_what_redis_says_to_a_recovery_is_told_with_a_remedy(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, object, str]] = []

    def hear(message: "loguru.Message") -> None:
        fields = message.record["extra"]
        told.append((message.record["message"], fields.get("step"), str(fields.get("reason"))))

    sink = logger.add(hear, level="INFO")
    monkeypatch.setattr(upkeep, "LOOK_EVERY", timedelta(milliseconds=100))
    with RedisServer(tmp_path / "redis", persist=False) as server, administrator(server.url) as admin:
        own = settings.model_copy(update={"redis_url": server.url, "broker": "redis"})
        own.tasks_file.write_text("tasks: []")
        runtime = Runtime(own, make_transport(own))
        broker = make_broker(own, [Upkeep(runtime)], runtime.store)
        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()

        with full(admin):
            eventually(lambda: any(step == "recovery" for _, step, _ in told))
        eventually(lambda: any((what, step) == ("upkeep works again", "recovery") for what, step, _ in told))
        worker.stop()
        broker.close()
    logger.remove(sink)

    reasons = [reason for _, step, reason in told if step == "recovery"]
    assert reasons[0].startswith("Redis is full (maxmemory) and takes nothing new; raise its maxmemory")
