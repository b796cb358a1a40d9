"""A real endpoint, and executors that may call it."""

from collections.abc import Iterator

import pytest

from tq import redaction
from tq.executors.http import HttpExecutor

from . import CERTIFICATE, Endpoint

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the proxies of whoever runs the tests out of them."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps whom the surroundings trust out of the tests."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


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
def secure_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint over TLS, whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    server = Endpoint(tls=True)
    yield server
    server.close()


@pytest.fixture
def executor() -> Iterator[HttpExecutor]:
    """May call this machine, and knows no variables."""
    made = HttpExecutor(allow_private=True, environ={})
    yield made
    made.close()
