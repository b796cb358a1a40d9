"""A Redis, workers, a scheduler and a demo endpoint, started together and stopped together."""

import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from tq.api_address import check_access, listen, url_of
from tq.errors import TaskQueueError
from tq.redis_server import RedisServer
from tq.services import scheduler_command, web_command, worker_command
from tq.settings import load_settings, source_of
from tq.supervisor import Child, Supervisor

NAMESPACE = "dev"
ACTORS = "actors"
# A fixed port where it is free, so that a second terminal finds the system between restarts.
PORT = 6390
ENDPOINT_PATIENCE = timedelta(seconds=15)
STOP_TIMEOUT = timedelta(seconds=20)
# What holds for the processes here, and for no command in another terminal.
NOT_FOR_OTHERS = frozenset({"LOG_FORMAT", "TQ_API_HOST", "TQ_API_PORT"})


@dataclass(frozen=True)
class DevSystem:
    """What runs: where its Redis is, how commands reach it, and the addresses of demo endpoint and web process."""

    redis_url: str
    environment: Mapping[str, str]
    endpoint_url: str
    web_url: str
    supervisor: Supervisor

    def endpoint_stats(self) -> dict[str, Any]:
        """What the demo endpoint has seen."""
        stats: dict[str, Any] = httpx.get(f"{self.endpoint_url}/stats").raise_for_status().json()
        return stats

    def reset_endpoint(self) -> None:
        """Has the demo endpoint forget what it has seen."""
        httpx.post(f"{self.endpoint_url}/reset").raise_for_status()


@contextmanager
def running_system(
    *, folder: Path, tasks_file: Path | None, processes: int, threads: int
) -> Iterator[DevSystem]:
    """The system, from its start to its end. Redis keeps its data in the folder between starts.

    Raises:
        TaskQueueError: if a part cannot be started; the message names it and its log.
    """
    host, port = _web_address()
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (folder / "redis").mkdir(exist_ok=True)
    announcement = folder / "endpoint.json"
    announcement.unlink(missing_ok=True)
    tasks = tasks_file or _demo_tasks(folder)
    # The newest definitions win, and what was asked for last is what is meant, whatever ran here before.
    tasks.touch()
    with ExitStack() as stack:
        redis = stack.enter_context(_redis(folder / "redis"))
        endpoint = [sys.executable, "-m", "tq.dev.endpoint", "--announce", str(announcement)]
        demo = Supervisor(
            [Child("endpoint", endpoint, log=logs / "endpoint.log")], stop_timeout=timedelta(seconds=3)
        )
        stack.callback(demo.stop)
        demo.start()
        address = _announced(announcement, demo, logs / "endpoint.log")
        environment = {
            "TQ_REDIS_URL": redis.url,
            "TQ_NAMESPACE": NAMESPACE,
            "TQ_TASKS_FILE": str(tasks.resolve()),
            # Everything that is started, and a second terminal, finds the same commands and the same Python.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "TQ_RATE_LIMIT": "1000",  # quick enough for a demo; the default is for strangers' endpoints
            "TQ_ALLOW_PRIVATE_ENDPOINTS": "true",
            "DEMO_ENDPOINT": address,
            "DEMO_TOKEN": secrets.token_hex(16),
            "LOG_FORMAT": os.environ.get("LOG_FORMAT", "console"),
            "TQ_API_HOST": host,
            "TQ_API_PORT": str(port),
        }
        _write_environment(folder / "env", environment)
        workers = Supervisor(
            list(_children(environment, logs, processes=processes, threads=threads)),
            stop_timeout=STOP_TIMEOUT,
        )
        stack.callback(workers.stop)
        workers.start()
        yield DevSystem(redis.url, environment, address, url_of(host, port), workers)


@contextmanager
def _redis(directory: Path) -> Iterator[RedisServer]:
    server = RedisServer(directory, port=PORT)
    try:
        server.start()
    except TaskQueueError:
        server = RedisServer(directory)
    with server:
        yield server


def _children(environment: Mapping[str, str], logs: Path, *, processes: int, threads: int) -> Iterator[Child]:
    worker = worker_command(ACTORS, threads=threads, shutdown_timeout=STOP_TIMEOUT)
    for number in range(1, processes + 1):
        name = f"worker-{number}"
        yield Child(name, worker, env=environment, log=logs / f"{name}.log")
    yield Child("scheduler", scheduler_command(ACTORS), env=environment, log=logs / "scheduler.log")
    yield Child("web", web_command(), env=environment, log=logs / "web.log")


def _web_address() -> tuple[str, int]:
    """Where the web process listens: as the settings say, or at a free port if none was asked for.

    Raises:
        TaskQueueError: if it could not listen there.
    """
    settings = load_settings()
    check_access(settings)
    asked_for = source_of("api_port", dict(os.environ)) != "default"
    try:
        listener = listen(settings)
    except TaskQueueError:
        if asked_for:
            raise
        listener = listen(settings.model_copy(update={"api_port": 0}))
    with listener:
        port: int = listener.getsockname()[1]
        return settings.api_host, port


def _demo_tasks(folder: Path) -> Path:
    target = folder / "tasks.yaml"
    if not target.exists():
        shutil.copyfile(str(files("tq.dev") / "tasks.yaml"), target)
    return target


def _announced(announcement: Path, demo: Supervisor, log: Path) -> str:
    deadline = time.monotonic() + ENDPOINT_PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        if announcement.exists():
            return f"http://127.0.0.1:{json.loads(announcement.read_text())['port']}"
        demo.poll()
        time.sleep(0.02)
    raise TaskQueueError(f"the demo endpoint did not start in {ENDPOINT_PATIENCE.seconds} s; see {log}")


def _write_environment(target: Path, environment: Mapping[str, str]) -> None:
    """Writes what another terminal needs: `source .tq-dev/env`."""
    shown = {name: shlex.quote(value) for name, value in environment.items() if name not in NOT_FOR_OTHERS}
    shown["PATH"] = f'{shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    lines = [f"export {name}={value}\n" for name, value in shown.items()]
    target.touch(mode=0o600)
    target.write_text("".join(lines))
