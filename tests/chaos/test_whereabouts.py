"""Whoever has to find out why a job did not end is told where its message stands."""

from contextlib import closing

from actors.transport import DramatiqTransport
from tests.chaos.whereabouts import whereabouts
from tests.store import NINE, distribute, running
from tq.settings import Settings
from tq.store import Store
from tq.testing import FrozenClock


def test_of_a_message_that_waits_it_is_told_how_many_wait_before_it(
    settings: Settings, clock: FrozenClock
) -> None:
    with closing(Store(settings, DramatiqTransport(settings), clock=clock)) as store:
        distribute(store, running(store, ["ada", "bob", "cyd"]))

        told = whereabouts(store, settings.namespace, until=NINE.timestamp())

    assert len(told) == 3
    for ahead in range(3):
        assert sum(f"queued in normal, {ahead} ahead and 3 in all" in line for line in told) == 1
