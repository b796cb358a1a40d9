"""A small HTTP server on loopback, for whoever is called in a test."""

import threading
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Request:
    """What has arrived."""

    method: str
    path: str
    headers: "Message[str, str]"
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Serving:
    """Serves for as long as it is entered; who inherits says what is answered."""

    protocol = "HTTP/1.1"  # 1.0 ends each connection with its answer

    def __init__(self, port: int = 0) -> None:
        serving = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = serving.protocol

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                answer = serving.respond(Request(self.command, self.path, self.headers, body))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST  # noqa: N815 - the names are http.server's

            def log_message(self, format: str, *_args: object) -> None:  # noqa: A002 - likewise
                """Keeps quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def respond(self, request: Request) -> Answer:
        """What is answered; any thread may be asked."""
        raise NotImplementedError

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
