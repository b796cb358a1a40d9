"""`tq debug` and real processes: a busy worker's hot function, a scheduler, and who does not answer."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.end_to_end.commands import Commands
from tests.end_to_end.test_scheduler import sleeps
from tests.waiting import eventually
from tq.models import TaskId, UserId
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.heartbeats import SCHEDULER, WORKER, Process
from tq.store.preferences import Enable

JOBS = 3_000  # more than are carried out while they are looked at


@pytest.fixture
def commands(tmp_path: Path, own_redis: RedisServer) -> Iterator[Commands]:
    """The commands, for tasks of Python code."""
    made = Commands(
        tmp_path,
        own_redis.url,
        "tasks: []",
        {
            "TQ_TASK_MODULES": "tests.end_to_end.busy_tasks",
            "TQ_RATE_LIMIT": "10000",
            "TQ_DEBUG_ENDPOINTS": "true",
        },
    )
    yield made
    made.stop()


def shown(runtime: Runtime, component: str) -> list[Process]:
    return [found for found in runtime.store.vitals.signs().processes if found.component == component]


def started_worker(commands: Commands, runtime: Runtime, **environment: str) -> Process:
    """A worker that shows itself."""
    commands.environment |= environment
    commands.start_worker(threads=8)
    eventually(lambda: bool(shown(runtime, WORKER)), why=commands.log_text())
    return shown(runtime, WORKER)[0]


def test_a_profile_of_a_busy_worker_names_the_hot_function(commands: Commands, tmp_path: Path) -> None:
    runtime = commands.open_runtime()
    users = [Enable(UserId(f"user-{number}"), TaskId("busy")) for number in range(JOBS)]
    runtime.store.preferences.apply(users)
    worker = started_worker(commands, runtime)
    triggered = commands.run("trigger", "busy")
    assert triggered.returncode == 0, triggered.stderr
    [run] = runtime.store.runs.latest()
    eventually(lambda: runtime.store.runs.get(run.id).counts.success > 0, why=commands.log_text())

    before = runtime.store.runs.get(run.id).counts.success
    made = commands.run(
        "debug", "profile", str(worker.pid), "--seconds", "1", "--output", str(tmp_path), "--json"
    )

    assert made.returncode == 0, made.stderr
    [profile] = orjson.loads(made.stdout)
    assert (profile["component"], profile["pid"]) == (WORKER, worker.pid)
    hottest = profile["hottest"][0]
    assert (hottest["function"], hottest["file"]) == ("crunch", "tests/end_to_end/busy_tasks.py")
    assert hottest["share"] > 0.5
    assert "crunch" in Path(profile["path"]).read_text()
    assert runtime.store.runs.get(run.id).counts.success > before


def test_worker_and_scheduler_are_found_by_their_ids_or_all_at_once(commands: Commands) -> None:
    runtime = commands.open_runtime()
    worker = started_worker(commands, runtime)
    scheduler = commands.start_scheduler()
    eventually(lambda: bool(shown(runtime, SCHEDULER)), why=commands.log_text())

    threads = commands.run("debug", "threads", str(worker.pid))
    everybody = commands.run("debug", "threads", "all", "--json")
    heap = commands.run("debug", "heap", str(scheduler.pid))

    assert threads.returncode == everybody.returncode == heap.returncode == 0, threads.stderr
    assert "upkeep [" in threads.stdout
    assert {(told["component"], told["pid"]) for told in orjson.loads(everybody.stdout)} == {
        (WORKER, worker.pid),
        (SCHEDULER, scheduler.pid),
    }
    assert "objects by type" in heap.stdout
    # periodiq, whose one thread sleeps until the next minute, still does.
    eventually(lambda: sleeps(scheduler.pid))
    os.kill(scheduler.pid, signal.SIGALRM)
    assert scheduler.poll() is None


def test_a_worker_without_endpoints_says_how_to_get_them(commands: Commands) -> None:
    runtime = commands.open_runtime()
    worker = started_worker(commands, runtime, TQ_DEBUG_ENDPOINTS="false")

    told = commands.run("debug", "threads", str(worker.pid))

    assert (told.returncode, told.stdout) == (1, "")
    assert "does not answer; set TQ_DEBUG_ENDPOINTS=true for it and restart it" in told.stderr
    assert worker.debug_port is None


def test_debug_redis_tells_every_command_by_name(commands: Commands) -> None:
    runtime = commands.open_runtime()
    started_worker(commands, runtime, DEBUG_REDIS="true", TQ_DEBUG_ENDPOINTS="false")
    runtime.store.preferences.apply([Enable(UserId("ada-planted"), TaskId("busy"))])
    commands.run("trigger", "busy", "--wait")

    lines = [
        orjson.loads(line)
        for line in (commands.logs / "worker.log").read_text().splitlines()
        if line.startswith("{")
    ]
    told = [line for line in lines if line["message"] == "redis command"]

    assert all(line["duration_ms"] >= 0 for line in told)
    assert {"fetch", "recover", "beat"} <= {line.get("script") for line in told}
    assert {"SUBSCRIBE", "pipeline"} <= {line["command"] for line in told}
    assert not [line for line in told if "ada-planted" in str(line)]
