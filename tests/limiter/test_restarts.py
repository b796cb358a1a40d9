"""The limiter outlives a Redis that forgets its scripts, is away for a while, or forgets everything."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.limiter.fleet import Fleet, adaptive, virtual_store
from tests.limiter.test_rule import busiest, capacity
from tq.bench.timeline import Timeline
from tq.models import TaskId
from tq.redis_server import RedisServer

CEILING = 100
THREADS = 16
PROCESSES = 4


class Own:
    """A fleet around a Redis of its own."""

    def __init__(self, server: RedisServer, fleet: Fleet, task: TaskId) -> None:
        self.server = server
        self.fleet = fleet
        self.task = task

    def away_for(self, seconds: float) -> None:
        """Has Redis die, and be there again after a while."""
        self.server.kill()
        self.fleet.run(seconds)
        self.server.start()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Own]]:
    """Makes a fleet of four processes around a Redis of its own."""
    with ExitStack() as stack:

        def make(*, persist: bool) -> Own:
            server = stack.enter_context(RedisServer(tmp_path, persist=persist))
            timeline = Timeline()
            store = stack.enter_context(closing(virtual_store(server.url, timeline)))
            fleet = Fleet(store, timeline, adaptive(CEILING))
            task = fleet.task("a", adaptive(CEILING))
            fleet.start(PROCESSES, threads=THREADS)
            return Own(server, fleet, task)

        yield make


def test_a_script_that_redis_has_forgotten_is_loaded_again(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100))
    fleet.start(2)
    fleet.run(30)

    fleet.store.connection.call("SCRIPT", "FLUSH")
    fleet.run(10)

    assert fleet.rate(task) == 100
    assert fleet.log.calls(since=30) >= 10 * 100 * 0.97


@pytest.mark.parametrize("persist", [True, False], ids=["kept", "lost"])
def test_a_redis_that_comes_back_brings_no_burst(own: Callable[..., Own], persist: bool) -> None:
    system = own(persist=persist)
    fleet = system.fleet
    fleet.run(30)

    system.away_for(5)
    fleet.run(30)

    in_hand = PROCESSES * THREADS
    assert busiest(fleet) <= CEILING + 1 + in_hand
    assert busiest(fleet, seconds=5) <= 5 * CEILING + 1 + in_hand
    assert fleet.log.calls(since=55) >= 10 * CEILING * 0.95
    since = sorted(slot.at for slot in fleet.log.given if slot.given_at > 34)
    assert min(after - before for before, after in pairwise(since)) >= 0.99 / CEILING


@pytest.mark.parametrize("persist", [True, False], ids=["kept", "lost"])
def test_what_was_learned_is_kept_as_well_as_redis_keeps_it(own: Callable[..., Own], persist: bool) -> None:
    system = own(persist=persist)
    fleet, task = system.fleet, system.task
    fleet.endpoints[task] = capacity(20)
    fleet.run(60)
    before = fleet.rate(task)

    system.away_for(1)
    given = len(fleet.log.given)
    fleet.run(2)

    assert before < 30
    assert fleet.log.given[given].rate == pytest.approx(before if persist else CEILING / 2, rel=0.1)


def test_without_redis_calls_go_on_at_half_of_what_was_allowed(own: Callable[..., Own]) -> None:
    system = own(persist=True)
    fleet = system.fleet
    fleet.run(30)

    system.away_for(30)

    assert fleet.log.calls(since=32, until=60) == pytest.approx(28 * CEILING / 2, rel=0.15)
    assert busiest(fleet, since=32) <= CEILING / 2 + PROCESSES


def test_what_came_out_while_redis_was_away_is_told_when_it_is_back(own: Callable[..., Own]) -> None:
    system = own(persist=True)
    fleet, task = system.fleet, system.task
    fleet.run(10)

    system.away_for(10)
    fleet.run(3)

    ended = sum(1 for at, _, _ in fleet.log.replies if at <= fleet.now - 1)
    told = fleet.store.limits.outcomes([task], over=timedelta(minutes=1))[task]
    assert ended <= told.calls <= len(fleet.log.replies)
    assert told.error_rate == 0
