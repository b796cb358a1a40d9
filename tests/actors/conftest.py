"""What tests of the broker share: a store whose messages travel through Dramatiq's queues."""

from collections.abc import Iterator

import pytest

from actors.transport import DramatiqTransport
from tq.settings import Settings
from tq.store import Store
from tq.testing import FrozenClock


@pytest.fixture
def store(settings: Settings, clock: FrozenClock) -> Iterator[Store]:
    """The store of the same namespace as the broker's queues, at a quarter to ten."""
    opened = Store(settings, DramatiqTransport(settings), clock=clock)
    yield opened
    opened.close()
