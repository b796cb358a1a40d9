"""Who gets alerts: remembers every call, and answers as it is told to."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import orjson

SECRET_PATH = "/services/T000/planted-in-the-path-4711"


@dataclass(frozen=True)
class Call:
    """A call that has arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """Serves on loopback, at a port that stays its own, for as long as it is entered."""

    def __init__(self, port: int = 0) -> None:
        self.calls: list[Call] = []
        self.answer: Callable[[Call], tuple[int, dict[str, str]]] = lambda _call: (204, {})
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                call = Call(self.command, self.path, dict(self.headers), self.rfile.read(length))
                receiver.calls.append(call)
                status, headers = receiver.answer(call)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - the names are http.server's

            def log_message(self, format: str, *_args: object) -> None:  # noqa: A002 - likewise
                """Keeps quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{SECRET_PATH}"

    @property
    def told(self) -> list[tuple[str, str]]:
        """The check and the status of every message, in the order in which they came."""
        return [(call.document["check"], call.document["status"]) for call in self.calls]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
