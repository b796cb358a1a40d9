"""A primary that is lost, and Sentinel puts its replica into its place: whoever has the Sentinels' URL goes on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from actors.broker import DEAD_AFTER_MS
from actors.transport import broker_namespace
from tests.end_to_end.conftest import System
from tests.end_to_end.endpoint import Endpoint
from tests.ports import free_port
from tests.sentinels import SENTINEL_PASSWORD, SERVICE, sentinel
from tests.waiting import eventually
from tq.child_process import kill_group
from tq.errors import StoreUnavailable
from tq.models import RunStatus, TaskId, UserId
from tq.redis_server import HOST, RedisServer
from tq.runtime import Runtime
from tq.store.preferences import Enable

DIGEST = TaskId("digest")
USERS = [f"user-{number:03}" for number in range(300)]
PASSWORD = "s3cr3t/of:mine"


@dataclass(frozen=True)
class Watched:
    """A primary with a replica, and a Sentinel that watches them."""

    primary: RedisServer
    replica: RedisServer
    url: str


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """All three, ready for the loss of the primary, which is noticed within half a second."""
    login = ("--masterauth", PASSWORD)
    at_once = ("--repl-diskless-sync-delay", "0")
    with RedisServer(tmp_path / "primary", password=PASSWORD, extra=(*login, *at_once)) as primary:
        port = urlsplit(primary.url).port or 0
        follows = ("--replicaof", HOST, str(port), *login)
        with RedisServer(tmp_path / "replica", password=PASSWORD, extra=follows) as replica:
            with redis.Redis.from_url(replica.url, decode_responses=True) as follower:
                eventually(lambda: follower.info("replication")["master_link_status"] == "up")
            sentinel_port = free_port()
            config = [
                f"port {sentinel_port}",
                f"sentinel down-after-milliseconds {SERVICE} 500",
                f"sentinel failover-timeout {SERVICE} 5000",
            ]
            with sentinel(tmp_path, port, PASSWORD, config):
                with redis.Redis(port=sentinel_port, password=SENTINEL_PASSWORD) as client:
                    eventually(lambda: knows_a_replica(client), why="Sentinel does not see the replica")
                yield Watched(
                    primary,
                    replica,
                    f"redis+sentinel://:{PASSWORD.replace('/', '%2F')}@{HOST}:1,{HOST}:{sentinel_port}"
                    f"/{SERVICE}/0?sentinel_password={SENTINEL_PASSWORD}",
                )


def knows_a_replica(client: redis.Redis) -> bool:
    try:
        return bool(client.execute_command("SENTINEL", "REPLICAS", SERVICE))
    except redis.RedisError:
        return False


def is_taken(runtime: Runtime, user: str, refusals: list[str]) -> bool:
    """Whether Redis takes a change now; else what is said of it is noted."""
    try:
        runtime.store.preferences.apply([Enable(UserId(user), TaskId("other"))])
    except StoreUnavailable as error:
        refusals.append(str(error))
        return False
    return True


def is_ended(runtime: Runtime) -> bool:
    try:
        return runtime.store.runs.latest()[0].status is RunStatus.ENDED
    except StoreUnavailable:
        return False


def take_the_silent_for_dead(runtime: Runtime) -> None:
    """Has Redis find at once what it would find after fifteen seconds."""
    alive = f"{broker_namespace(runtime.settings.namespace)}:alive"
    processes = runtime.store.connection.call("ZRANGE", alive, 0, -1)
    for process in processes[:-1]:
        runtime.store.connection.call("ZINCRBY", alive, -DEAD_AFTER_MS, process)


def test_a_worker_and_a_client_go_on_with_the_new_primary_and_nobody_is_missed(
    tmp_path: Path, watched: Watched, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "token")
    monkeypatch.setenv("URL_KEY", "key")
    system = System(tmp_path, watched.url, endpoint)
    # So slow that the primary is killed in the middle of the run on any machine.
    system.environment |= {"TQ_RATE_LIMIT": "60", "DEBUG_REDIS": "false"}
    runtime = system.open_runtime()
    runtime.store.preferences.apply([Enable(UserId(user), DIGEST) for user in USERS])
    refusals: list[str] = []
    worker = system.start_worker(threads=8)
    try:
        assert system.run("trigger", "digest").returncode == 0
        eventually(lambda: len(endpoint.seen) > 50, why=system.log_text())

        watched.primary.kill()
        eventually(lambda: is_taken(runtime, "new", refusals), why=system.log_text())
        before = len(endpoint.seen)
        eventually(lambda: len(endpoint.seen) > before, why=system.log_text())
        watched.primary.start()
        take_the_silent_for_dead(runtime)
        eventually(lambda: is_ended(runtime), why=system.log_text())

        with redis.Redis.from_url(watched.replica.url, decode_responses=True) as heir:
            assert heir.info("replication")["role"] == "master"
        [run] = runtime.store.runs.latest()
        calls = Counter(call.user for call in endpoint.seen)
        assert run.counts.expected == run.counts.success == len(USERS)
        assert run.counts.unaccounted == 0
        assert set(calls) == set(USERS)
        told = system.log_text() + "".join(refusals)
        assert f"redis+sentinel://:***@{HOST}:1,{HOST}:" in told
        assert PASSWORD not in told
        assert SENTINEL_PASSWORD not in told
    finally:
        kill_group(worker)
        worker.wait()
        runtime.close()
