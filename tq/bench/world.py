"""What surrounds a limiter in a simulation: the jobs, the endpoint, and a record of the calls."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random

from tq.bench.downstream import Downstream, Reply
from tq.bench.scenarios import Arrival, Scenario
from tq.bench.timeline import Timeline
from tq.models import TaskId

STARTS_WITHIN_S = 0.05  # of the beginning, each thread or process at an instant of its own
TRY_AGAIN_S = 1.0  # after which a failed job is there again
# A task with more jobs than this is not favoured for it, so that a small one is soon found beside it.
MOST_WEIGHT = 32


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do, and since when it waits; None for one of an endless task."""

    task: TaskId
    since: float | None = None


@dataclass
class Trace:
    """What happened. Times are seconds from the beginning, in order."""

    sent: list[float] = field(default_factory=list)
    succeeded: list[float] = field(default_factory=list)
    failed: int = 0
    waits: list[float] = field(default_factory=list)  # of the jobs that arrived, until their call began
    redis_commands: int = 0


class Backlog:
    """The jobs that no process has fetched."""

    def __init__(self, endless: Collection[TaskId], random: Random) -> None:
        self._endless = frozenset(endless)
        self._waiting: dict[TaskId, deque[Job]] = {}
        # The common case, and there is nothing to choose.
        self._only = next(iter(endless)) if len(endless) == 1 else None
        self._order = sorted(endless)
        self._random = random

    def add(self, job: Job) -> None:
        """A new job, behind those of its task."""
        self._of(job.task).append(job)

    def give_back(self, job: Job) -> None:
        """A job that was fetched and could not be done now; it is the next of its task."""
        if job.task not in self._endless:
            self._of(job.task).appendleft(job)

    def fetch(self, unwanted: Collection[TaskId] = ()) -> Job | None:
        """Some task's next job, or None if there is none: one of many jobs is found sooner than one of few."""
        if self._only is not None and not self._waiting and self._only not in unwanted:
            return Job(self._only)
        weights = {task: MOST_WEIGHT for task in self._order if task not in unwanted}
        for task, jobs in self._waiting.items():
            if task not in unwanted:
                weights[task] = min(len(jobs), MOST_WEIGHT)
        if not weights:
            return None
        task = self._random.choices(list(weights), list(weights.values()))[0]
        if task in self._endless:
            return Job(task)
        jobs = self._waiting[task]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[task]
        return job

    def _of(self, task: TaskId) -> deque[Job]:
        return self._waiting.setdefault(task, deque())


class World:
    """A scenario as it goes on."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.random = Random(seed)
        self.timeline = Timeline()
        self.backlog = Backlog(scenario.endless, self.random)
        self.arrivals = scenario.arrivals(self.random)
        self.tasks = sorted({*scenario.endless, *(arrival.task for arrival in self.arrivals)})
        self.trace = Trace()
        self.on_arrival: Callable[[], None] = lambda: None
        self._downstream = Downstream(
            scenario.phases,
            Random(seed + 1),
            quota=scenario.quota,
            background_errors=scenario.background_errors,
            broken_task=scenario.broken_task,
        )
        for arrival in self.arrivals:
            self._plan(arrival)

    def call(self, job: Job, ended: Callable[[Reply], None]) -> None:
        """Begins the job's call; `ended` hears how it came out."""
        now = self.timeline.seconds
        self.trace.sent.append(now)
        if job.since is not None:
            self.trace.waits.append(now - job.since)
        reply = self._downstream.call(now, job.task)
        self.timeline.after(reply.seconds, lambda: self._end(job, reply, ended))

    def _end(self, job: Job, reply: Reply, ended: Callable[[Reply], None]) -> None:
        if reply.is_ok:
            self.trace.succeeded.append(self.timeline.seconds)
        else:
            self.trace.failed += 1
            if job.since is not None:
                self._plan(Arrival(self.timeline.seconds + TRY_AGAIN_S, job.task, 1))
        ended(reply)

    def _plan(self, arrival: Arrival) -> None:
        self.timeline.at(arrival.at, lambda: self._arrive(arrival))

    def _arrive(self, arrival: Arrival) -> None:
        for _ in range(arrival.jobs):
            self.backlog.add(Job(arrival.task, self.timeline.seconds))
        self.on_arrival()


def shuffled(random: Random, count: int) -> Sequence[int]:
    """The numbers below `count` in a random order."""
    return random.sample(range(count), count)
