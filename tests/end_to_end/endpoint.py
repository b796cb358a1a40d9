"""An HTTP endpoint that remembers every call, and can be told to hold calls back or to answer otherwise."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Seen:
    """A call that has arrived."""

    path: str
    key: str
    user: str
    attempt: str
    authorization: str
    body: bytes
    traceparent: str = ""


class Endpoint:
    """Serves on loopback for as long as it is entered."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], int] = lambda _seen: 200
        self.says: Callable[[Seen], bytes] = lambda _seen: b""
        self._free = threading.Event()
        self._free.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                call = Seen(
                    path=self.path,
                    key=self.headers.get("Idempotency-Key", ""),
                    user=self.headers.get("X-User-ID", ""),
                    attempt=self.headers.get("X-Attempt", ""),
                    authorization=self.headers.get("Authorization", ""),
                    body=self.rfile.read(length),
                    traceparent=self.headers.get("traceparent", ""),
                )
                endpoint.seen.append(call)
                endpoint._free.wait(timeout=60)
                body = endpoint.says(call)
                self.send_response(endpoint.answer(call))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815 - the names are http.server's

            def log_message(self, format: str, *_args: object) -> None:  # noqa: A002 - likewise
                """Keeps quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def hold(self) -> None:
        """Lets no call end."""
        self._free.clear()

    def let_go(self) -> None:
        """Lets all calls end."""
        self._free.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._server.shutdown()
        self._server.server_close()
