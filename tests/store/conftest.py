"""A store for each test."""

from collections.abc import Iterator

import pytest

from tq.redis_server import RedisServer
from tq.store import Store

from . import fresh_store


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A store in a namespace of its own, at a quarter to ten."""
    with fresh_store(redis_server.url) as store:
        yield store
