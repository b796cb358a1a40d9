"""The little server in a worker or scheduler process that answers what is asked for debugging.

It listens on loopback only, and only GET is answered. Each question has a thread of its own, so that
a profile holds up no look at the threads.
"""

import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

from tq.debugging.answers import Answer, answer, error, refused

HOST = "127.0.0.1"
SILENCE_S = 10.0  # so long a caller may take for its question


class DebugServer:
    """Listens from when it is made until it is closed; port 0 takes a free one.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._server = _Server((HOST, port), _Handler)
        self.port: int = self._server.server_address[1]
        # A daemon, as are the threads of its answers: nobody waits for a profile to end.
        self._thread = threading.Thread(target=self._server.serve_forever, name="debug-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it; a profile that is being made is not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # http.server's own asks the name servers for this machine's name, which can take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, _request: Any, _client: Any) -> None:
        # The caller has left, or the answer has failed, which is then in no one's way.
        logger.opt(exception=True).debug("question for debugging not answered")


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_S
    server_version, sys_version = "tq-debug", ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._send(refused(self.headers.get, client=self.client_address[0]) or answer(url.path, url.query))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Tells what http.server itself finds wrong; that it knows no method but GET is one of these."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._send(
                error(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "only GET is answered here")
            )
        else:
            phrase = HTTPStatus(code).phrase
            self._send(error(code, "bad_request", message or explain or phrase))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is http.server's
        """Nothing: what was asked is nobody's news."""

    def _send(self, told: Answer) -> None:
        self.send_response(told.status)
        if told.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.send_header("Content-Type", told.content_type)
        self.send_header("Content-Length", str(len(told.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(told.body)
