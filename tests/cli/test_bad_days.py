"""What commands and services say while Redis is in a bad state, and that they work again after it."""

from collections.abc import Iterator

import pytest
import redis

from tests.bad_days import State, administrator, busy, full, read_only
from tests.cli.conftest import Tq
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store.keys import DATA_VERSION, Keys

WRITING = (
    ("users", "enable", "ada", "email_digest"),
    ("trigger", "email_digest"),
    ("tasks", "pause", "--all"),
)
READING = ("runs", "list")
SERVICES = (("worker",), ("scheduler",))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that is put into each state, instead of that of all tests."""
    with RedisServer(tmp_path_factory.mktemp("redis"), persist=False) as server:
        yield server


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """What changes its state."""
    with administrator(redis_server.url) as client:
        yield client


@pytest.mark.parametrize(
    ("state", "told", "reads"),
    [
        (full, "is full (maxmemory)", True),
        (read_only, "is a read-only replica", True),
        (busy, "is busy with a slow script", False),
    ],
)
def test_a_command_that_redis_does_not_take_now_says_why_and_is_taken_afterwards(
    tq: Tq, redis_server: RedisServer, admin: redis.Redis, state: State, told: str, reads: bool
) -> None:
    with state(admin):
        refused = [tq(*words) for words in WRITING]
        read = tq(*READING)
    taken = [tq(*words) for words in WRITING]

    for answer in refused:
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith(f"error: Redis at {redis_server.url} {told}")
        assert len(answer.err.splitlines()) == 1
    assert read.code == (0 if reads else 1)
    assert [answer.code for answer in taken] == [0, 0, 0]


@pytest.mark.parametrize("words", [*WRITING, READING, *SERVICES], ids=" ".join)
def test_commands_and_services_leave_alone_what_a_later_version_has_written(
    tq: Tq, tq_process: Tq, admin: redis.Redis, settings: Settings, words: tuple[str, ...]
) -> None:
    version = Keys(settings.namespace)("data_version")
    admin.set(version, DATA_VERSION + 1)

    answer = tq_process(*words) if words in SERVICES else tq(*words)

    assert (answer.code, answer.out) == (1, "")
    [line] = answer.err.splitlines()
    assert "holds data that a later version of TaskQueue has written; run that version" in line
    assert admin.keys(f"{settings.namespace}*") == [version]
