"""Redis as it may be found: restarted, locked or away; and what is said of it. More in test_bad_days.py."""

import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from loguru import logger

from tq.clock import SystemClock, to_ms
from tq.errors import StoreRefused, StoreUnavailable
from tq.models import Priority, RunId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.ledger import Retry

from . import (
    DIGEST,
    HOUR,
    UTC_NINE,
    distribute,
    due_entries,
    enable,
    end_of,
    frozen,
    jobs_sent,
    open_store,
    publish,
    running,
)

PASSWORD = "s3cr3t/of:mine"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that one test may break."""
    with RedisServer(tmp_path / "redis", persist=False, password=PASSWORD) as server:
        yield server


def place_of(server: RedisServer) -> str:
    """The address without what nobody may see."""
    return re.sub(r"//.*@", "//:***@", server.url)


def says(error: Exception, *parts: str) -> bool:
    """Whether the message is one line with these parts, and keeps the password to itself."""
    message = str(error)
    return "\n" not in message and "s3cr3t" not in message and all(part in message for part in parts)


# --- It goes on --------------------------------------------------------------------------------------


def test_scripts_that_redis_forgets_between_calls_are_sent_again(store: Store) -> None:
    def forget_scripts() -> None:
        store.connection.call("SCRIPT", "FLUSH")

    publish(store, 1, UTC_NINE)
    forget_scripts()
    publish(store, 2, UTC_NINE)
    forget_scripts()
    run_id = running(store, ["ada", "bob"])
    forget_scripts()
    assert store.planning.look().version == 2
    forget_scripts()
    assert distribute(store, run_id) == 2
    ada, bob = jobs_sent(store)
    forget_scripts()
    assert store.ledger.finish([end_of(ada), Retry(bob, HOUR, 1, Priority.NORMAL)]) == [True, True]
    forget_scripts()
    frozen(store).advance(HOUR)
    assert store.agenda.release_due() == 1
    forget_scripts()
    assert store.ledger.finish([end_of(jobs_sent(store)[-1])]) == [True]
    assert store.runs.get(run_id).counts.success == 2


def test_a_redis_that_was_restarted_between_calls_is_found_again(
    server: RedisServer, own_store: Store
) -> None:
    enable(own_store, ["ada"])

    server.restart()
    enable(own_store, ["bob"])

    assert list(own_store.preferences.members(DIGEST)) == ["bob"]


def test_without_a_clock_of_ones_own_it_is_redis_time_that_counts(redis_server: RedisServer) -> None:
    store = open_store(redis_server.url, clock=SystemClock())
    publish(store, 1, UTC_NINE)

    before = store.now()
    enable(store, ["ada"])
    store.planning.look()
    after = store.now()

    assert to_ms(before) < due_entries(store)[f"{DIGEST}|*|default"] <= to_ms(after) + 1
    ticked = store.heartbeats.last_tick()
    assert ticked is not None
    assert before <= ticked <= after
    store.close()


# --- It does not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", ["", ":wr0ng-s3cr3t@", "ada:wr0ng-s3cr3t@"])
def test_a_wrong_login_is_refused_with_the_setting_to_look_at(server: RedisServer, login: str) -> None:
    store = open_store(re.sub(r"//.*@", f"//{login}", server.url))

    with pytest.raises(StoreRefused) as caught:
        store.ping()

    assert says(caught.value, "refused the login", "TQ_REDIS_URL", server.url.rpartition("@")[2])
    store.close()


def test_a_redis_that_is_not_there_is_unavailable_with_address_and_remedy() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        store = open_store(f"redis://:s3cr3t@127.0.0.1:{port}/0")

        with pytest.raises(StoreUnavailable) as caught:
            store.ping()

    place = f"redis://:***@127.0.0.1:{port}/0"
    assert says(caught.value, f"{place} cannot be reached; start it, or set TQ_REDIS_URL")
    store.close()


def test_a_redis_that_goes_away_is_unavailable_to_commands_and_scripts(
    server: RedisServer, own_store: Store
) -> None:
    enable(own_store, ["ada"])
    server.kill()

    with pytest.raises(StoreUnavailable) as script:
        enable(own_store, ["bob"])
    with pytest.raises(StoreUnavailable) as command:
        own_store.preferences.cells(DIGEST)
    with pytest.raises(StoreUnavailable) as several:
        own_store.runs.get(RunId("email_digest~m1"))

    for caught in (script, command, several):
        assert says(caught.value, place_of(server), "cannot be reached")


def test_a_redis_that_does_not_answer_is_unavailable_in_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://:s3cr3t@127.0.0.1:{silent.getsockname()[1]}/0"
        store = open_store(url, patience=timedelta(milliseconds=50))

        with pytest.raises(StoreUnavailable) as caught:
            store.ping()

    assert says(caught.value, "did not answer in time; see whether it is overloaded or stopped")
    store.close()


# --- What is logged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug_redis", [False, True])
def test_commands_are_logged_by_name_and_without_arguments_when_asked_for(
    redis_server: RedisServer, debug_redis: bool
) -> None:
    store = open_store(redis_server.url, debug_redis=debug_redis)
    store.ping()
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message} {extra}", level="DEBUG")

    enable(store, ["ada"], parameters={"card": "4111"})
    store.connection.scripts([("signs", (1, "planted")), ("signs", (1, "planted"))])
    store.connection.calls([("HSET", store.keys("heartbeat"), "field", "planted"), ("TIME",)])
    store.connection.call("HGET", store.keys("heartbeat"), "field")

    logger.remove(sink)
    store.close()
    if not debug_redis:
        assert not lines
        return
    said = "".join(lines)
    assert all(line.startswith("redis command ") and "'duration_ms': " in line for line in lines)
    assert f"'command': 'EVALSHA', 'script': 'enrol', 'key': '{store.keys.prefix}'" in said
    assert "{'EVALSHA signs': 2}" in said
    assert "{'HSET': 1, 'TIME': 1}" in said
    assert f"'command': 'HGET', 'key': '{store.keys('heartbeat')}'" in said
    assert not any(word in said for word in ("ada", "4111", "planted"))
