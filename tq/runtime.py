"""All that is open in a process, opened in one place: settings, clock, store, task types, executors, limiter.

A Runtime opens each part when it is first needed, so that a command that only reads results does
not care whether tasks.yaml can be read.
"""

import contextlib
import os
import random
import socket
import threading
import uuid
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol

from loguru import logger

from tq.bookkeeper import Bookkeeper
from tq.by_identity import ByIdentity
from tq.clock import Clock, SystemClock
from tq.errors import InvalidDefinition, StoreError, TaskNotFound
from tq.executors import Executor, Executors
from tq.executors.http import HttpExecutor
from tq.lanes import WEIGHTS
from tq.limiter import Limiter
from tq.limits import Limit, limit_everything, limit_of
from tq.models import Envelope, ExecutionResult, Priority, TaskId, TaskType
from tq.registry import Registry, WatchedRegistry, environment, task_fingerprint
from tq.settings import Settings
from tq.store import Store, Transport
from tq.store.limits import Outlook
from tq.store.planning import Look
from tq.telemetry.observations import WAIT, Observations
from tq.telemetry.traces import Traces, are_wanted, open_traces, variables

# Is told of every attempt that was made, before it is recorded.

Observer = Callable[[Envelope, TaskType, ExecutionResult], None]


class ExecutorChoice(Protocol):
    """Knows what carries out a task."""

    def for_task(self, task: TaskType) -> Executor:
        """The executor of a task.

        Raises:
            ExecutorUnavailable: if it cannot be had in this process.
        """
        ...


class Declared(Protocol):
    """The task types that are declared here, as they are now."""

    @property
    def current(self) -> Registry:
        """The last set that could be read."""
        ...

    @property
    def problem(self) -> str | None:
        """Why what is declared by now could not be read, if that is so."""
        ...

    def refresh(self) -> bool:
        """Reads them again if they have changed; tells whether there is a new set."""
        ...


class Runtime:
    """What the pipeline works with. `stopping` is set when the process is asked to end; `facts` is what it shows
    of itself beside what every process shows."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        *,
        clock: Clock | None = None,
        registry: Declared | None = None,
        executors: ExecutorChoice | None = None,
        jitter: random.Random | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.clock = clock or SystemClock()
        self.store = Store(settings, transport, clock=self.clock)
        self.stopping = threading.Event()
        self.jitter = jitter or random.Random()
        self.observers: list[Observer] = []
        self.observations = Observations()
        self.facts: dict[str, Any] = {}
        self._limits = ByIdentity(self._limit_and_weight)  # asked for several times in each job's life
        self._registry = registry
        self._executors = executors
        self._traces = traces

    @cached_property
    def registry(self) -> Declared:
        """The task types that are declared here.

        Raises:
            InvalidDefinition: if they cannot be read; the message has a line per problem.
        """
        return self._registry or WatchedRegistry(self.settings)

    @cached_property
    def executors(self) -> ExecutorChoice:
        """What carries out jobs."""
        if self._executors is not None:
            return self._executors
        http = HttpExecutor(
            allow_private=self.settings.allow_private_endpoints,
            environ=environment(),
            traces=self.traces if self.traces.is_on else None,
        )
        http.open()
        return Executors(http)

    @property
    def is_traced(self) -> bool:
        """Whether anybody wants traces; known before anything is opened for them."""
        return are_wanted(variables()) if self._traces is None else self._traces.is_on

    @cached_property
    def traces(self) -> Traces:
        """What the work is told to; opened in the process that works, since its thread survives no fork."""
        return open_traces(self.settings, variables()) if self._traces is None else self._traces

    @cached_property
    def definitions(self) -> "Definitions":
        """The definitions in force."""
        return Definitions(self)

    @cached_property
    def limiter(self) -> Limiter:
        """Who may call now; it limits nothing until a worker starts it."""
        # Not the process id alone: containers often share it, and a host may restart with the same.
        process = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        limiter = Limiter(
            self.store.limits, limit_everything(self.settings), self._limit_of_job, process=process
        )
        limiter.on_slot = partial(self.observations.time, WAIT)
        return limiter

    @cached_property
    def bookkeeper(self) -> Bookkeeper:
        """Who keeps the ledger for many jobs at a time; nobody, until a worker starts it."""
        return Bookkeeper(self.store.ledger, self.limiter)

    def outlook(self, task: TaskType) -> Outlook:
        """What the jobs of a task may expect now, by its definition declared now, if there is one."""
        with contextlib.suppress(InvalidDefinition):
            task = self.registry.current.tasks.get(task.id, task)
        return self.store.limits.outlook(
            task.id, limit_of(task, self.settings), limit_everything(self.settings)
        )

    def _limit_of_job(self, envelope: Envelope) -> tuple[Limit, int]:
        """What limits a job's calls, by the definition declared now, and its weight among others."""
        try:
            task = self.registry.current.tasks.get(envelope.task_id) or self.definitions.get(
                envelope.definition
            )
        except (StoreError, TaskNotFound, InvalidDefinition):
            # Its work will say what is wrong; until then it counts like any other.
            return limit_everything(self.settings), WEIGHTS[Priority.NORMAL]
        return self._limits.get(task)

    def _limit_and_weight(self, task: TaskType) -> tuple[Limit, int]:
        return limit_of(task, self.settings), WEIGHTS[task.priority]

    def close(self) -> None:
        """Ends what was opened."""
        self.stopping.set()
        self.store.close()


class Definitions:
    """Task types by the id under which they were published, read once each."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[str, TaskType] = {}
        self._in_force: dict[TaskId, str] = {}
        self._fingerprint = ""
        self._warned = ""

    def get(self, definition: str) -> TaskType:
        """The task type that was published under this id.

        Raises:
            TaskNotFound: if it is kept no longer.
        """
        task = self._known.get(definition)
        if task is None:
            task = self._runtime.store.planning.definition(definition)
            if task is None:
                raise TaskNotFound(f"the task definition {definition} is kept no longer")
            self._known[definition] = task
        return task

    def publish(self, look: Look) -> bool:
        """Puts the definitions that are declared here into force, unless those there are newer.

        Returns whether what is in force has changed.
        """
        try:
            registry = self._runtime.registry.current
        except InvalidDefinition as error:
            logger.error("task definitions cannot be read; those in force stay so", problem=str(error))
            return False
        if registry.fingerprint == look.fingerprint:
            return False
        tasks = {task_fingerprint(task): task for task in registry.tasks.values()}
        planning = self._runtime.store.planning
        if planning.publish(registry.modified_ms, registry.fingerprint, tasks):
            logger.info("task definitions published", tasks=len(tasks), version=registry.modified_ms)
            return True
        if self._warned != registry.fingerprint:
            self._warned = registry.fingerprint
            logger.warning(
                "task definitions not published: those in force are newer; touch the tasks file to have it win",
                tasks_file=str(self._runtime.settings.tasks_file),
                version=registry.modified_ms,
                in_force=look.version,
            )
        return False

    def in_force(self, fingerprint: str) -> dict[TaskId, tuple[str, TaskType]]:
        """The definitions in force by task, each with its id; read again when the set has changed."""
        if fingerprint != self._fingerprint or not fingerprint:
            self._in_force = self._runtime.store.planning.definitions()
            self._fingerprint = fingerprint
        return {task_id: (definition, self.get(definition)) for task_id, definition in self._in_force.items()}
