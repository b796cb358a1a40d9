"""Journeys share the tests' Redis, each in a namespace of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tq.models import TaskType
from tq.redis_server import RedisServer
from tq.testing import Journey

Begin = Callable[..., Journey]


@pytest.fixture
def begin(redis_server: RedisServer) -> Iterator[Begin]:
    """Begins a journey with some tasks at an instant; it ends with the test."""
    with ExitStack() as stack:

        def _begin(*tasks: TaskType, at: str, **options: Any) -> Journey:
            return stack.enter_context(Journey.begin(tasks, at=at, redis_url=redis_server.url, **options))

        yield _begin
