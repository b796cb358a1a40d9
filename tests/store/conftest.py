"""A store for each test."""

from collections.abc import Iterator

import pytest

from tq.redis_server import RedisServer
from tq.store import Store

from . import fresh_store, open_store


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A store in a namespace of its own, at a quarter to ten."""
    with fresh_store(redis_server.url) as store:
        yield store


@pytest.fixture
def own_store(server: RedisServer) -> Iterator[Store]:
    """A store in the Redis that a module brings as `server`, to have it fail."""
    store = open_store(server.url)
    yield store
    store.close()
