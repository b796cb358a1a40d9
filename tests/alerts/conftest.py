"""A system that is well, two processes that watch it, and who is told."""

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from actors.transport import make_transport
from tests.alerts.receiver import Receiver
from tq.alerts import Watch
from tq.alerts.alert import LOOK_EVERY
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.heartbeats import SCHEDULER, WORKER, Presence
from tq.telemetry import configure_logs
from tq.testing.clock import FrozenClock

TASKS = """
tasks:
  - id: digest
    interval: {type: daily, timezone: user, at_time: "09:00"}
    config: {endpoint: "https://api.example.com/digest"}
"""


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that is set up well, and that a test may stop."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as serving:
        yield serving


@pytest.fixture
def heart() -> Iterator[Receiver]:
    """The dead man's switch."""
    with Receiver() as serving:
        yield serving


@pytest.fixture
def log(settings: Settings) -> Iterator[io.StringIO]:
    """What is logged."""
    stream = io.StringIO()
    configure_logs(settings, stream=stream)
    yield stream
    configure_logs(settings)


class System:
    """The system, and time: in each step whoever lives shows itself, and then both watches look."""

    def __init__(self, settings: Settings, clock: FrozenClock) -> None:
        self.settings = settings
        self.clock = clock
        self.runtime = Runtime(settings, make_transport(settings), clock=clock)
        self.presences = {
            component: Presence(self.runtime.store.heartbeats, component) for component in (WORKER, SCHEDULER)
        }
        self.ticks = True
        self.lives = True
        self.runtimes = [Runtime(settings, make_transport(settings), clock=clock) for _ in range(2)]
        self.watches = [Watch(runtime) for runtime in self.runtimes]

    def command(self, *words: object) -> None:
        """One Redis command; a text such as `@beats` in it is the key of that family."""
        keys = self.runtime.store.keys
        spelt = [keys(word[1:]) if isinstance(word, str) and word.startswith("@") else word for word in words]
        self.runtime.store.connection.call(*spelt)  # type: ignore[arg-type] # the words are a command's

    def show(self) -> None:
        """What happens in a system that is well."""
        if self.lives:
            for presence in self.presences.values():
                presence.show()
        if self.ticks:
            self.runtime.definitions.publish(self.runtime.store.planning.look())

    def look(self, times: int = 1, *, every: timedelta = LOOK_EVERY, who: tuple[int, ...] = (0, 1)) -> None:
        """Lets time pass, and these watches look."""
        for _ in range(times):
            self.clock.advance(every)
            self.show()
            for number in who:
                self.watches[number].look()

    def close(self) -> None:
        for runtime in (self.runtime, *self.runtimes):
            runtime.close()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "tasks.yaml").write_text(TASKS)
    return settings.model_copy(update={"broker": "redis", "tasks_file": tmp_path / "tasks.yaml"})


@pytest.fixture
def make_system(settings: Settings, clock: FrozenClock) -> Iterator[Callable[..., System]]:
    """Opens a system with these settings."""
    opened: list[System] = []

    def make(**changes: object) -> System:
        secrets = {
            name: SecretStr(value) if isinstance(value, str) and name != "alert_level" else value
            for name, value in changes.items()
        }
        opened.append(System(settings.model_copy(update=secrets), clock))
        return opened[-1]

    yield make
    for system in opened:
        system.close()


@pytest.fixture
def system(make_system: Callable[..., System], receiver: Receiver) -> System:
    """A system whose warnings, too, are posted."""
    return make_system(alert_webhook=receiver.url, alert_level="warning")
