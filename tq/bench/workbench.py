"""What is measured: a Redis, an endpoint and workers of our own, in a temporary place, gone at the end.

Redis keeps nothing on disk: a disk would be measured instead. Everything else is as in production, and what
an operator has set in the environment does not count, so that figures can be compared.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import redis
import yaml

from tq.bench.endpoint import CALLS, HOST, Call
from tq.bench.machine import Use, check_machine, use_of
from tq.child_process import kill_group, start_child
from tq.clock import Clock
from tq.errors import TaskQueueError
from tq.models import Run, RunId, RunStatus, TaskId, UserId
from tq.pipeline import start_run
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.services import scheduler_command, worker_command
from tq.settings import Settings
from tq.store.connection import chunks
from tq.store.preferences import Change, Enable
from tq.telemetry.traces import NO_TRACES

# The one worker command line of all benches; the stock worker has what Dramatiq's users usually give it.
PROCESSES, THREADS = 2, 256
STOCK_PROCESSES, STOCK_THREADS = 2, 8
TASK = TaskId("bench")
# A path on which everybody is called, or each user at one of their own.
SAME_PATH, OWN_PATH = "/bench", "/bench/{user_id}"
# Far above what can be reached, so that the limiter counts and hands out slots but holds nothing back.
RATE_LIMIT = 100_000
WARM_UP = 500  # calls, before anything is measured
PATIENCE = timedelta(seconds=30)  # for a process to start or to end
# Nothing that a bench runs stands still for so long, unless it never ends.
STANDSTILL = timedelta(seconds=60)
LOOK_EVERY_S = 0.1
ENROLLED_AT_ONCE = 2000
FORGOTTEN_AT_ONCE = 1000
LOG_TAIL = 2000  # bytes
ANNOUNCEMENT = "endpoint.port"
STOCK = Path(__file__).parent / "stock"


class Workbench:
    """What runs. `client` reads Redis' own figures; `runtime` is ours, as any process has one."""

    def __init__(self, folder: Path, redis_server: RedisServer, endpoint: "RunningEndpoint") -> None:
        self.folder = folder
        self.redis_server = redis_server
        self.endpoint = endpoint
        self.client = redis.Redis.from_url(redis_server.url, decode_responses=True)
        self.environment = _environment(redis_server.url, folder / "tasks.yaml")
        self.settings = Settings.model_validate(
            {
                name.removeprefix("TQ_").lower(): value
                for name, value in self.environment.items()
                if name.startswith("TQ_")
            }
        )

    def declare(self, tasks: Sequence[Mapping[str, object]]) -> None:
        """Writes the tasks file."""
        self.settings.tasks_file.write_text(yaml.safe_dump({"tasks": list(tasks)}))

    def open_runtime(self, *, clock: Clock | None = None) -> Runtime:
        """A runtime for what is measured here, by Redis' own time unless there is a clock; close it after use."""
        # The actors say how messages travel; tq itself knows none of them.
        actors = importlib.import_module(self.settings.actors)
        return Runtime(self.settings, actors.make_transport(self.settings), clock=clock, traces=NO_TRACES)

    @contextmanager
    def workers(
        self,
        *,
        processes: int = PROCESSES,
        threads: int = THREADS,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator["Processes"]:
        """Worker processes as `tq worker` starts them, from when all of them show themselves until they have ended.

        `environment` is what they are told beside what all are told.
        """
        command = worker_command(self.settings.actors, threads=threads, shutdown_timeout=PATIENCE)
        told = {**self.environment, **(environment or {})}
        with self._started([command] * processes, "worker", told) as workers:
            beats = f"{self.settings.namespace}:beats"
            workers.wait_for(lambda: int(self.client.zcard(beats)) >= processes, "the workers to start")
            yield workers

    @contextmanager
    def another_endpoint(self, *, delay: timedelta = timedelta(0)) -> Iterator["RunningEndpoint"]:
        """One more, such as takes traces and throws them away."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            started_endpoint(Path(folder), delay=delay) as endpoint,
        ):
            yield endpoint

    @contextmanager
    def scheduler(self) -> Iterator["Processes"]:
        """The clock, as `tq scheduler` starts it."""
        command = scheduler_command(self.settings.actors)
        with self._started([command], "scheduler", self.environment) as scheduler:
            yield scheduler

    @contextmanager
    def stock_workers(self, path: str) -> Iterator["Processes"]:
        """The stock worker, whose one actor calls that path of the endpoint; it is not waited for."""
        options = ["--processes", str(STOCK_PROCESSES), "--threads", str(STOCK_THREADS)]
        command = [sys.executable, "-m", "dramatiq", "stock_actor", *options]
        with self._started([command], "stock", self._stock_environment(path)) as workers:
            yield workers

    def stock_sender(self, *options: str) -> bytes:
        """Sends jobs to the stock queue; returns what the sender has printed.

        Raises:
            TaskQueueError: if it failed.
        """
        done = subprocess.run(  # noqa: S603 - the command is our own
            [sys.executable, str(STOCK / "stock_actor.py"), *options],
            env={**os.environ, **self._stock_environment(SAME_PATH)},
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise TaskQueueError(
                f"the stock sender failed: {done.stderr[-LOG_TAIL:].decode(errors='replace')}"
            )
        return done.stdout

    def round_trips(self) -> int:
        """How often Redis has answered any client so far.

        What it sends at once counts once: the answer to a script, to a transaction, or to a pipeline up to
        16 kB; also a message to who has subscribed. Commands inside a script are no round trips.
        """
        return int(self.client.info("stats")["total_writes_processed"])

    def redis_memory(self) -> int:
        """How many bytes Redis uses for what it holds."""
        return int(self.client.info("memory")["used_memory"])

    def forget(self, pattern: str) -> None:
        """Deletes all keys that match, at once, so that nothing goes on in the background."""
        for keys in chunks(list(self.client.scan_iter(pattern, count=1000)), FORGOTTEN_AT_ONCE):
            self.client.delete(*keys)

    def _stock_environment(self, path: str) -> dict[str, str]:
        return {
            **self.environment,
            "STOCK_REDIS_URL": self.redis_server.url,
            "STOCK_ENDPOINT": self.endpoint.url + path,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(STOCK), os.environ.get("PYTHONPATH")])),
        }

    @contextmanager
    def _started(
        self, commands: Sequence[Sequence[str]], name: str, environment: Mapping[str, str]
    ) -> Iterator["Processes"]:
        log = self.folder / f"{name}.log"
        with started(commands, log, environment) as processes:
            yield processes


@dataclass(frozen=True)
class Processes:
    """Processes that are measured, each with what it has started in turn."""

    children: Sequence[subprocess.Popen[bytes]]
    log: Path

    @property
    def use(self) -> Use:
        """What they have used so far."""
        return use_of([child.pid for child in self.children])

    def check(self) -> None:
        """Returns if all of them run.

        Raises:
            TaskQueueError: if one has ended.
        """
        if any(child.poll() is not None for child in self.children):
            raise TaskQueueError(
                f"a process ended that was to be measured; the end of its log: {self.log_tail}"
            )

    def wait_for(
        self, condition: Callable[[], bool], what: str, *, progress: Callable[[], object] = lambda: None
    ) -> None:
        """Returns when the condition holds.

        Raises:
            TaskQueueError: if one of the processes ends meanwhile, or nothing moves for a minute.
        """
        last, since = progress(), time.monotonic()
        while not condition():
            self.check()
            if (now := progress()) != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > STANDSTILL.total_seconds():
                raise TaskQueueError(
                    f"waiting for {what}, nothing has moved for {STANDSTILL.seconds} s ({last}); "
                    f"the end of the log: {self.log_tail}"
                )
            time.sleep(LOOK_EVERY_S)

    @property
    def log_tail(self) -> str:
        """The end of what they have printed."""
        return self.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")


@dataclass(frozen=True)
class RunningEndpoint:
    """The endpoint's process, seen from outside."""

    url: str
    processes: Processes

    def take_calls(self) -> list[Call]:
        """The calls that have arrived since they were last taken."""
        answer = httpx.get(self.url + CALLS.decode(), trust_env=False).raise_for_status()
        return [Call(path, at) for path, at in answer.json()]


@contextmanager
def workbench(*, delay: timedelta = timedelta(0)) -> Iterator[Workbench]:
    """Redis and an endpoint that answers after such a delay; call it from the main thread.

    Raises:
        TaskQueueError: a part cannot be started, or this machine is none on which can be measured.
    """
    check_machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tq-bench-")))
        server = stack.enter_context(RedisServer(folder / "redis", persist=False))
        endpoint = stack.enter_context(started_endpoint(folder, delay=delay))
        made = Workbench(folder, server, endpoint)
        stack.enter_context(closing(made.client))
        yield made


@contextmanager
def started_endpoint(folder: Path, *, delay: timedelta) -> Iterator[RunningEndpoint]:
    """An endpoint that answers after such a delay."""
    announcement = folder / ANNOUNCEMENT
    command = [sys.executable, "-m", "tq.bench.endpoint", "--announce", str(announcement)]
    command += ["--delay-ms", str(delay / timedelta(milliseconds=1))]
    with started([command], folder / "endpoint.log", {}) as endpoint:
        endpoint.wait_for(announcement.exists, "the endpoint to start")
        yield RunningEndpoint(f"http://{HOST}:{announcement.read_text()}", endpoint)


@contextmanager
def started(
    commands: Sequence[Sequence[str]], log: Path, environment: Mapping[str, str]
) -> Iterator[Processes]:
    """Processes of these commands; at the end they are asked to end, and killed if they do not."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("ab") as output:
            for command in commands:
                child = start_child(command, env=environment, output=output)
                children.append(child)  # at once, so that it is ended if the next cannot be started
        yield Processes(children, log)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=PATIENCE.total_seconds())
            kill_group(child)
            child.wait()


def http_task(bench: Workbench, path: str = SAME_PATH) -> dict[str, object]:
    """A task that calls the endpoint, never by itself, with everything on."""
    return {
        "id": TASK,
        "interval": {"type": "monthly", "day": 1},
        "window": 0,
        "rate_limit": RATE_LIMIT,
        "config": {"endpoint": bench.endpoint.url + path},
    }


def user_id(number: int) -> UserId:
    """A user's id of 36 letters, as long as a UUID."""
    return UserId(f"{number:08x}-bead-4dad-8fee-{number:012x}")


def enrol(runtime: Runtime, users: int, task_id: TaskId = TASK) -> None:
    """Has so many users enabled for a task."""
    for first in range(0, users, ENROLLED_AT_ONCE):
        changes: list[Change] = [
            Enable(user_id(number), task_id) for number in range(first, min(users, first + ENROLLED_AT_ONCE))
        ]
        runtime.store.preferences.apply(changes)


def carry_out(
    runtime: Runtime, workers: Processes, *, named: int | None = None, task_id: TaskId = TASK
) -> Run:
    """Has a run for everybody, or for the first few users, carried out to its end; returns it as it ended.

    Raises:
        TaskQueueError: if the workers do not get on with it.
    """
    user_ids = None if named is None else [user_id(number) for number in range(named)]
    run = start_run(runtime, task_id, user_ids=user_ids)
    return ended(runtime, workers, run.id)


def ended(runtime: Runtime, workers: Processes, run_id: RunId) -> Run:
    """The run, when it has ended.

    Raises:
        TaskQueueError: if the workers do not get on with it.
    """

    run = runtime.store.runs.get(run_id)

    def has_ended() -> bool:
        nonlocal run
        run = runtime.store.runs.get(run_id)
        return run.status is not RunStatus.RUNNING

    workers.wait_for(has_ended, f"the run {run_id} to end", progress=lambda: run.counts)
    return run


def _environment(redis_url: str, tasks_file: Path) -> dict[str, str]:
    """What the processes are told; whatever else may be set where the bench is started is set as it is by default."""
    without_proxy = ",".join(part for part in (os.environ.get("NO_PROXY", ""), HOST) if part)
    return {
        "TQ_REDIS_URL": redis_url,
        "TQ_BROKER": "redis",
        "TQ_NAMESPACE": "bench",
        "TQ_ACTORS": "actors",
        "TQ_TASKS_FILE": str(tasks_file),
        "TQ_TASK_MODULES": "",
        "TQ_RATE_LIMIT": str(RATE_LIMIT),
        "TQ_RATE_STRATEGY": "adaptive",
        "TQ_ALLOW_PRIVATE_ENDPOINTS": "true",
        "TQ_RESULT_HISTORY": "5",
        "TQ_RESULT_TTL": "30d",
        "TQ_TRACE_LIBRARIES": "",
        "TQ_ALERT_WEBHOOK": "",
        "TQ_ALERT_LEVEL": "problem",
        "TQ_HEARTBEAT_URL": "",
        "TQ_API_HOST": HOST,
        "TQ_API_PORT": "0",
        "TQ_API_TOKEN": "",
        "TQ_HEALTH_FILE": "",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "json",
        "DEBUG_SCHEDULER": "false",
        "DEBUG_WORKER": "false",
        "DEBUG_REDIS": "false",
        "TQ_DEBUG_ENDPOINTS": "false",
        "OTEL_SDK_DISABLED": "true",
        "NO_PROXY": without_proxy,
        "no_proxy": without_proxy,
    }
