"""The limiter of the program that TaskQueue succeeds, as a yardstick; it asks no Redis here.

A counter for each second, which all processes share, admits calls up to the rate. Whoever is refused
keeps its thread and asks again in a quarter of a second, give or take half of that. Once a minute the
rate is set by the share of failures since the beginning of time: half of the base above 10 %, twice
the base below 1 %, else the base.

Each question costs Redis one command, and each outcome two.
"""

from functools import partial

from tq.bench.downstream import Reply
from tq.bench.scenarios import BASE, PROCESSES, THREADS
from tq.bench.world import STARTS_WITHIN_S, Job, World

ASK_AGAIN_S = 0.25
ADJUST_EVERY_S = 60.0
BAD, GOOD = 0.10, 0.01
WAKES_WITHIN_S = 0.01


class Original:
    """All threads of all processes: what they share is all that tells them apart from others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = BASE
        self._second = -1
        self._admitted = 0
        self._calls = 0
        self._failures = 0
        self._adjust_at = ADJUST_EVERY_S
        self._idle = 0
        world.on_arrival = self._wake
        for _ in range(PROCESSES * THREADS):
            world.timeline.at(world.random.random() * STARTS_WITHIN_S, self._next)

    def _next(self) -> None:
        job = self._world.backlog.fetch()
        if job is None:
            self._idle += 1
        else:
            self._ask(job)

    def _wake(self) -> None:
        timeline, random = self._world.timeline, self._world.random
        for _ in range(self._idle):
            timeline.after(random.random() * WAKES_WITHIN_S, self._next)
        self._idle = 0

    def _ask(self, job: Job) -> None:
        self._world.trace.redis_commands += 1
        if self._admits():
            self._world.call(job, self._ended)
        else:
            delay = ASK_AGAIN_S * (0.5 + self._world.random.random())
            self._world.timeline.after(delay, partial(self._ask, job))

    def _admits(self) -> bool:
        second = int(self._world.timeline.seconds)
        if second != self._second:
            self._second, self._admitted = second, 0
        if self._admitted >= self._rate:
            return False
        self._admitted += 1
        return True

    def _ended(self, reply: Reply) -> None:
        self._world.trace.redis_commands += 2
        self._calls += 1
        self._failures += not reply.is_ok
        now = self._world.timeline.seconds
        if now >= self._adjust_at:
            self._adjust_at = now + ADJUST_EVERY_S
            share = self._failures / self._calls
            self._rate = BASE / 2 if share > BAD else BASE * 2 if share < GOOD else BASE
        self._next()
