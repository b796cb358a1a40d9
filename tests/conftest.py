"""What all tests share: a real Redis of their own, and a namespace per test."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tq.redis_server import RedisServer
from tq.registry import python_tasks
from tq.settings import Settings
from tq.testing.clock import FrozenClock


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that lives as long as the tests."""
    with RedisServer(tmp_path_factory.mktemp("redis"), persist=False) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that a test declares in Python are no other test's."""
    monkeypatch.setattr(python_tasks, "_declared", {})


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings of a namespace that no other test uses."""
    name = f"test.{abs(hash(request.node.nodeid)):x}"
    return Settings(
        redis_url=redis_server.url, namespace=name, tasks_file=tmp_path / "tasks.yaml", broker="stub"
    )


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that stands at a quarter to ten on an ordinary Tuesday."""
    return FrozenClock(datetime(2026, 11, 24, 9, 45, tzinfo=UTC))
