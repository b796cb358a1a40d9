"""An app in a namespace of its own, and somebody who asks it."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from actors.transport import make_transport
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.heartbeats import SCHEDULER, WORKER, Presence
from tq.web import make_app

TOKEN = "tok-planted-for-the-web-4711"
TASKS = """
tasks:
  - {id: email_digest, interval: {type: daily}, rate_limit: 20, config: {endpoint: "https://api.example.com/digest"}}
  - {id: hourly_sync, interval: {type: hourly}, config: {endpoint: "https://api.example.com/sync"}}
"""


class Caller:
    """Asks an app in this process, as over HTTP; what it starts and ends with is done only in `living`."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()

    def ask(self, method: str, path: str, host: str = "127.0.0.1:8080", **headers: str) -> httpx.Response:
        """The answer to one request."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}

        async def asking() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.request(method, path, headers=given)

        return self._runner.run(asking())

    def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer to GET."""
        return self.ask("GET", path, **headers)

    def living(self, look: Callable[[], Any]) -> Any:
        """What is seen between the app's start and its end."""

        async def live() -> Any:
            async with self.app.router.lifespan_context(self.app):
                return await asyncio.to_thread(look)

        return self._runner.run(live())

    def close(self) -> None:
        """Asks no more."""
        self._runner.close()


Open = Callable[..., Caller]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """As `tq web` has them."""
    (tmp_path / "tasks.yaml").write_text(TASKS)
    return settings.model_copy(update={"broker": "redis"})


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A runtime of our own in the same namespace."""
    opened = Runtime(settings, make_transport(settings))
    yield opened
    opened.close()


@pytest.fixture
def opened(settings: Settings) -> Iterator[Open]:
    """Opens an app, with some settings other than they are."""
    opened: list[tuple[Caller, Runtime]] = []

    def open_app(**changes: object) -> Caller:
        runtime = Runtime(settings.model_copy(update=changes), make_transport(settings))
        caller = Caller(make_app(runtime))
        opened.append((caller, runtime))
        return caller

    yield open_app
    for caller, runtime in opened:
        caller.close()
        runtime.close()


@pytest.fixture
def web(opened: Open) -> Caller:
    """An app on loopback without a token."""
    return opened()


@pytest.fixture
def well(runtime: Runtime) -> Runtime:
    """A system in which everything is as it should be: it has ticked, and a worker and a scheduler live."""
    for component in (WORKER, SCHEDULER):
        Presence(runtime.store.heartbeats, component).show()
    runtime.definitions.publish(runtime.store.planning.look())
    return runtime
