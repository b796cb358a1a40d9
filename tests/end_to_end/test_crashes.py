"""A job that kills its worker process each time ends as CRASHED; those fetched beside it are unharmed."""

from collections import Counter
from pathlib import Path

import pytest

from actors.broker import DEAD_AFTER_MS
from actors.transport import broker_namespace
from tests.end_to_end.commands import Commands
from tests.end_to_end.test_main_job import ended_runs
from tests.waiting import eventually
from tq.models import JobStatus, TaskId, UserId
from tq.outcomes import ErrorCode
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.preferences import Enable

REPORT = TaskId("report")
NEIGHBOURS = 40
DEADLY_MODULE = """
import os, signal
from tq.models import Interval
from tq.registry import task

@task("report", interval=Interval.daily(), retries=0)
def report(job):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(job.user_id + "\\n")
    if job.user_id == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def commands(tmp_path: Path, redis_server: RedisServer) -> Commands:
    (tmp_path / "deadly_reports.py").write_text(DEADLY_MODULE)
    environment = {
        "TQ_TASK_MODULES": "deadly_reports",
        "PYTHONPATH": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "TQ_NAMESPACE": tmp_path.name,
    }
    return Commands(tmp_path, redis_server.url, "tasks: []", environment)


def take_all_for_dead(runtime: Runtime) -> None:
    """Has Redis find at once what it would find after fifteen seconds."""
    alive = f"{broker_namespace(runtime.settings.namespace)}:alive"
    for process in runtime.store.connection.call("ZRANGE", alive, 0, -1):
        runtime.store.connection.call("ZINCRBY", alive, -2 * DEAD_AFTER_MS, process)


def test_a_job_that_kills_every_process_ends_as_crashed_and_harms_no_other(
    commands: Commands, tmp_path: Path
) -> None:
    users = [f"user-{number:02}" for number in range(NEIGHBOURS)]
    runtime = commands.open_runtime()
    runtime.store.preferences.apply([Enable(UserId(user), REPORT) for user in [*users, "deadly"]])
    assert commands.run("trigger", "report").returncode == 0

    deaths = 0
    while not ended_runs(runtime):
        worker = commands.start_worker(threads=4)
        eventually(
            lambda: bool(ended_runs(runtime)) or worker.poll() is not None,  # noqa: B023 - called within the loop
            why=commands.log_text(),
        )
        if worker.poll() is not None:
            deaths += 1
            take_all_for_dead(runtime)
    commands.stop()

    [run] = ended_runs(runtime)
    [deadly] = runtime.store.results.of(REPORT, UserId("deadly"))
    calls = Counter((tmp_path / "calls").read_text().split())
    assert (run.counts.success, run.counts.failed, run.counts.unaccounted) == (NEIGHBOURS, 1, 0)
    assert deadly.error is not None
    assert (deadly.status, deadly.error.code) == (JobStatus.FAILED, ErrorCode.CRASHED)
    assert deaths == calls.pop("deadly") == 4
    assert set(calls) == set(users)
    # A neighbour is repeated only if it ran beside the first, not yet suspected, deadly call.
    assert sum(calls.values()) - NEIGHBOURS < 4
