"""The whole journey of runs in one thread: tick, distribute, execute, retry, as the clock moves.

State is in a real Redis, time in a frozen clock, messages in the stub broker. Of the limiter only the
pauses are there: calls take no time here, so there is no rate to be found. The clock stops where there is
something to do and nowhere else, so that a month with little to do is soon over.
"""

import contextlib
import importlib
import random
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from tq.clock import EPOCH, to_ms
from tq.limiter import Limiter
from tq.limits import EVERY_TASK
from tq.models import Envelope, Interval, JobResult, Run, RunId, TaskId, TaskType, UserId
from tq.pipeline import cancel_run, start_run, tick
from tq.pipeline.mend import Mender
from tq.redis_server import RedisServer
from tq.registry import Registry
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.preferences import KEEP, Disable, Enable, Keep, Relocate
from tq.telemetry.traces import NO_TRACES, Traces
from tq.testing.builders import make_envelope
from tq.testing.clock import FrozenClock, utc
from tq.testing.executor import FakeExecutor

STEP = timedelta(seconds=10)
TICK = timedelta(minutes=1)
# Workers look for what has stalled far more often; but here nothing does, so this is for what is over.
MEND = timedelta(minutes=10)
A_MOMENT_S = 0.001  # what is held up comes again at the clock's next stop
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

    problem: str | None = None

    def __init__(self, tasks: Sequence[TaskType], clock: FrozenClock) -> None:
        self._clock = clock
        self.edit(tasks)

    def edit(self, tasks: Sequence[TaskType]) -> None:
        """Declares these from now on."""
        self.current = Registry({task.id: task for task in tasks}, modified_ms=self._clock.override_ms)

    def refresh(self) -> bool:
        """Nothing to read."""
        return False


class PausesOnly(Limiter):
    """Holds calls back in a pause, as any limiter does; limits nothing else until it is started."""

    def __init__(self, runtime: Runtime) -> None:
        limiter, store = runtime.limiter, runtime.store
        super().__init__(
            store.limits, limiter.agent.everything, limiter.limit_of, process=limiter.agent.process
        )
        self._orders = store.orders

    def enter(self, envelope: Envelope, *, patience_s: float) -> float:
        """As `Limiter`; in a pause there is no leave."""
        if not self.is_running and self._orders.pauses().keys() & {envelope.task_id, EVERY_TASK}:
            return A_MOMENT_S
        return super().enter(envelope, patience_s=patience_s)


class Journey:
    """A system in miniature: enable users, move the clock, look at what became of it."""

    def __init__(
        self,
        runtime: Runtime,
        clock: FrozenClock,
        executor: FakeExecutor,
        declared: DeclaredTasks,
        *,
        step: timedelta,
        mends: bool,
    ) -> None:
        self.runtime = runtime
        self._declared = declared
        self._edited = False
        self.clock = clock
        self.executor = executor
        self._step = step
        self._mender = Mender(runtime, "journey") if mends else None
        runtime.limiter = PausesOnly(runtime)
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
        jitter: random.Random | None = None,
        step: timedelta = STEP,
        mends: bool = False,
        settings: Mapping[str, Any] | None = None,
        traces: Traces | None = None,
    ) -> Iterator["Journey"]:
        """A journey that begins at an instant, in a namespace of its own; without a Redis URL it brings a server.

        Of each `step`, a whole part of a minute, at most one instant is lived through. `mends` has what is
        over looked for every ten minutes, as workers do; `settings` go before those of a journey; `traces` hear
        of its work.
        """
        with contextlib.ExitStack() as stack:
            if redis_url is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                redis_url = stack.enter_context(RedisServer(Path(folder), persist=False)).url
            own = {
                "broker": "stub",
                "namespace": f"journey.{uuid.uuid4().hex[:12]}",
                "rate_limit": RATE,
                **(settings or {}),
            }
            in_force = Settings(redis_url=redis_url, **own)
            clock, executor = FrozenClock(at), executor or FakeExecutor()
            declared = DeclaredTasks(tasks, clock)
            transport = importlib.import_module(in_force.actors).make_transport(in_force)
            runtime = Runtime(
                in_force,
                transport,
                clock=clock,
                registry=declared,
                executors=executor,
                jitter=jitter or random.Random(seed),
                # What is set for the process that runs the test is not meant for its journeys.
                traces=traces or NO_TRACES,
            )
            stack.callback(runtime.close)
            journey = cls(runtime, clock, executor, declared, step=step, mends=mends)
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

    def forget(self, user_id: str) -> None:
        """Deletes a user."""
        self.runtime.store.preferences.forget(UserId(user_id))

    def pause(self, scope: str = EVERY_TASK, *, until: datetime | None = None) -> None:
        """Has no call of a task begin, or of any."""
        self.runtime.store.orders.pause(scope, until=until)

    def resume(self, scope: str = EVERY_TASK) -> None:
        """Ends a pause."""
        self.runtime.store.orders.resume(scope)

    def pause_user(self, user_id: str, task_id: str | None = None, *, until: datetime | None = None) -> None:
        """Has no call for a user begin, of one task or of any."""
        task = TaskId(task_id) if task_id else None
        self.runtime.store.user_pauses.pause(UserId(user_id), task, until=until)

    def resume_user(self, user_id: str, task_id: str | None = None) -> None:
        """Ends such a pause."""
        self.runtime.store.user_pauses.resume(UserId(user_id), TaskId(task_id) if task_id else None)

    def cancel(self, run_id: RunId) -> None:
        """Has no further call of a run begin."""
        cancel_run(self.runtime, run_id)

    def edit(self, tasks: Sequence[TaskType]) -> None:
        """Declares other tasks, as an edited tasks file does; the next tick publishes them."""
        self._declared.edit(tasks)
        self._edited = True

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
        self._edited = False
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
        """Moves the clock to an instant, ten seconds at a time if nothing else was said, with a tick every minute.

        Steps and minutes at which there is nothing to do are passed over; the instant itself never is.
        """
        end = utc(instant) if isinstance(instant, str) else instant
        while self.clock.now() < end:
            at, falls_due = self._next_stop(end)
            self.clock.move_to(at)
            if falls_due:
                self.tick()
            else:
                self._worker.drain()
            if self._mender is not None and _is_whole(at, MEND):
                self._mender.look()
                self._worker.drain()

    def _next_stop(self, end: datetime) -> tuple[datetime, bool]:
        """The next step at which there may be something to do, or else the end; and whether a tick is part of it."""
        store, never = self.runtime.store, to_ms(end + TICK)
        agenda, due, running = store.connection.calls(
            [
                ("ZRANGE", store.keys("agenda"), 0, 0, "WITHSCORES"),
                ("ZRANGE", store.keys("due"), 0, 0, "WITHSCORES"),
                ("SCARD", store.keys("running")),
            ]
        )
        work_at, claim_at = (int(found[0][1]) if found else never for found in (agenda, due))
        may_be_over = self._mender is not None and int(running) > 0
        at = self.clock.now()
        while at < end:
            at = min(at - (at - EPOCH) % self._step + self._step, end)
            falls_due = _is_whole(at, TICK) and (self._edited or to_ms(at) >= claim_at)
            if falls_due or to_ms(at) >= work_at or (may_be_over and _is_whole(at, MEND)):
                return at, falls_due
        return end, False

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


def _is_whole(instant: datetime, part: timedelta) -> bool:
    return not (instant - EPOCH) % part
