"""`tq worker` and `tq scheduler`: real processes that start, work, wait, and end when they are asked to."""

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PASSWORD, REDIS_AWAY, Tq
from tests.waiting import eventually
from tq.runtime import Runtime

Start = Callable[..., subprocess.Popen[str]]
PYTHON_TASK = """
import resource
from tq.models import Interval
from tq.registry import task

@task("report", interval=Interval.daily(), retries=0)
def report(job):
    if job.user_id == "bob":
        raise ValueError("no report for bob")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        raise ValueError(f"{soft} open files are allowed, and {hard} could be")
"""


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """Allows few open files here, and to what is started from here unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def next_line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line on standard error that holds the text; fails when the process ends before."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"ended with {process.wait()} before it said {text!r}")


@pytest.mark.usefixtures("few_open_files")
def test_workers_and_scheduler_carry_out_a_run_and_end_on_sigterm(
    tq_process: Tq, start_tq: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reports.py").write_text(PYTHON_TASK)
    monkeypatch.setenv("TQ_TASK_MODULES", "reports")
    monkeypatch.setenv("TQ_BROKER", "redis")
    worker = start_tq(
        "worker", "--processes", "1", "--threads", "2", "--queues", "control", "--queues", "normal"
    )
    for user in ("ada", "bob"):
        assert tq_process("users", "enable", user, "report").code == 0

    run = tq_process("trigger", "report", "--wait", "--json")
    worker.send_signal(signal.SIGTERM)

    _, log = worker.communicate(timeout=60)
    assert run.code == 0
    assert (run.document["status"], run.document["expected"]) == ("ended", 2)
    assert (run.document["success"], run.document["failed"], run.document["unaccounted"]) == (1, 1, 0)
    assert "ended, 2 expected: 1 success, 1 failed" in run.err
    assert (worker.returncode, "child killed" in log) == (0, False)


def test_the_scheduler_ticks_at_once_and_ends_on_ctrl_c(
    start_tq: Start, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_BROKER", "redis")
    queue = f"{runtime.settings.namespace}:queue:control"

    scheduler = start_tq("scheduler")

    eventually(lambda: runtime.store.connection.call("LLEN", queue) > 0)
    scheduler.send_signal(signal.SIGINT)
    out, log = scheduler.communicate(timeout=30)
    assert (scheduler.returncode, out) == (0, "")
    assert all(line.startswith("{") for line in log.splitlines())


@pytest.mark.parametrize("service", ["worker", "scheduler"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_service_waits_for_redis_and_can_be_ended_meanwhile(
    start_tq: Start, service: str, how: signal.Signals
) -> None:
    process = start_tq(service, TQ_REDIS_URL=REDIS_AWAY, TQ_BROKER="redis")

    line = next_line_with(process, "waiting for Redis")
    process.send_signal(how)

    process.communicate(timeout=30)
    assert process.returncode == 0
    assert "redis://:***@127.0.0.1:1/0" in line
    assert PASSWORD not in line


def test_each_process_has_a_health_file_and_all_together_the_one_that_was_named(
    start_tq: Start, tmp_path: Path
) -> None:
    named = tmp_path / "healthy"
    own = [tmp_path / f"healthy.worker-{number}" for number in (1, 2)]
    worker = start_tq("worker", "--processes", "2", TQ_BROKER="redis", TQ_HEALTH_FILE=str(named))

    eventually(lambda: all(file.exists() for file in own))
    seen = named.stat().st_mtime_ns
    eventually(lambda: named.stat().st_mtime_ns > seen)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)

    assert worker.returncode == 0
    assert not any(file.exists() for file in (named, *own))


@pytest.mark.parametrize("service", ["worker", "scheduler"])
def test_a_service_that_waits_for_redis_is_alive(start_tq: Start, service: str, tmp_path: Path) -> None:
    named = tmp_path / "healthy"
    process = start_tq(service, TQ_REDIS_URL=REDIS_AWAY, TQ_BROKER="redis", TQ_HEALTH_FILE=str(named))

    next_line_with(process, "waiting for Redis")
    seen = named.stat().st_mtime_ns
    eventually(lambda: named.stat().st_mtime_ns > seen)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert not named.exists()


def test_the_scheduler_has_a_health_file_from_its_first_tick_to_its_end(
    start_tq: Start, tmp_path: Path
) -> None:
    named, own = tmp_path / "healthy", tmp_path / "healthy.scheduler"
    scheduler = start_tq("scheduler", TQ_BROKER="redis", TQ_HEALTH_FILE=str(named))

    eventually(own.exists)
    scheduler.send_signal(signal.SIGTERM)
    scheduler.communicate(timeout=30)

    assert not any(file.exists() for file in (named, own))


def test_a_health_file_that_cannot_be_written_ends_a_service_before_it_starts(
    tq_process: Tq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_HEALTH_FILE", str(tmp_path / "nowhere" / "healthy"))

    answer = tq_process("worker")

    assert answer.code == 2
    assert "TQ_HEALTH_FILE: " in answer.err
    assert "No such file or directory; name a file in a directory that is there" in answer.err


@pytest.mark.parametrize("service", ["worker", "scheduler"])
def test_a_broken_tasks_file_ends_a_service_before_it_starts(
    tq_process: Tq, service: str, tmp_path: Path
) -> None:
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n  - id: a\n    interval: {type: dayly}\n    executor: x:y\n"
    )

    answer = tq_process(service)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: tasks.yaml:3: a: interval.type: 'dayly'")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--queues", "hihg"),
            "--queues: 'hihg' is not a queue; known are control, high, low, normal, suspects",
        ),
        (("--shutdown-timeout", "soon"), "--shutdown-timeout: 'soon' is not a duration"),
        (("--processes", "0"), "Invalid value for '--processes'"),
    ],
)
def test_a_worker_that_cannot_be_as_asked_does_not_start(tq: Tq, words: tuple[str, ...], told: str) -> None:
    answer = tq("worker", *words)

    assert answer.code == 2
    assert answer.err.startswith(f"error: {told}")
