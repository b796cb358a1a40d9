"""`tq web` as a real process: it tells of Redis coming and going, and ends when it is asked to."""

import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.commands import BIN, Commands
from tests.ports import free_port
from tests.waiting import eventually
from tq.redis_server import RedisServer

TOKEN = "tok-planted-for-the-web-4711"


@pytest.fixture
def commands(tmp_path: Path, own_redis: RedisServer) -> Commands:
    """The commands, for nothing declared; what is started is stopped by the test."""
    return Commands(tmp_path, own_redis.url, "tasks: []", {"TQ_API_PORT": str(free_port())})


def url_of(commands: Commands) -> str:
    return f"http://127.0.0.1:{commands.environment['TQ_API_PORT']}"


def status_of(commands: Commands, path: str) -> int:
    """What the web process answers; 0 if it does not."""
    try:
        return httpx.get(url_of(commands) + path, trust_env=False, timeout=20).status_code
    except httpx.HTTPError:
        return 0


def test_redis_goes_and_comes_back_and_the_web_process_lives_and_tells(
    commands: Commands, own_redis: RedisServer
) -> None:
    process = commands.start("web", [str(BIN / "tq"), "web"], {"TQ_API_TOKEN": TOKEN})
    try:
        eventually(lambda: status_of(commands, "/readyz") == 200)
        own_redis.stop()
        eventually(lambda: status_of(commands, "/readyz") == 503)
        alive, unhealthy = status_of(commands, "/livez"), status_of(commands, "/health")
        own_redis.start()
        eventually(lambda: status_of(commands, "/readyz") == 200)
        stats = status_of(commands, f"/stats?access={TOKEN}")

        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    finally:
        commands.stop()

    assert (alive, unhealthy, stats, code) == (200, 503, 401, 0)
    assert "Traceback" not in commands.log_text()
    assert TOKEN not in commands.log_text()
    assert all(line.startswith("{") for line in commands.log_text().splitlines())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_and_ends_while_redis_is_away_or_hangs(commands: Commands, how: signal.Signals) -> None:
    web = [str(BIN / "tq"), "web"]
    silent = socket.create_server(("127.0.0.1", 0))  # it is connected to, and never answers
    place = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
    process = commands.start("web", web, {"TQ_REDIS_URL": place})
    try:
        eventually(lambda: status_of(commands, "/livez") == 200)
        waiting = status_of(commands, "/readyz")
        process.send_signal(how)
        code = process.wait(timeout=30)
    finally:
        silent.close()
        commands.stop()

    assert (waiting, code) == (503, 0)
    assert "Traceback" not in commands.log_text()


def test_a_port_that_is_taken_is_one_line_with_a_remedy(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        commands.environment["TQ_API_PORT"] = str(port)

        done = commands.run("web")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: TQ_API_PORT: port {port} of 127.0.0.1 is taken; end what listens there, or set another port\n"
    )


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (
            {"TQ_API_HOST": "0.0.0.0"},  # noqa: S104 - it does not get so far
            "error: TQ_API_TOKEN: is needed where TQ_API_HOST is '0.0.0.0', which others",
        ),
        ({"TQ_API_TOKEN": "short"}, "error: TQ_API_TOKEN: cannot be a token; write at least 16 letters"),
        (
            {"TQ_API_HOST": "192.0.2.1", "TQ_API_TOKEN": TOKEN},
            "error: TQ_API_HOST: '192.0.2.1' is not an address of this machine",
        ),
        ({"TQ_API_PORT": "70000"}, "error: TQ_API_PORT: Input should be less than or equal to 65535"),
    ],
)
def test_settings_that_cannot_be_used_end_it_before_it_serves(
    commands: Commands, environment: dict[str, str], told: str
) -> None:
    commands.environment.update(environment)

    done = commands.run("web")

    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert "short" not in done.stderr
