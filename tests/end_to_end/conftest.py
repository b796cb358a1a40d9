"""A whole system of real processes: Redis, workers, schedulers, and an endpoint that remembers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector import Collector
from tests.end_to_end.commands import Commands
from tests.end_to_end.endpoint import Endpoint
from tq.redis_server import RedisServer

SECRETS = {
    "API_TOKEN": "tok-planted-in-a-header-4711",
    "URL_KEY": "key-planted-in-the-url-0815",
}
PARAMETER_SECRET = "word-planted-in-a-parameter-1337"
TASKS = """
tasks:
  - id: digest
    interval: {{type: minutely, value: 1}}
    window: 0
    max_lateness: 1h
    overlap: allow
    timeout: 20s
    retries: 2
    retry_delay: 1s
    config:
      endpoint: "{endpoint}/digest/{{user_id}}?key=${{URL_KEY}}"
      headers: {{Authorization: "Bearer ${{API_TOKEN}}"}}
"""


class System(Commands):
    """The commands, for a task whose endpoint remembers every call."""

    def __init__(self, folder: Path, redis_url: str, endpoint: Endpoint) -> None:
        super().__init__(
            folder,
            redis_url,
            TASKS.format(endpoint=endpoint.url),
            {**SECRETS, "LOG_LEVEL": "DEBUG", "DEBUG_REDIS": "true"},
        )
        self.endpoint = endpoint


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder) as server:
        yield server


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers 200 and remembers every call."""
    with Endpoint() as serving:
        yield serving


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes all."""
    with Collector() as serving:
        yield serving


@pytest.fixture
def system(
    tmp_path: Path, own_redis: RedisServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """A system of which nothing but Redis and the endpoint runs yet."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    made = System(tmp_path, own_redis.url, endpoint)
    try:
        yield made
    finally:
        endpoint.let_go()
        made.stop()
