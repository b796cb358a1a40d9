"""What the scenarios of flow control are made of: a system at work for an endpoint with a capacity, and a report."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from actors.broker import JOB_QUEUES
from tests.end_to_end.commands import NAMESPACE, Commands
from tests.waiting import eventually
from tq.errors import StoreUnavailable
from tq.models import Run, RunStatus, TaskId, UserId
from tq.pipeline import start_run
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.preferences import Enable
from tq.testing import Behaviour, Calls, Downstream

PROCESSES = 3
THREADS = 16
READY = "Worker process is ready for action"
BATCH = 5000
LOOK_EVERY_S = 0.1
# What a scenario may wait for that has no time of its own, such as the end of a run.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Bar:
    """What a figure has to keep."""

    name: str
    value: float
    least: float = float("-inf")
    most: float = float("inf")
    is_peak: bool = False

    def holds(self, peak_slack: float) -> bool:
        """Whether it is kept; a peak may be higher by a factor."""
        return self.least <= self.value <= self.most * (peak_slack if self.is_peak else 1)

    @property
    def wanted(self) -> str:
        """For people."""
        return f">= {self.least:g}" if self.most == float("inf") else f"<= {self.most:g}"

    def __str__(self) -> str:
        return f"{self.name} is {self.value:g}, must be {self.wanted}"


@dataclass
class Report:
    """What a scenario has found."""

    scenario: str
    figures: dict[str, float] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)

    def note(self, name: str, value: float) -> None:
        """A figure without a bar."""
        self.figures[name] = round(value, 4)

    def at_most(self, name: str, value: float, bar: float) -> None:
        """A figure that must not be more than the bar."""
        self._bar(Bar(name, round(value, 4), most=bar))

    def at_least(self, name: str, value: float, bar: float) -> None:
        """A figure that must not be less than the bar."""
        self._bar(Bar(name, round(value, 4), least=bar))

    def peak(self, name: str, calls: Calls, *, per_second: float) -> None:
        """The most calls in any second, under a ceiling."""
        most = 1.05 * per_second + 2
        self._bar(Bar(name, calls.peak_per_second(), most=most, is_peak=True))

    def missed(self, *, peak_slack: float = 1.0) -> list[str]:
        """The bars that were not kept."""
        return [str(bar) for bar in self.bars if not bar.holds(peak_slack)]

    def to_json(self) -> str:
        """One line."""
        document = {
            "scenario": self.scenario,
            "holds": not self.missed(),
            "missed": self.missed(),
            "bars": {bar.name: bar.wanted for bar in self.bars},
            "figures": self.figures,
        }
        return orjson.dumps(document).decode()

    def _bar(self, bar: Bar) -> None:
        self.bars.append(bar)
        self.note(bar.name, bar.value)


class Track:
    """A system whose workers call an endpoint with a capacity."""

    def __init__(self, commands: Commands, redis: RedisServer, downstream: Downstream) -> None:
        self.commands = commands
        self.redis = redis
        self.downstream = downstream
        self._starts = 0

    @classmethod
    @contextlib.contextmanager
    def laid(
        cls,
        folder: Path,
        *,
        rate_limit: float,
        tasks: Sequence[str] = ("digest",),
        behaviour: Behaviour | None = None,
        **settings: Any,
    ) -> Iterator["Track"]:
        """A track where all runs but the workers; the settings are those of each task."""
        with contextlib.ExitStack() as stack:
            redis = stack.enter_context(RedisServer(folder / "redis"))
            downstream = stack.enter_context(Downstream(behaviour))
            definitions = [_definition(task, downstream.url, settings) for task in tasks]
            commands = Commands(
                folder,
                redis.url,
                orjson.dumps({"tasks": definitions}).decode(),
                {"TQ_RATE_LIMIT": f"{rate_limit:g}", "LOG_LEVEL": "INFO"},
            )
            track = cls(commands, redis, downstream)
            stack.callback(track._close)
            yield track

    @cached_property
    def runtime(self) -> Runtime:
        """To look and to change."""
        return self.commands.open_runtime()

    def start_workers(self) -> None:
        """Starts the worker processes, and returns when all take messages."""
        self._starts += 1
        self._workers = self.commands.start_workers(processes=PROCESSES, threads=THREADS)
        ready = self._starts * PROCESSES
        eventually(lambda: self.commands.log_text().count(READY) >= ready, why="workers did not become ready")

    def restart_workers(self) -> None:
        """Has the workers end as they are asked to, and starts others."""
        self._workers.terminate()
        self._workers.wait()
        self.start_workers()

    def kill_a_worker(self, number: int) -> None:
        """Kills one of the worker processes, as a crash would; it is started anew."""
        os.killpg(self.worker_pids()[number], signal.SIGKILL)

    def worker_pids(self) -> list[int]:
        """The worker processes that were started last, by their numbers."""
        started = {}
        for line in (self.commands.logs / "worker.log").read_text().splitlines():
            if '"child started"' in line:
                fact = orjson.loads(line)
                started[fact["child"]] = fact["child_pid"]
        return [started[name] for name in sorted(started)]

    def begin_run(self, task: str, users: int) -> Run:
        """Starts a run of a task for so many users."""
        self.enrol(task, users)
        return self.start_run(task)

    def enrol(self, task: str, users: int) -> None:
        """Has so many users enable a task, which takes its time."""
        preferences = self.runtime.store.preferences
        ids = [UserId(f"user-{number:06}") for number in range(users)]
        for first in range(0, users, BATCH):
            preferences.apply([Enable(user, TaskId(task)) for user in ids[first : first + BATCH]])

    def start_run(self, task: str) -> Run:
        """Starts a run of a task for all who are enrolled."""
        return start_run(self.runtime, TaskId(task))

    def until_ended(self, run: Run) -> Run:
        """The run as it has ended."""
        eventually(lambda: self._look(run).status is RunStatus.ENDED, within_s=PATIENCE_S, why=run.id)
        return self._look(run)

    def until_served(self, calls: int) -> None:
        """Returns when so many calls have been served."""
        eventually(
            lambda: len(self.downstream.calls.served) >= calls,
            within_s=PATIENCE_S,
            why="too few calls served",
        )

    def order(self, *arguments: str) -> float:
        """Gives an operator's order by `tq`; returns the instant at which it was accepted, or a little later."""
        done = self.commands.run(*arguments)
        if done.returncode != 0:
            raise AssertionError(f"tq {' '.join(arguments)} failed: {done.stderr}")
        return time.monotonic()

    def allowed(self, task: str) -> float:
        """How many calls of a task per second the limiter would let through now."""
        return self.runtime.outlook(self.runtime.registry.current.get(TaskId(task))).rate

    def messages(self) -> int:
        """How many job messages are queued, or fetched and not acknowledged."""
        redis, prefix = self.runtime.store.connection, f"{NAMESPACE}:queue"
        queues = sorted(JOB_QUEUES)
        workers = redis.call("ZRANGE", f"{prefix}:__heartbeats__", 0, -1)
        counts = redis.calls(
            [("LLEN", f"{prefix}:{queue}") for queue in queues]
            + [("SCARD", f"{prefix}:__acks__.{worker}.{queue}") for worker in workers for queue in queues]
        )
        return sum(int(count) for count in counts)

    def _look(self, run: Run) -> Run:
        try:
            return self.runtime.store.runs.get(run.id)
        except StoreUnavailable:
            return run

    def _close(self) -> None:
        self.commands.stop()
        if "runtime" in self.__dict__:
            self.runtime.close()


def let_pass(seconds: float, *, looking: Callable[[], object] | None = None) -> float:
    """Lets time go by, which is what is measured here; returns the instant at its end. Looks now and then."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if looking is not None:
            looking()
        time.sleep(min(left, LOOK_EVERY_S))
    return end


def _definition(task: str, url: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": task,
        "interval": {"type": "monthly", "day": 1},
        "window": 0,
        "timeout": "5s",
        "retries": 3,
        "retry_delay": "1s",
        "config": {"endpoint": f"{url}/{task}"},
        **settings,
    }
