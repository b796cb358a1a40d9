"""What every worker process does beside its jobs, and what it does when it no longer can."""

import signal
import subprocess
import sys

import dramatiq
from dramatiq.brokers.stub import StubBroker
from loguru import logger

from actors.transport import make_transport
from middleware.upkeep import Upkeep
from tests.waiting import eventually
from tq.models import RunId
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings

DOOMED = """
import time
from types import SimpleNamespace
from threading import Event
import middleware.upkeep as upkeep
from dramatiq.brokers.stub import StubBroker

def broken():
    raise RuntimeError("a bug")

runtime = SimpleNamespace(
    stopping=Event(), executors=None, definitions=None,
    registry=SimpleNamespace(refresh=lambda: False),
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
