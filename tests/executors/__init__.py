"""The outgoing calls, against a real endpoint on this machine, and what the tests of them share."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tq.models import Interval, Job, JobId, RunId, RunKind, TaskConfig, TaskType, UserId

LOOPBACK = "127.0.0.1"
CERTIFICATE = Path(__file__).with_name("loopback.pem")  # of 127.0.0.1, signed by itself, with its key
EMPTY_200 = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def make_job(
    endpoint: str = "https://api.example.com/digest",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    timeout: timedelta = timedelta(seconds=10),
    max_duration: timedelta | None = None,
    user_id: str = "ada",
    attempt: int = 1,
    parameters: Mapping[str, Any] | None = None,
) -> Job:
    config = {
        "endpoint": endpoint,
        "method": method,
        "headers": dict(headers or {}),
        "max_duration": max_duration,
    }
    task = TaskType(
        id="email_digest",
        interval=Interval.daily(at="09:00"),
        timeout=timeout,
        config=TaskConfig.model_validate(config),
    )
    return Job(
        id=JobId("job_0123456789abcdef"),
        task=task,
        user_id=UserId(user_id),
        run_id=RunId("email_digest~20260301T090000Z"),
        scheduled_at=datetime(2026, 3, 1, 9, tzinfo=UTC),
        execute_after=datetime(2026, 3, 1, 9, 10, tzinfo=UTC),
        deadline_at=datetime(2026, 3, 2, 9, tzinfo=UTC),
        trigger=RunKind.SCHEDULE,
        parameters=dict(parameters or {}),
        attempt=attempt,
    )


@dataclass(frozen=True)
class Request:
    """What an endpoint was sent, byte for byte."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Endpoint:
    """A server on a free port that writes whatever a test wants, as slowly as it wants."""

    def __init__(self, *, tls: bool = False) -> None:
        self._tls = tls_context() if tls else None
        self.requests: list[Request] = []
        self.connections = 0
        self.instead: bytes | None = None  # what is written in place of speaking HTTP
        self.answer: Callable[[Request], Iterable[bytes]] = lambda _: [EMPTY_200]
        self._over = Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if tls else 'http'}://{LOOPBACK}:{self.port}"
        Thread(target=self._accept, daemon=True).start()

    def answers(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """From now on, answer every request with this."""
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        raw = "\r\n".join([*lines, "", ""]).encode() + body
        self.answer = lambda _: [raw]

    def drips(self, start: bytes, drop: bytes) -> None:
        """From now on, answer with `start`, and then with one `drop` after another, without end."""

        def answer(_: Request) -> Iterable[bytes]:
            yield start
            while not self._over.wait(0.02):
                yield drop

        self.answer = answer

    def close(self) -> None:
        self._over.set()
        # Closing alone would leave the thread waiting for a connection; not every system allows this.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # The caller going away in mid-answer is what some tests are about.
        with connection, contextlib.suppress(OSError), self._secured(connection) as secured:
            self._talk(secured)

    def _secured(self, connection: socket.socket) -> socket.socket:
        return connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)

    def _talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as incoming:
            if self.instead is not None:
                connection.sendall(self.instead)
                self._over.wait()
            while (line := incoming.readline()) and not self._over.is_set():
                method, target, _ = line.decode().split(" ", 2)
                headers = {}
                while (header := incoming.readline().decode("latin-1").strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = incoming.read(int(headers.get("content-length", 0)))
                request = Request(method, target, headers, body)
                self.requests.append(request)
                for part in self.answer(request):
                    connection.sendall(part)


def tls_context(*protocols: str) -> ssl.SSLContext:
    """What a server on this machine needs for TLS, and which protocols it offers over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.set_alpn_protocols(protocols or ["http/1.1"])
    return context
