"""`tq dev`: everything on this machine, from an empty folder to finished jobs, and nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest

from tests.waiting import eventually

TQ = Path(sys.executable).with_name("tq")
READY = "Worker process is ready for action"
StartDev = Callable[..., subprocess.Popen[bytes]]
KEYS = [
    "run_id",
    "expected",
    "success",
    "failed",
    "expired",
    "cancelled",
    "skipped",
    "unaccounted",
    "duplicates",
    "seconds",
    "jobs_per_second",
]


@pytest.fixture
def start_dev(tmp_path: Path) -> Iterator[StartDev]:
    """Starts `tq dev` for so many users in the test's folder; it ends with the test, whatever becomes of that."""
    started: list[subprocess.Popen[bytes]] = []

    def start(users: int, *, output: Path | None = None) -> subprocess.Popen[bytes]:
        with (output or Path(os.devnull)).open("wb") as log:
            started.append(
                subprocess.Popen([TQ, "dev", "--users", str(users)], cwd=tmp_path, stdout=log, stderr=log)
            )
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=40)


def processes_of(folder: Path) -> list[str]:
    """The commands of all processes whose working directory is the folder or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve().is_relative_to(folder):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def test_once_ends_with_the_ledger_of_the_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [TQ, "dev", "--users", "2000", "--once", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    figures = orjson.loads(done.stdout.splitlines()[-1])
    assert list(figures) == KEYS
    ended = sum(figures[state] for state in ("success", "failed", "expired", "cancelled", "skipped"))
    assert figures["expected"] == ended == 2000
    assert figures["unaccounted"] == figures["duplicates"] == 0
    assert figures["failed"] > 0
    assert processes_of(tmp_path) == []


def test_it_shows_the_run_until_it_is_interrupted_and_keeps_its_data(
    tmp_path: Path, start_dev: StartDev
) -> None:
    codes, runs_seen = [], []
    for number in (1, 2):
        output = tmp_path / f"output-{number}"
        process = start_dev(50, output=output)
        eventually(partial(_says, output, " 0 open"))
        listed = subprocess.run(
            ["bash", "-c", f"source .tq-dev/env && {TQ} runs list --task email_digest --json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        runs_seen.append(len([run for run in orjson.loads(listed.stdout) if run["kind"] == "manual"]))
        process.send_signal(signal.SIGINT)
        codes.append(process.wait(timeout=40))

    assert codes == [0, 0]
    assert runs_seen == [1, 2]
    assert processes_of(tmp_path) == []


def test_it_runs_the_tasks_it_was_given_whatever_ran_before(tmp_path: Path) -> None:
    own = tmp_path / "tasks.yaml"
    own.write_text(
        "tasks: [{id: greeting, interval: {type: daily}, config: {endpoint: '${DEMO_ENDPOINT}/greet'}}]"
    )
    demo = ["--users", "5", "--once", "--json"]

    codes = []
    for options in (demo, [*demo, "--tasks", str(own)], demo, [*demo, "--tasks", str(own)]):
        done = subprocess.run(
            [TQ, "dev", *options], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        codes.append(
            (done.returncode, orjson.loads(done.stdout.splitlines()[-1])["run_id"].partition("~")[0])
        )

    assert codes == [(0, "email_digest"), (0, "greeting")] * 2


def test_its_health_is_told_over_http_at_a_free_port_if_the_usual_one_is_taken(
    tmp_path: Path, start_dev: StartDev
) -> None:
    output = tmp_path / "output"
    with _taken(8080):
        process = start_dev(5, output=output)
        eventually(lambda: _says(output, "/health, and"))
        [url] = re.findall(r"http://[0-9.:]+(?=/health, and)", output.read_text())

        eventually(lambda: _status(f"{url}/readyz") == 200)
        stats = httpx.get(f"{url}/stats", trust_env=False).json()

        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=40)

    assert code == 0
    assert not url.endswith(":8080")
    assert (len(stats["workers"]), len(stats["schedulers"]), len(stats["web"])) == (2, 1, 1)
    assert processes_of(tmp_path) == []


def test_a_port_that_was_asked_for_and_is_taken_ends_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [TQ, "dev", "--users", "5"],
            cwd=tmp_path,
            env={**os.environ, "TQ_API_PORT": str(taken.getsockname()[1])},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert done.returncode == 1
    assert "error: TQ_API_PORT: port " in done.stderr
    assert processes_of(tmp_path) == []


def test_workers_start_anew_when_code_changes(tmp_path: Path, start_dev: StartDev) -> None:
    log = tmp_path / ".tq-dev" / "logs" / "worker-1.log"
    process = start_dev(5)
    eventually(lambda: log.exists() and log.read_text().count(READY) == 1)

    (tmp_path / "my_tasks.py").write_text("# edited")

    eventually(lambda: log.read_text().count(READY) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0
    assert processes_of(tmp_path) == []


@contextmanager
def _taken(port: int) -> Iterator[None]:
    """Has somebody listen at a port, unless somebody does already."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def _status(url: str) -> int:
    try:
        return httpx.get(url, trust_env=False, timeout=20).status_code
    except httpx.HTTPError:
        return 0


def _says(output: Path, text: str) -> bool:
    return text in output.read_text()
