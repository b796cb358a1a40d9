"""HTTP/1.1 on this machine's loopback, for endpoints that stand in for real ones.

Written on asyncio.Protocol, because one process has to answer thousands of calls a second while the
workers that make them share the machine. Bodies are passed over: all that counts is in the headers.
"""

import asyncio
import re
import socket
import threading
from abc import ABC, abstractmethod
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self, cast

import orjson

HOST = "127.0.0.1"
BACKLOG = 1024  # all of a worker's connections may be opened in the same instant
MAX_HEAD_BYTES = 32 * 1024
MAX_WAITING_BYTES = 64 * 1024  # of further requests on a connection whose last one is being answered


def listen(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    return socket.create_server((HOST, port), backlog=BACKLOG)


class Server(ABC):
    """Answers callers. As a context manager it runs in a thread of its own, on a free port.

    While it refuses callers then, the port stays its own.
    """

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self._accepting: asyncio.Server | None = None

    @abstractmethod
    def connect(self) -> "Connection":
        """What answers a new caller."""

    async def serve(self, listener: socket.socket, *, until: asyncio.Event) -> None:
        """Answers what comes to a listening socket until the event is set; then drops every connection."""
        await self.accept(listener)
        await self._answer(until)

    async def accept(self, listener: socket.socket) -> None:
        """Takes callers from a listening socket, from now on."""
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_server(self.connect, sock=listener, backlog=BACKLOG)

    def refuse(self) -> None:
        """Takes no callers any more, and drops those that there are."""
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
        for connection in self.connections:
            connection.drop()

    async def accept_again(self) -> None:
        """Takes callers at its own port, after it has refused them; nothing happens if it takes them already."""
        if self._accepting is None:
            listener = _bound_socket(self._port)
            listener.listen(BACKLOG)
            await self.accept(listener)

    def __enter__(self) -> Self:
        # Bound and never listening: while callers are refused, no other process is given the port.
        self._place = _bound_socket(0)
        self._port: int = self._place.getsockname()[1]
        self.url = f"http://{HOST}:{self._port}"
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self.accept_again())
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._answer_in_thread, name=type(self).__name__)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._place.close()

    def _answer_in_thread(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._answer(self._stop))

    async def _answer(self, until: asyncio.Event) -> None:
        await until.wait()
        self.refuse()
        await asyncio.sleep(0)  # asyncio tells a connection of its end in the next turn of the loop


def _bound_socket(port: int) -> socket.socket:
    """A socket at a port of loopback that others of this kind may be bound to as well."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


class Connection(asyncio.Protocol, ABC):
    """One caller. Its requests are taken one after the other, each when the one before it is answered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = RequestReader()
        self._taken: Request | None = None
        self._is_advancing = False
        self._is_writable = True

    @abstractmethod
    def take(self, request: "Request") -> None:
        """Sees to it that the request is answered, now or later, by one `answer`."""

    @abstractmethod
    def abandon(self) -> None:
        """Lets go of the request that was taken last: its caller has left before the answer."""

    def answer(self, status: int, body: object = None, *, retry_after: int | None = None) -> None:
        """Answers the request that was taken last; nothing happens if its caller has left."""
        request, self._taken = self._taken, None
        if request is not None:
            self._write(status, body, retry_after, keep_alive=request.keep_alive)
            self._advance()

    def drop(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a stream server's transports are such
        self._server.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._taken is not None:
            self._taken = None
            self.abandon()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._advance()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._advance()

    def _advance(self) -> None:
        if self._is_advancing:  # an answer given at once comes back here; a thousand would fill the stack
            return
        self._is_advancing = True
        while self._taken is None and self._is_writable and not self._transport.is_closing():
            request = self._reader.next_request()
            if request is None:
                break
            if isinstance(request, Refusal):
                self._write(request.status, {"error": request.reason}, None, keep_alive=False)
            else:
                self._taken = request
                self.take(request)
        self._is_advancing = False
        if self._reader.waiting_bytes > MAX_WAITING_BYTES:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self, status: int, body: object, retry_after: int | None, *, keep_alive: bool) -> None:
        content = orjson.dumps(body)
        lines = [
            f"HTTP/1.1 {status} {_PHRASES.get(status, '')}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        if retry_after is not None:
            lines.append(f"Retry-After: {retry_after}")
        if not keep_alive:
            lines.append("Connection: close")
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + content)
        if not keep_alive:
            self._transport.close()


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Request(NamedTuple):
    """A request whose body has arrived, and was passed over: all that counts is in the headers."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool


class Refusal(NamedTuple):
    """Why a stream of bytes is not, or no longer, a request; nothing after it can be understood."""

    status: int
    reason: str


class RequestReader:
    """Makes requests out of bytes as they come, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._missing = 0  # bytes of that request's body

    @property
    def waiting_bytes(self) -> int:
        """How much has come that was not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def next_request(self) -> Request | Refusal | None:
        """The next complete request, or None until more has come. After a refusal nothing follows."""
        if self._request is None:
            head = self._take_head()
            if not isinstance(head, str):
                return head
            parsed = _parse_head(head)
            if isinstance(parsed, Refusal):
                return parsed
            self._request, self._missing = parsed
        passed_over = min(self._missing, len(self._buffer))
        del self._buffer[:passed_over]
        self._missing -= passed_over
        if self._missing:
            return None
        request, self._request = self._request, None
        return request

    def _take_head(self) -> str | Refusal | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # some clients send one too many after a body
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        # Looked for before the head is complete: whoever ends lines with \n would wait forever.
        if _NO_HEAD.search(buffer, 0, end + 4 if end >= 0 else MAX_HEAD_BYTES):
            return Refusal(400, "a line break that is not \\r\\n, or a control character, in the head")
        if end >= 0:
            head = buffer[:end].decode("latin-1")
            del buffer[: end + 4]
            return head
        if len(buffer) >= MAX_HEAD_BYTES:
            return Refusal(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        return None


_NO_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


def _parse_head(head: str) -> tuple[Request, int] | Refusal:
    """The request and the length of its body."""
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[2].startswith("HTTP/"):
        return Refusal(400, "the first line is not METHOD /path HTTP/1.1")
    method, target, version = words
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if not target.startswith("/"):
        return Refusal(400, "the target does not begin with /")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            return Refusal(400, "a header is not Name: value")
        name, text = name.lower(), text.strip(" \t")
        if headers.setdefault(name, text) != text and name == "content-length":
            return Refusal(400, "two lengths that differ")
    if "transfer-encoding" in headers:
        return Refusal(411, "a body needs Content-Length; chunks are not read here")
    if method not in _METHODS:
        return Refusal(405, f"only {', '.join(sorted(_METHODS))} are answered here")
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        return Refusal(400, "Content-Length is not a number of bytes")
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return Request(method, target, headers, keep_alive), int(length)
