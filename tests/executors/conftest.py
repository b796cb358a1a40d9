"""A real endpoint, and executors that may call it."""

from collections.abc import Iterator

import pytest

from tq import redaction
from tq.executors.http import HttpExecutor

from . import Endpoint

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the proxies of whoever runs the tests out of them."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what one test registered as secret from being masked in another."""
    monkeypatch.setattr(redaction, "_secrets", redaction._Secrets())


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def executor() -> Iterator[HttpExecutor]:
    """May call this machine, and knows no variables."""
    made = HttpExecutor(allow_private=True, environ={})
    yield made
    made.close()
