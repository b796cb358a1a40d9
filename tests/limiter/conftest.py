"""A fleet for each test, and what it may look at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.limiter.fleet import Fleet, adaptive, virtual_store
from tq.bench.timeline import Timeline
from tq.limits import Limit
from tq.redis_server import RedisServer

MakeFleet = Callable[[Limit], Fleet]


@pytest.fixture
def fleet_under(redis_server: RedisServer) -> Iterator[MakeFleet]:
    """Makes a fleet without tasks and processes under a limit for everything."""
    with ExitStack() as stack:

        def make(everything: Limit) -> Fleet:
            timeline = Timeline()
            store = stack.enter_context(closing(virtual_store(redis_server.url, timeline)))
            return Fleet(store, timeline, everything)

        yield make


@pytest.fixture
def fleet(fleet_under: MakeFleet) -> Fleet:
    """A fleet that may make a thousand calls per second, so that each task's own limit is what counts."""
    return fleet_under(adaptive(1000))
