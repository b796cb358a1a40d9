"""A worker process that has nothing to do costs next to nothing, and begins at once when there is something."""

import time

import redis

from middleware.upkeep import IDLE_AFTER_S
from tests.end_to_end.conftest import System
from tests.end_to_end.flow_track import READY, let_pass
from tests.end_to_end.test_main_job import DIGEST, enable
from tests.waiting import eventually
from tq.child_process import kill_group
from tq.pipeline import start_run

MEASURED_S = 6.0  # two looks, of which an idle process does one in full


def commands_of(client: redis.Redis) -> int:
    """How many commands Redis has carried out, those of scripts included."""
    return int(client.info("stats")["total_commands_processed"])


def test_an_idle_worker_asks_redis_less_than_ten_times_a_second(system: System) -> None:
    runtime = system.open_runtime()
    client = runtime.store.connection.client
    enable(system, "ada")
    worker = system.start_worker(threads=8)
    eventually(lambda: READY in system.log_text(), why=system.log_text())
    let_pass(IDLE_AFTER_S)

    before, began = commands_of(client), time.monotonic()
    let_pass(MEASURED_S)
    commands = (commands_of(client) - before) / (time.monotonic() - began)
    start_run(runtime, DIGEST)

    eventually(lambda: len(system.endpoint.seen) == 1, why=system.log_text())
    kill_group(worker)
    assert commands < 10
