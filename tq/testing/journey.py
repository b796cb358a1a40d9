"""The whole journey of runs in one thread: tick, distribute, execute, retry, as the clock moves.

State is in a real Redis, time in a frozen clock, messages in the stub broker.
"""

import contextlib
import importlib
import random
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from tq.models import Interval, JobResult, Run, RunId, TaskId, TaskType, UserId
from tq.pipeline import start_run, tick
from tq.redis_server import RedisServer
from tq.registry import Registry
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.preferences import KEEP, Disable, Enable, Keep, Relocate
from tq.testing.builders import make_envelope
from tq.testing.clock import FrozenClock, utc
from tq.testing.executor import FakeExecutor

STEP = timedelta(seconds=10)
TICK = timedelta(minutes=1)
# Calls take no time here, so nothing need be sent in portions, unless a task's own limit says so.
RATE = 100_000.0


class Worker(Protocol):
    """What works messages inline."""

    def send(self, actor: str, *arguments: object) -> None:
        """Sends a message to an actor."""
        ...

    def drain(self) -> int:
        """Works until nothing is left to do now."""
        ...


class DeclaredTasks:
    """Task types that a test declares, and may edit."""

    def __init__(self, tasks: Sequence[TaskType], clock: FrozenClock) -> None:
        self._clock = clock
        self.edit(tasks)

    def edit(self, tasks: Sequence[TaskType]) -> None:
        """Declares these from now on."""
        self.current = Registry({task.id: task for task in tasks}, modified_ms=self._clock.override_ms)

    def refresh(self) -> bool:
        """Nothing to read."""
        return False


class Journey:
    """A system in miniature: enable users, move the clock, look at what became of it."""

    def __init__(
        self, runtime: Runtime, clock: FrozenClock, executor: FakeExecutor, declared: DeclaredTasks
    ) -> None:
        self.runtime = runtime
        self._declared = declared
        self.clock = clock
        self.executor = executor
        inline = importlib.import_module(f"{runtime.settings.actors}.inline")
        self._worker: Worker = inline.InlineWorker(runtime)

    @classmethod
    @contextlib.contextmanager
    def begin(
        cls,
        tasks: Sequence[TaskType],
        *,
        at: datetime | str,
        executor: FakeExecutor | None = None,
        redis_url: str | None = None,
        seed: int = 1,
    ) -> Iterator["Journey"]:
        """A journey that begins at an instant, in a namespace of its own; without a Redis URL it brings a server."""
        with contextlib.ExitStack() as stack:
            if redis_url is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                redis_url = stack.enter_context(RedisServer(Path(folder), persist=False)).url
            settings = Settings(
                redis_url=redis_url,
                broker="stub",
                namespace=f"journey.{uuid.uuid4().hex[:12]}",
                rate_limit=RATE,
            )
            clock, executor = FrozenClock(at), executor or FakeExecutor()
            declared = DeclaredTasks(tasks, clock)
            transport = importlib.import_module(settings.actors).make_transport(settings)
            runtime = Runtime(
                settings,
                transport,
                clock=clock,
                registry=declared,
                executors=executor,
                jitter=random.Random(seed),
            )
            stack.callback(runtime.close)
            journey = cls(runtime, clock, executor, declared)
            journey.tick()
            yield journey

    def enable(
        self,
        user_id: str,
        task_id: str,
        *,
        timezone: str | Keep = KEEP,
        interval: Interval | Keep | None = KEEP,
        parameters: dict[str, Any] | Keep | None = KEEP,
    ) -> None:
        """Switches a task on for a user."""
        change = Enable(UserId(user_id), TaskId(task_id), timezone, interval, parameters)
        self.runtime.store.preferences.apply([change])

    def disable(self, user_id: str, task_id: str) -> None:
        """Switches a task off for a user."""
        self.runtime.store.preferences.apply([Disable(UserId(user_id), TaskId(task_id))])

    def relocate(self, user_id: str, timezone: str) -> None:
        """Has a user live in another time zone."""
        self.runtime.store.preferences.apply([Relocate(UserId(user_id), timezone)])

    def edit(self, tasks: Sequence[TaskType]) -> None:
        """Declares other tasks, as an edited tasks file does; the next tick publishes them."""
        self._declared.edit(tasks)

    def trigger(
        self, task_id: str, user_ids: Sequence[str] | None = None, *, request_key: str | None = None
    ) -> Run:
        """Starts a run, and works what is to be done at once."""
        users = None if user_ids is None else [UserId(user_id) for user_id in user_ids]
        run = start_run(self.runtime, TaskId(task_id), user_ids=users, request_key=request_key)
        self._worker.drain()
        return self.runtime.store.runs.get(run.id)

    def tick(self) -> None:
        """Lets the scheduler tick once, and works what is to be done."""
        self._worker.send("tick")
        self._worker.drain()

    def deliver_again(self) -> None:
        """Delivers every job's last message once more, as a broker may."""
        for job in list(self.executor.jobs):
            envelope = make_envelope(
                job.user_id,
                task_id=job.task_id,
                run_id=job.run_id,
                scheduled_at=job.scheduled_at,
                attempt=job.attempt,
                definition=self.runtime.store.runs.get(job.run_id).definition,
            )
            self._worker.send("execute", envelope)
        self._worker.drain()

    def until(self, instant: datetime | str) -> None:
        """Moves the clock to an instant, ten seconds at a time, with a tick every minute."""
        end = utc(instant) if isinstance(instant, str) else instant
        while self.clock.now() < end:
            before = self.clock.now()
            after = self.clock.advance(min(STEP, end - before))
            if before.replace(second=0, microsecond=0) != after.replace(second=0, microsecond=0):
                self.tick()
            else:
                self._worker.drain()

    def sleep_until(self, instant: datetime | str) -> None:
        """Moves the clock while nothing runs, as in an outage; the next tick has to catch up."""
        self.clock.move_to(instant)

    def runs(self, task_id: str | None = None) -> list[Run]:
        """All runs, the oldest first."""
        task = TaskId(task_id) if task_id else None
        found = self.runtime.store.runs.latest(task_id=task, limit=10_000)
        return sorted(found, key=lambda run: (run.nominal_at, run.claimed_at))

    def run(self, run_id: RunId) -> Run:
        """A run as it stands, with its shares."""
        return self.runtime.store.runs.get(run_id)

    def results(self, user_id: str, task_id: str) -> list[JobResult]:
        """A user's last results of a task, newest first."""
        return self.runtime.store.results.of(TaskId(task_id), UserId(user_id))

    def claim_due(self) -> list[RunId]:
        """What a tick does by itself, without what follows from it."""
        return tick(self.runtime)
