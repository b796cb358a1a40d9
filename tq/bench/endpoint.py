"""The endpoint that benches call: one process, one thread, one epoll loop.

It has to answer more calls than workers on the same machine can make, so it does as little as can be done:
it finds where a request ends, notes its path and the instant of its arrival, and sends the same few bytes
to everybody, at once or after a fixed delay. A caller that does nothing else gets 60,000 to 90,000 answers
a second from it, at 8 us of CPU each (`python -m tests.bench.endpoint_load`); one at a time, as calls
come in from workers that need the CPU themselves, each costs it up to 45 us. Benches tell the share of one CPU
that it has used: if that is near 1, it was the bottleneck.

GET /_calls gives what has arrived since the last time that it was asked for.
"""

import argparse
import contextlib
import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

HOST = "127.0.0.1"
BACKLOG = 4096  # all of a worker's connections may be opened in the same instant
RECEIVED_AT_ONCE = 64 * 1024
END_OF_HEAD = b"\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
CALLS = b"/_calls"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Call(NamedTuple):
    """A request that has arrived: its path, and when, in seconds of the machine's monotonic clock."""

    path: str
    arrived_at: float


class Endpoint:
    """Answers callers at a listening socket."""

    def __init__(self, listener: socket.socket, *, delay_s: float) -> None:
        self._listener = listener
        self._delay_s = delay_s
        self._epoll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._unfinished: dict[int, bytes] = {}
        # The delay is the same for all, so answers fall due in the order in which they were asked for.
        self._due: deque[tuple[float, socket.socket]] = deque()
        self._calls: list[tuple[bytes, float]] = []

    def serve(self) -> None:
        """Answers until the process ends."""
        self._listener.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        listening = self._listener.fileno()
        while True:
            for fd, _ in self._epoll.poll(self._until_next_answer_s()):
                if fd == listening:
                    self._accept()
                else:
                    self._receive(fd)
            while self._due and self._due[0][0] <= time.monotonic():
                _send(self._due.popleft()[1], ANSWER)

    def _until_next_answer_s(self) -> float | None:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[connection.fileno()] = connection
                self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        connection = self._connections[fd]
        try:
            received = connection.recv(RECEIVED_AT_ONCE)
        except ConnectionError:
            received = b""
        if not received:
            self._connections.pop(fd).close()
            self._unfinished.pop(fd, None)
            return
        now = time.monotonic()
        data = self._unfinished.pop(fd, b"") + received
        begin = 0
        # A caller may send its next request before the last one is answered.
        while (end := _end_of_request(data, begin)) is not None:
            path = data[begin:end].split(b" ", 2)[1]
            if path == CALLS:
                self._tell_calls(connection)
            else:
                self._calls.append((path, now))
                if self._delay_s:
                    self._due.append((now + self._delay_s, connection))
                else:
                    _send(connection, ANSWER)
            begin = end
        if begin < len(data):
            self._unfinished[fd] = data[begin:]

    def _tell_calls(self, connection: socket.socket) -> None:
        told = orjson.dumps([(path.decode(), at) for path, at in self._calls])
        self._calls = []
        connection.setblocking(True)
        _send(connection, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))
        connection.setblocking(False)


def _end_of_request(data: bytes, begin: int) -> int | None:
    """Where the request ends that begins there; None if it has not arrived whole."""
    end_of_head = data.find(END_OF_HEAD, begin)
    if end_of_head < 0:
        return None
    length = _LENGTH.search(data, begin, end_of_head)
    end = end_of_head + len(END_OF_HEAD) + (int(length[1]) if length else 0)
    return end if end <= len(data) else None


def _send(connection: socket.socket, answer: bytes) -> None:
    # A caller that has left needs no answer. An answer fits into a socket's buffer, unless it is the calls.
    with contextlib.suppress(OSError):
        connection.sendall(answer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves on a free port of loopback, which is written to a file."""
    parser = argparse.ArgumentParser(prog="python -m tq.bench.endpoint", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="after which each call is answered")
    parser.add_argument("--announce", type=Path, required=True, help="the file that gets the port")
    options = parser.parse_args(arguments)
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        written = options.announce.with_suffix(".part")
        written.write_text(str(listener.getsockname()[1]))
        written.rename(options.announce)  # whoever waits for the file finds it whole
        Endpoint(listener, delay_s=options.delay_ms / 1000).serve()


if __name__ == "__main__":
    main()
