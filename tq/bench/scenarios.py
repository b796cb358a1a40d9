"""What a limiter is tried on: an endpoint's troubles, and the jobs that are to be done meanwhile.

None of them is real, and a limiter should not be tuned until it shines in just these. In all of them
the operator allows `CEILING` calls a second, from as many processes and threads as stand here; the
oracle knows the endpoint's capacity at any time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from tq.bench.downstream import Mood, Phase, Quota
from tq.models import TaskId

FLOOR, BASE, CEILING = 2.0, 100.0, 200.0  # calls per second
PROCESSES, THREADS = 8, 16  # threads of each process
LAST_BATCH_S = 15  # before the end, so that it can be done


@dataclass(frozen=True, slots=True)
class Arrival:
    """Jobs of a task that come at once."""

    at: float
    task: TaskId
    jobs: int


@dataclass(frozen=True)
class Trouble:
    """When the capacity is down, and what is left of it."""

    since: int
    until: int
    capacity: float


@dataclass(frozen=True)
class Scenario:
    """One trial. `endless` tasks always have another job; the jobs of others arrive."""

    name: str
    about: str
    seconds: int
    phases: tuple[Phase, ...]
    quota: Quota | None = None
    background_errors: float = 0.0
    endless: tuple[TaskId, ...] = (TaskId("task-1"),)
    broken_task: TaskId | None = None
    arrive: Callable[[int, Random], Iterable[Arrival]] | None = None

    @property
    def trouble(self) -> Trouble | None:
        """The middle one of three phases."""
        if len(self.phases) != 3:
            return None
        _, bad, good = self.phases
        return Trouble(bad.since, good.since, bad.capacity if bad.mood.serves else 0.0)

    def arrivals(self, random: Random) -> list[Arrival]:
        """The jobs that arrive, in any order."""
        return list(self.arrive(self.seconds, random)) if self.arrive else []

    def oracle(self, arrivals: Iterable[Arrival]) -> float:
        """How many successes are possible to one who knows the capacity."""
        if self.quota:
            return self.quota.calls / self.quota.seconds * self.seconds
        if not self.endless:
            return sum(arrival.jobs for arrival in arrivals)
        ends = [phase.since for phase in self.phases[1:]] + [self.seconds]
        possible = sum(
            min(phase.capacity, CEILING) * (end - phase.since)
            for phase, end in zip(self.phases, ends, strict=True)
            if phase.mood.serves
        )
        return possible * (1 - self.background_errors)


def _batches(seconds: int, _random: Random) -> Iterable[Arrival]:
    # Not in step with whole seconds, whose beginnings are nothing special then.
    at = 0.96
    while at < seconds - LAST_BATCH_S:
        yield Arrival(at, TaskId("task-1"), 300)
        at += 5.37


def _small_tasks(seconds: int, random: Random) -> Iterable[Arrival]:
    for task, per_second in (("small-1", 5.0), ("small-2", 5.0), ("small-3", 1.0)):
        at = random.random()
        while at < seconds:
            yield Arrival(at, TaskId(task), 1)
            at += random.expovariate(per_second)


def _phases(usual: float, bad: Phase, until: int) -> tuple[Phase, ...]:
    mood = bad.mood if bad.mood.serves else Mood.SHEDDING
    return Phase(0, usual, mood), bad, Phase(until, usual, mood)


_FOUR_TASKS = tuple(TaskId(f"task-{number}") for number in range(1, 5))

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady160", "serves 160/s all the time", 300, (Phase(0, 160),)),
        Scenario("step", "120/s, then 24/s for 5 min, then 120/s", 600, _phases(120, Phase(120, 24), 420)),
        Scenario("outage", "no connection for 3 min", 450, _phases(120, Phase(90, 0, Mood.DOWN), 270)),
        Scenario("hang", "no answer for 3 min", 450, _phases(120, Phase(90, 0, Mood.SILENT), 270)),
        Scenario(
            "brownout",
            "slow for 4 min: 40/s instead of 120/s",
            480,
            _phases(120, Phase(90, 40, Mood.BROWN), 330),
        ),
        Scenario(
            "quota429",
            "800 calls per 10 s, then 429 with Retry-After",
            300,
            (Phase(0, 1000),),
            quota=Quota(800, 10),
        ),
        Scenario(
            "bg2pct", "160/s, and 2 % of calls fail anyway", 300, (Phase(0, 160),), background_errors=0.02
        ),
        Scenario(
            "badtask",
            "160/s for four tasks, one of which always gets 500",
            300,
            (Phase(0, 160),),
            endless=_FOUR_TASKS,
            broken_task=_FOUR_TASKS[-1],
        ),
        Scenario(
            "batches", "250/s, and 300 jobs every 5 s", 200, (Phase(0, 250),), endless=(), arrive=_batches
        ),
        Scenario(
            "fair",
            "120/s for one endless task and three small ones",
            200,
            (Phase(0, 120),),
            arrive=_small_tasks,
        ),
    )
}
