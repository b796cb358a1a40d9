"""What takes how much of Redis' memory, as it is estimated, beside what it is."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tq.models import JobStatus, TaskId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.keys import TABLE
from tq.store.memory import STRUCTURES, MemoryByStructure

from . import DIGEST, distribute, enable, end_of, jobs_sent, names, running

READINGS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of its own: others' keys would be drawn, too."""
    with RedisServer(tmp_path_factory.mktemp("redis"), persist=False) as server:
        yield server


def test_every_key_belongs_to_one_structure() -> None:
    placed = Counter(family for families in STRUCTURES.values() for family in families)

    assert placed == Counter(TABLE.keys())


def test_estimates_come_near_to_what_is_there(own_store: Store) -> None:
    run_id = running(own_store, names(3000))
    distribute(own_store, run_id)
    enable(own_store, names(3000), TaskId("other"), parameters={"n": 1})
    some = jobs_sent(own_store)[:1000]
    own_store.ledger.finish([end_of(job, JobStatus.FAILED) for job in some])
    strangers = own_store.connection
    for number in range(500):
        strangers.call("SET", f"strange:{number}", "x" * 500)
    memory = MemoryByStructure(own_store.connection, own_store.connection._transport)

    for _ in range(READINGS):
        found = memory.read([DIGEST, TaskId("other")])

    actual: Counter[str] = Counter()
    for key in own_store.connection.client.scan_iter():
        actual[memory._structure_of(key)] += own_store.connection.call("MEMORY", "USAGE", key, "SAMPLES", 0)
    assert actual["users"] > 100_000
    for structure in ("users", "runs", "results", "other"):
        assert found[structure] == pytest.approx(actual[structure], rel=0.25)


def test_a_redis_that_does_not_tell_sizes_is_no_error(own_store: Store) -> None:
    own_store.connection.call("ACL", "SETUSER", "curious", "on", ">secret", "~*", "&*", "+@all", "-memory")
    own_store.connection.call("AUTH", "curious", "secret")

    assert MemoryByStructure(own_store.connection, own_store.connection._transport).read([DIGEST]) == {}
