"""The command `tq` in this process or in one of its own, in a directory and a namespace per test."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from actors.inline import InlineWorker
from actors.transport import make_transport
from tq.cli import main
from tq.models import ExecutionResult, Job
from tq.runtime import Runtime
from tq.settings import Settings
from tq.testing import FakeExecutor

BIN = Path(sys.executable).parent
# Nobody listens at port 1, and the password must not be read anywhere.
PASSWORD = "open-sesame-4711"
REDIS_AWAY = f"redis://:{PASSWORD}@127.0.0.1:1/0"
REDIS_AWAY_TOLD = (
    "error: Redis at redis://:***@127.0.0.1:1/0 cannot be reached; start it, or set TQ_REDIS_URL\n"
)
HEADER_SECRET = "tok-planted-in-a-header"
TASKS = """
tasks:
  - id: email_digest
    name: Email Digest
    interval: {type: daily, timezone: user, at_time: "09:00"}
    config:
      endpoint: https://api.example.com/digest?key=planted-in-the-url
      headers: {Content-Type: application/json, Authorization: "Bearer ${API_TOKEN}", X-Api-Key: planted}
  - id: hourly_sync
    interval: {type: hourly}
    retries: 0
    config: {endpoint: "https://api.example.com/sync"}
"""


@dataclass(frozen=True)
class Answer:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return orjson.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        """The JSON objects on standard output, one per line."""
        return [orjson.loads(line) for line in self.out.splitlines()]


Tq = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _settings_in_environment(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG_LEVEL", "LOG_FORMAT", "DEBUG_REDIS", "DEBUG_WORKER", "DEBUG_SCHEDULER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TQ_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("TQ_NAMESPACE", settings.namespace)
    monkeypatch.setenv("TQ_TASKS_FILE", "tasks.yaml")
    monkeypatch.setenv("TQ_BROKER", settings.broker)
    monkeypatch.setenv("API_TOKEN", HEADER_SECRET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.yaml").write_text(TASKS)


@pytest.fixture
def tq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tq:
    """Runs a command in this process; without a terminal, as in a script."""

    def run(*words: str, stdin: bytes = b"") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run


@pytest.fixture
def tq_process() -> Tq:
    """Runs a command in a process of its own."""

    def run(*words: str, stdin: bytes = b"") -> Answer:
        done = subprocess.run(
            [str(BIN / "tq"), *words], input=stdin, capture_output=True, timeout=60, check=False
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def start_tq() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command that goes on until it is stopped; it ends with the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / "tq"), *words],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A runtime of our own in the same namespace, whose executor fails for bob."""

    def answer(job: Job) -> ExecutionResult:
        return (
            ExecutionResult.failed("HTTP_400", "no such address")
            if job.user_id == "bob"
            else ExecutionResult.success()
        )

    opened = Runtime(settings, make_transport(settings), executors=FakeExecutor(answer))
    yield opened
    opened.close()


@pytest.fixture
def work(runtime: Runtime) -> Callable[[], int]:
    """Works whatever there is to do; returns how many messages that were."""
    return InlineWorker(runtime).drain
