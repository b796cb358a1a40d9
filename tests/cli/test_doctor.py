"""`tq doctor` on a real Redis in each state that it is to notice."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cli.conftest import PASSWORD, REDIS_AWAY, TASKS, Tq
from tests.waiting import eventually
from tq.clock import to_ms
from tq.limits import EVERY_TASK
from tq.models import TaskId, UserId
from tq.pipeline import start_run
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store import Store
from tq.store.heartbeats import SCHEDULER, WORKER, Presence
from tq.store.preferences import Enable

Change = Callable[[Runtime], None]
DIGEST = TaskId("email_digest")
MINUTE = timedelta(minutes=1)


class FastClock:
    """The clock of a machine that is a minute ahead of Redis."""

    override_ms = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + MINUTE


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that may be set up badly, instead of that of all tests."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client that leaves the server as it was found."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as opened:
        before = opened.config_get()
        yield opened
        opened.replicaof("NO", "ONE")
        after = opened.config_get()
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save"):
            if after[name] != before[name]:
                opened.config_set(name, before[name])


@pytest.fixture(autouse=True)
def _on_real_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_BROKER", "redis")


@pytest.fixture
def well(runtime: Runtime) -> Runtime:
    """A system in which everything is as it should be: it has ticked, and a worker and a scheduler live."""
    for component in (WORKER, SCHEDULER):
        Presence(runtime.store.heartbeats, component).show()
    runtime.definitions.publish(runtime.store.planning.look())
    return runtime


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """As commands have them."""
    return settings.model_copy(update={"broker": "redis", "tasks_file": tmp_path / "tasks.yaml"})


def not_well(document: list[dict[str, str]]) -> dict[str, str]:
    """Each check that is not ok, with its status."""
    return {finding["id"]: finding["status"] for finding in document if finding["status"] != "ok"}


def found_by(document: list[dict[str, str]], check: str) -> Mapping[str, str]:
    return next(finding for finding in document if finding["id"] == check)


# --- The command -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("well")
def test_a_system_that_is_well_ends_with_0_and_says_so_of_every_check(tq: Tq) -> None:
    told, answer = tq("doctor"), tq("doctor", "--json")

    assert (told.code, told.err, answer.code) == (0, "", 0)
    assert not_well(answer.document) == {}
    assert len(told.out.splitlines()) == 1 + len(answer.document)
    assert list(answer.document[0]) == ["id", "status", "found", "why", "remedy", "subjects"]


def test_a_problem_ends_with_1_and_is_told_with_why_it_matters_and_what_to_do(tq: Tq, well: Runtime) -> None:
    well.store.connection.call("DEL", well.store.keys("beats"))

    told = tq("doctor")

    assert told.code == 1
    _, _, of_workers = told.out.partition("\nproblem: workers: no worker process shows itself\n")
    assert of_workers.splitlines()[:2] == [
        "  why it matters: worker processes do all the work, ticks included",
        "  what to do: start tq worker and keep it running",
    ]


def test_a_redis_that_cannot_be_reached_is_the_only_finding(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)

    answer = tq("doctor", "--json")

    assert answer.code == 1
    [finding] = answer.document
    assert (finding["id"], finding["status"]) == ("redis", "problem")
    assert "redis://:***@127.0.0.1:1/0 cannot be reached" in finding["found"]
    assert PASSWORD not in answer.out + answer.err


def test_a_login_that_is_refused_is_the_only_finding(
    tq: Tq, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", settings.redis_url.replace("//", f"//nobody:{PASSWORD}@"))

    answer = tq("doctor", "--json")

    assert answer.code == 1
    [finding] = answer.document
    assert "refused the login" in finding["found"]
    assert PASSWORD not in answer.out + answer.err


def test_data_of_a_later_version_are_the_only_finding(tq: Tq, well: Runtime) -> None:
    command("SET", "@data_version", 999)(well)

    answer = tq("doctor", "--json")

    assert answer.code == 1
    [finding] = answer.document
    assert "a later version of TaskQueue has written" in finding["found"]


@pytest.mark.usefixtures("well")
def test_what_a_provider_forbids_is_not_looked_at_and_all_else_is(
    tq: Tq, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.execute_command("ACL", "SETUSER", "tenant", "on", ">pw", "~*", "&*", "+@all", "-config", "-info")
    monkeypatch.setenv("TQ_REDIS_URL", settings.redis_url.replace("//", "//tenant:pw@"))

    answer = tq("doctor", "--json")

    assert (answer.code, answer.err) == (0, "")
    asked = ["server_version", "replica", "persistence", "disk", "eviction", "memory"]
    assert not_well(answer.document) == dict.fromkeys(asked, "warning")
    assert "could not be looked at" in found_by(answer.document, "memory")["found"]
    client.execute_command("ACL", "DELUSER", "tenant")


# --- Redis in each state ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(
    ("config", "check", "status", "told"),
    [
        ({"appendonly": "no"}, "persistence", "problem", "nothing is kept on disk"),
        ({"appendonly": "no", "save": "900 1"}, "persistence", "warning", "snapshots only (save 900 1)"),
        ({"appendfsync": "no"}, "persistence", "warning", "synced when the machine likes"),
        ({"maxmemory-policy": "allkeys-lru"}, "eviction", "warning", "allkeys-lru, without effect"),
        (
            {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
            "eviction",
            "problem",
            "allkeys-lru: when memory is full",
        ),
    ],
)
def test_a_redis_that_is_set_up_badly_is_told(
    tq: Tq, client: redis.Redis, config: dict[str, str], check: str, status: str, told: str
) -> None:
    for name, value in config.items():
        client.config_set(name, value)

    document = tq("doctor", "--json").document

    assert not_well(document) == {check: status}
    assert told in found_by(document, check)["found"]


@pytest.mark.usefixtures("well")
def test_memory_that_is_full_is_told(tq: Tq, client: redis.Redis) -> None:
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 0.9))

    document = tq("doctor", "--json").document

    assert not_well(document) == {"memory": "problem"}
    assert "% of maxmemory" in found_by(document, "memory")["found"]


@pytest.mark.usefixtures("well")
def test_a_replica_is_told(tq: Tq, client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")

    answer = tq("doctor", "--json")

    assert answer.code == 1
    assert not_well(answer.document) == {"replica": "problem"}
    assert "a replica of 127.0.0.1" in found_by(answer.document, "replica")["found"]


def test_a_disk_that_cannot_be_written_to_is_told_whether_redis_goes_on_or_not(
    tq: Tq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    with RedisServer(folder, persist=False) as server, redis.Redis.from_url(server.url) as doomed:
        doomed.config_set("save", "900 1")
        shutil.rmtree(folder)
        doomed.bgsave()
        eventually(lambda: doomed.info("persistence")["rdb_last_bgsave_status"] == "err")
        monkeypatch.setenv("TQ_REDIS_URL", server.url)

        refusing = tq("doctor", "--json").document
        doomed.config_set("stop-writes-on-bgsave-error", "no")
        going_on = tq("doctor", "--json").document
        doomed.config_set("save", "")  # or it would not end without a last snapshot

    assert [finding["id"] for finding in refusing] == ["redis"]
    assert "unable to persist to disk" in refusing[0]["found"]
    assert found_by(going_on, "disk")["status"] == "problem"


# --- The system in each state ----------------------------------------------------------------------------


def command(*words: Any) -> Change:
    """One Redis command; a text such as `@beats` in it is the key of that family."""

    def change(runtime: Runtime) -> None:
        keys = runtime.store.keys
        spelt = [keys(word[1:]) if isinstance(word, str) and word.startswith("@") else word for word in words]
        runtime.store.connection.call(*spelt)

    return change


def in_queue(*words: Any) -> Change:
    """One Redis command on what the broker keeps: the second word is a part of its key."""

    def change(runtime: Runtime) -> None:
        verb, key, *others = words
        runtime.store.connection.call(verb, f"{runtime.settings.namespace}:queue:{key}", *others)

    return change


def have_a_worker_with_a_wrong_clock(runtime: Runtime) -> None:
    elsewhere = Store(runtime.settings, runtime.transport, clock=FastClock())
    Presence(elsewhere.heartbeats, WORKER).show()
    elsewhere.close()


def have_a_worker_of_another_version(runtime: Runtime) -> None:
    facts = {"component": WORKER, "host": "app-2", "pid": 8, "version": "0.0.9", "skew": None}
    runtime.store.heartbeats.beat("another", facts, age=MINUTE)


def have_a_queue_that_stands(runtime: Runtime) -> None:
    in_queue("RPUSH", "low", "the first")(runtime)
    minutes_ago = to_ms(runtime.store.now() - 2 * MINUTE)
    command("HSET", "@firsts", "low", f"{minutes_ago}|the first")(runtime)


def have_a_run(runtime: Runtime, **fields: Any) -> None:
    """Has a run be under way, with these fields other than they were."""
    runtime.store.preferences.apply([Enable(UserId("ada"), DIGEST)])
    run = start_run(runtime, DIGEST)
    for name, value in fields.items():
        runtime.store.connection.call("HSET", runtime.store.keys("run", run.id), name, value)


def have_the_file_edited(runtime: Runtime) -> None:
    runtime.settings.tasks_file.write_text(TASKS.replace("retries: 0", "retries: 1"))


def have_the_file_broken(runtime: Runtime) -> None:
    runtime.settings.tasks_file.write_text(TASKS.replace("retries: 0", "retires: 0"))


LONG_AGO = 1_000_000_000_000
STATES: list[tuple[str, str, str, Change]] = [
    ("ticks", "problem", "there never was a tick", command("DEL", "@heartbeat")),
    ("ticks", "problem", "2001-09-09", command("HSET", "@heartbeat", "tick", LONG_AGO)),
    ("clocks", "problem", "s ahead", have_a_worker_with_a_wrong_clock),
    ("versions", "warning", "0.0.9 (1 process)", have_a_worker_of_another_version),
    ("queues", "warning", "nothing was taken from low for 2m", have_a_queue_that_stands),
    ("dead_letters", "warning", "normal 1", in_queue("ZADD", "normal.XQ", 1, "some message")),
    ("agenda", "problem", "1 of 1 entry overdue", command("ZADD", "@agenda", LONG_AGO, "d|some~run")),
    ("deadlines", "problem", "past its deadline", lambda of: have_a_run(of, deadline_at=LONG_AGO)),
    ("unaccounted", "problem", ": 3 of 3", lambda of: have_a_run(of, expected=3)),
    ("limits", "warning", "all tasks: paused", lambda of: of.store.orders.pause(EVERY_TASK)),
    ("tasks_file", "warning", "newer than those in force", have_the_file_edited),
    ("tasks_file", "problem", "did you mean retries?", have_the_file_broken),
]


@pytest.mark.parametrize(
    ("check", "status", "told", "change"), STATES, ids=[f"{state[0]}: {state[2]}" for state in STATES]
)
def test_what_is_wrong_with_the_system_is_told(
    tq: Tq, well: Runtime, check: str, status: str, told: str, change: Change
) -> None:
    change(well)

    answer = tq("doctor", "--json")

    assert not_well(answer.document) == {check: status}
    assert told in found_by(answer.document, check)["found"]
    assert answer.code == (1 if status == "problem" else 0)


def test_a_worker_that_fell_silent_is_told_and_does_not_count(tq: Tq, well: Runtime) -> None:
    [worker, _] = well.store.connection.call("ZRANGE", well.store.keys("beats"), 0, -1)
    for process in (worker, _):
        if process.startswith(WORKER):
            well.store.connection.call(
                "ZINCRBY", well.store.keys("beats"), -MINUTE.total_seconds() * 1000, process
            )

    document = tq("doctor", "--json").document

    assert not_well(document) == {"workers": "problem", "silent_workers": "warning"}
    assert "1m ago" in found_by(document, "silent_workers")["found"]


def test_what_was_mended_is_told_and_is_no_trouble(tq: Tq, well: Runtime) -> None:
    command("HSET", "@mended", "messages", 3)(well)

    document = tq("doctor", "--json").document

    assert not_well(document) == {}
    assert found_by(document, "mended")["found"] == "since the beginning: 3 jobs that had lost their message"
