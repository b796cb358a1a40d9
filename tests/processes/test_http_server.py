"""The HTTP server of stand-in endpoints: what it takes for a request, and how it treats its callers."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.http_server import Connection, Refusal, Request, RequestReader, Server

POST = (
    b"POST /digest?page=2 HTTP/1.1\r\nHost: here\r\nContent-Length: 7\r\nX-User-ID:  ada \r\n\r\n\r\n{} \r\n"
)
GET = b"GET /sync HTTP/1.1\r\nHost: here\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
OLD = b"GET /old HTTP/1.0\r\n\r\n"
FAR_MORE_THAN_SOCKETS_HOLD = 50_000_000

MALFORMED = {
    b"hello\r\n\r\n": 400,
    b"hello\n": 400,
    b"\x16\x03\x01\x02\x00": 400,  # how TLS begins
    b"GET / HTTP/1.1 \r\n\r\n": 400,
    b"G@T / HTTP/1.1\r\n\r\n": 400,
    b"GET there HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nName : value\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n folded: line\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nContent-Length: 9" + b"0" * 30 + b"\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab": 400,
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 411,
    b"TRACE / HTTP/1.1\r\n\r\n": 405,
    b"GET / HTTP/2.0\r\n\r\n": 505,
    b"GET / HTTP/1.1\r\nA: " + b"x" * 40_000: 431,
    b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n": 431,
}


class Mirror(Server):
    """Answers at once with what was asked for."""

    def connect(self) -> Connection:
        return MirrorConnection(self)


class MirrorConnection(Connection):
    def take(self, request: Request) -> None:
        self.answer(200, request.target)

    def abandon(self) -> None:
        raise AssertionError("all is answered at once")


def read_all(*pieces: bytes) -> list[Request | Refusal]:
    """What a reader makes of a stream that comes in these pieces, up to the first refusal."""
    reader, found = RequestReader(), list[Request | Refusal]()
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next_request()) is not None:
            found.append(request)
            if isinstance(request, Refusal):
                return found
    return found


def send(server: Mirror, stream: bytes) -> bytes:
    """Everything that is answered to the stream until the server closes the connection."""
    with connection_to(server) as connection:
        connection.sendall(stream)
        return connection.makefile("rb").read()


def connection_to(server: Mirror) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 0), timeout=20)


@pytest.fixture
def server() -> Iterator[Mirror]:
    with Mirror() as server:
        yield server


def test_a_request_is_its_line_and_its_headers_and_the_body_is_passed_over() -> None:
    requests = read_all(b"\r\n" + POST + GET + OLD)

    assert requests == [
        Request(
            "POST",
            "/digest?page=2",
            {"host": "here", "content-length": "7", "x-user-id": "ada"},
            keep_alive=True,
        ),
        Request("GET", "/sync", {"host": "here"}, keep_alive=True),
        Request("GET", "/old", {}, keep_alive=False),
    ]


@given(
    stream=st.lists(st.sampled_from([POST, GET, LAST, OLD, b"\r\n", *MALFORMED]), max_size=4).map(b"".join),
    cuts=st.lists(st.integers(0, 50_000), max_size=20),
)
def test_however_a_stream_is_cut_it_is_understood_in_the_same_way(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})

    in_pieces = read_all(*(stream[begin:end] for begin, end in pairwise(edges)))

    assert in_pieces == read_all(stream)


@given(stream=st.lists(st.sampled_from([POST, GET, OLD, b"\r\n", b"hello\n"]), max_size=4).map(b"".join))
def test_a_stream_that_comes_byte_by_byte_is_understood_in_the_same_way(stream: bytes) -> None:
    in_bytes = read_all(*(stream[at : at + 1] for at in range(len(stream))))

    assert in_bytes == read_all(stream)


@pytest.mark.parametrize(("stream", "status"), MALFORMED.items(), ids=lambda value: repr(value)[:40])
def test_what_is_no_request_is_refused_and_the_next_caller_is_served(
    server: Mirror, stream: bytes, status: int
) -> None:
    answer = send(server, stream)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in answer
    assert send(server, LAST).startswith(b"HTTP/1.1 200 ")


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_or_waited_on_but_never_an_error(noise: bytes) -> None:
    read = read_all(noise)

    assert all(isinstance(one, Request | Refusal) for one in read)


def test_requests_sent_together_are_answered_in_their_order_on_one_connection(server: Mirror) -> None:
    answers = send(server, POST + GET + POST + LAST)

    assert re.findall(rb'"(/\w+)', answers) == [b"/digest", b"/sync", b"/digest", b"/last"]
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 4


def test_nothing_after_the_last_request_of_a_connection_is_answered(server: Mirror) -> None:
    answers = send(server, LAST + GET + GET)

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 1


def test_a_caller_that_does_not_read_is_not_read_either(server: Mirror) -> None:
    requests = GET * 1000
    sent = 0

    with connection_to(server) as connection, suppress(TimeoutError):
        connection.settimeout(0.2)
        while sent < FAR_MORE_THAN_SOCKETS_HOLD:
            connection.sendall(requests)
            sent += len(requests)

    assert 0 < sent < FAR_MORE_THAN_SOCKETS_HOLD
