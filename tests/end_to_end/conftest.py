"""A whole system of real processes: Redis, workers, schedulers, and an endpoint that remembers."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.endpoint import Endpoint
from tq.child_process import kill_group, start_child
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings

BIN = Path(sys.executable).parent
SECRETS = {
    "API_TOKEN": "tok-planted-in-a-header-4711",
    "URL_KEY": "key-planted-in-the-url-0815",
}
PARAMETER_SECRET = "word-planted-in-a-parameter-1337"
TASKS = """
tasks:
  - id: digest
    interval: {{type: minutely, value: 1}}
    window: 0
    timeout: 20s
    retries: 2
    retry_delay: 1s
    config:
      endpoint: "{endpoint}/digest/{{user_id}}?key=${{URL_KEY}}"
      headers: {{Authorization: "Bearer ${{API_TOKEN}}"}}
"""


class System:
    """Starts the project's own commands in one namespace, and stops them all at the end."""

    def __init__(self, folder: Path, redis_url: str, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.logs = folder / "logs"
        self.logs.mkdir()
        tasks = folder / "tasks.yaml"
        tasks.write_text(TASKS.format(endpoint=endpoint.url))
        self.environment = {
            **SECRETS,
            "TQ_REDIS_URL": redis_url,
            "TQ_NAMESPACE": "e2e",
            "TQ_TASKS_FILE": str(tasks),
            "TQ_ALLOW_PRIVATE_ENDPOINTS": "true",
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": "json",
            "DEBUG_REDIS": "true",
            "PYTHONFAULTHANDLER": "1",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.settings = Settings(redis_url=redis_url, namespace="e2e", tasks_file=tasks)

    def open_runtime(self) -> Runtime:
        """A runtime of our own in the same namespace, to look and to change."""
        from actors.transport import make_transport

        return Runtime(self.settings, make_transport(self.settings))

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command; what it prints goes to a log of that name."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = start_child(command, env={**self.environment, **(env or {})}, output=log)
        self._processes.append(process)
        return process

    def start_worker(self, name: str = "worker", *, threads: int = 4) -> subprocess.Popen[bytes]:
        """`dramatiq actors`, as it is."""
        return self.start(name, [str(BIN / "dramatiq"), "actors", "-p", "1", "-t", str(threads)])

    def start_scheduler(self, name: str = "scheduler") -> subprocess.Popen[bytes]:
        """`periodiq actors`, as it is."""
        return self.start(name, [str(BIN / "periodiq"), "actors"])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `tq` to its end."""
        return subprocess.run(
            [str(BIN / "tq"), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log_text(self) -> str:
        """Everything that any process has printed."""
        return "".join(log.read_text(errors="replace") for log in sorted(self.logs.iterdir()))

    def stop(self) -> None:
        """Ends everything that was started."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            kill_group(process)
            process.wait()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder) as server:
        yield server


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers 200 and remembers every call."""
    with Endpoint() as serving:
        yield serving


@pytest.fixture
def system(
    tmp_path: Path, own_redis: RedisServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """A system of which nothing but Redis and the endpoint runs yet."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    made = System(tmp_path, own_redis.url, endpoint)
    try:
        yield made
    finally:
        endpoint.let_go()
        made.stop()
