"""Reads the figures: what was counted, what there is now, how calls are limited, what Redis holds."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.metadata import version

from tq.limits import EVERY_TASK, limit_everything, limit_of
from tq.metrics import families as all_of
from tq.metrics.families import FAMILIES, Family
from tq.models import JobStatus, TaskId, TaskType
from tq.runtime import Runtime
from tq.store import Store
from tq.store.connection import chunks
from tq.store.heartbeats import SCHEDULER, WEB, WORKER
from tq.store.limits import Standing
from tq.store.memory import MemoryByStructure
from tq.store.totals import Counted
from tq.store.vitals import Server, Signs
from tq.telemetry import observations

# Of a metric: the values of its labels, and one number or those of a histogram.
Series = list[tuple[tuple[str, ...], Sequence[float]]]
Figures = Mapping[Family, Series]

STATUSES = tuple(status.value for status in JobStatus)
SCOPES_AT_A_TIME = 25  # a script of a millisecond or two
# What structures take in memory changes slowly, and takes Redis a few milliseconds to tell.
MEMORY_EVERY_S = 30.0

_SEEN = {
    observations.ATTEMPTS: all_of.ATTEMPTS,
    observations.DURATION: all_of.ATTEMPT_DURATION,
    observations.LATENESS: all_of.LATENESS_OF_JOBS,
    observations.DELAY: all_of.DELAY_OF_JOBS,
    observations.WAIT: all_of.WAITS,
    observations.TICK: all_of.TICK_DURATION,
}


class Meter:
    """Reads the figures for as long as it lives. Threads that ask at the same time take turns."""

    def __init__(self, runtime: Runtime, store: Store | None = None) -> None:
        """`store` is asked, if it is given: one that gives up earlier than the runtime's own, say."""
        self._runtime = runtime
        self._store = store or runtime.store
        self._memory = MemoryByStructure(self._store.connection, runtime.transport)
        self._memory_read_at = -MEMORY_EVERY_S
        self._reading = threading.Lock()
        self._structures: Mapping[str, float] = {}
        self._static: dict[Family, Series] = {
            all_of.BUILD: [((version("taskqueue"),), [1.0])],
            all_of.TZDATA: [((version("tzdata"),), [1.0])],
        }

    def read(self) -> Figures:
        """All figures, as they are now.

        Raises:
            StoreError: if Redis does not tell.
        """
        with self._reading:
            return self._read()

    def _read(self) -> Figures:
        store = self._store
        in_force = self._runtime.definitions.in_force(store.planning.look(limit=0).fingerprint)
        tasks = {task_id: task for task_id, (_, task) in in_force.items()}
        figures: dict[Family, Series] = {family: [] for family in FAMILIES}
        for found in (
            _counted(store.totals.read(tasks)),
            _vital(store.vitals.signs()),
            _limited(self._standings(tasks)),
            self._kept(store.vitals.server(), tasks),
            self._static,
        ):
            figures |= found
        return figures

    def _standings(self, tasks: Mapping[TaskId, TaskType]) -> dict[str, Standing]:
        settings = self._runtime.settings
        everything = {EVERY_TASK: limit_everything(settings)}
        limits = [(task_id, limit_of(task, settings)) for task_id, task in tasks.items()]
        found = self._store.limits.standings(everything)
        for part in chunks(limits, SCOPES_AT_A_TIME):
            found |= self._store.limits.standings(everything | dict(part))
        return found

    def _kept(self, server: Server, tasks: Iterable[TaskId]) -> dict[Family, Series]:
        if time.monotonic() - self._memory_read_at >= MEMORY_EVERY_S:
            self._structures = self._memory.read(tasks)
            self._memory_read_at = time.monotonic()
        return {
            all_of.MEMORY: [((structure,), [size]) for structure, size in self._structures.items()],
            all_of.USED_MEMORY: [] if server.used_memory is None else [((), [float(server.used_memory)])],
            all_of.MAX_MEMORY: [] if server.max_memory is None else [((), [float(server.max_memory)])],
        }


def _counted(counted: Counted) -> dict[Family, Series]:
    """What became of jobs, and what processes have seen."""
    found: defaultdict[Family, Series] = defaultdict(list)
    skipped: Counter[tuple[str, str]] = Counter()
    retried: Counter[str] = Counter()
    # What has not come about yet is 0: the first of its kind would be missed by who looks for an increase.
    ended = {
        (task, kind, status): 0
        for task, kind, what, _ in counted.totals
        if what == "expected"
        for status in STATUSES
    }
    for (task, kind, what, reason), count in counted.totals.items():
        if reason:
            if what == "skipped":
                skipped[task, reason] += count
        elif what in STATUSES:
            ended[task, kind, what] = count
        elif what == "retries":
            retried[task] += count
        else:
            family = {"expected": all_of.JOBS_EXPECTED, "runs": all_of.RUNS}[what]
            found[family].append(((task, kind), (count,)))
    found[all_of.JOBS] = [(labels, (count,)) for labels, count in ended.items()]
    found[all_of.JOBS_SKIPPED] = [(labels, (count,)) for labels, count in skipped.items()]
    found[all_of.JOBS_RETRIED] = [((task,), (count,)) for task, count in retried.items()]
    of_tasks = counted.tasks.items()
    found[all_of.MISSED] = [((task,), (there.missed,)) for task, there in of_tasks]
    found[all_of.JOBS_OPEN] = [((task,), (there.open,)) for task, there in of_tasks]
    found[all_of.FAILURES] = [((task,), (there.failures,)) for task, there in of_tasks]
    found[all_of.RECOVERED] = [((reason,), (times,)) for reason, times in counted.mended.items()]
    for name, of_task in counted.seen.items():
        for series, numbers in of_task.items():
            family_seen, labels = _seen(series)
            if family_seen is None:
                continue  # a later version's
            found[family_seen].append(((name, *labels) if name else labels, numbers))
            if family_seen is all_of.TICK_DURATION:
                found[all_of.TICKS].append(((), (sum(numbers[:-1]),)))
    return found


@lru_cache(maxsize=1024)  # a few dozens of names
def _seen(series: str) -> tuple[Family | None, tuple[str, ...]]:
    """Of which family a series is, and its labels beside the task."""
    metric, *labels = series.split("|")
    return _SEEN.get(metric), tuple(labels)


def _vital(signs: Signs) -> dict[Family, Series]:
    """The clock, who lives, and what waits."""
    living = Counter(process.component for process in signs.processes if not process.is_silent(signs.now))
    components = dict.fromkeys((WORKER, SCHEDULER, WEB), 0) | living
    running = [run for run in signs.striking if run.is_running]
    return {
        all_of.LAST_TICK: [((), [signs.last_tick.timestamp() if signs.last_tick else 0.0])],
        all_of.PROCESSES: [((component,), [count]) for component, count in components.items()],
        all_of.QUEUE_SIZE: [
            series
            for queue in signs.queues
            for series in (
                ((queue.name, "waiting"), [queue.waiting]),
                ((queue.name, "dead"), [queue.dead_letters]),
            )
        ],
        all_of.QUEUE_LATENCY: [
            ((queue.name,), [_age(queue.first_since, signs.now)]) for queue in signs.queues
        ],
        all_of.AGENDA_SIZE: [((), [signs.agenda_size])],
        all_of.AGENDA_LAG: [((), [_age(signs.agenda_since, signs.now)])],
        all_of.RUNS_RUNNING: [((), [signs.running])],
        all_of.RUNS_OVERDUE: [((), [sum(run.deadline_at < signs.now for run in running)])],
        all_of.JOBS_UNACCOUNTED: [((), [sum(abs(run.unaccounted) for run in signs.striking)])],
    }


def _limited(standings: Mapping[str, Standing]) -> dict[Family, Series]:
    """How fast calls are made."""
    whole = standings[EVERY_TASK]
    found: dict[Family, Series] = {}
    for scope, standing in standings.items():
        is_held = standing.state == "closed" and standing.until is not None and not standing.paused
        for family, number in (
            (all_of.LIMIT, standing.ceiling_within(whole)),
            (all_of.EFFECTIVE, standing.effective_within(whole)),
            (all_of.WAITING, standing.waiting),
            (all_of.CALLS, standing.in_use),
            (all_of.BREAKER, standing.state in ("open", "half_open")),
            (all_of.HELD, is_held),
            (all_of.ERROR_RATIO, standing.error_rate),
        ):
            found.setdefault(family, []).append(((scope,), [float(number)]))
        is_whole = scope == EVERY_TASK
        labels = ("everything", "") if is_whole else ("task", scope)
        found.setdefault(all_of.PAUSED, []).append((labels, [float(standing.paused)]))
    return found


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
