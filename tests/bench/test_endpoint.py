"""The endpoint of benches: it answers whatever comes, and knows when it came."""

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tq.bench.endpoint import ANSWER
from tq.bench.workbench import RunningEndpoint, started_endpoint

REQUEST = b"POST /%b HTTP/1.1\r\nHost: bench\r\nCONTENT-LENGTH: 4\r\n\r\nbody"
DELAY = timedelta(milliseconds=150)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[RunningEndpoint]:
    """One that answers at once."""
    with started_endpoint(tmp_path, delay=timedelta(0)) as running:
        yield running


def connected(endpoint: RunningEndpoint) -> socket.socket:
    """A connection to it, on which nothing waits for ever."""
    host, port = endpoint.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def received(connection: socket.socket, size: int) -> bytes:
    """So many bytes of what comes."""
    found = b""
    while len(found) < size:
        found += connection.recv(size - len(found))
    return found


def test_requests_are_answered_one_after_the_other_on_one_connection(endpoint: RunningEndpoint) -> None:
    with connected(endpoint) as connection:
        for path in (b"a", b"b"):
            connection.sendall(REQUEST % path)
            assert received(connection, len(ANSWER)) == ANSWER

    assert [call.path for call in endpoint.take_calls()] == ["/a", "/b"]


def test_requests_that_are_sent_before_an_answer_are_each_answered(endpoint: RunningEndpoint) -> None:
    with connected(endpoint) as connection:
        connection.sendall(REQUEST % b"a" + REQUEST % b"b" + REQUEST % b"c")
        assert received(connection, 3 * len(ANSWER)) == 3 * ANSWER

    assert len(endpoint.take_calls()) == 3


def test_a_request_that_comes_in_pieces_is_one_call(endpoint: RunningEndpoint) -> None:
    with connected(endpoint) as connection:
        for letter in REQUEST % b"a":
            connection.sendall(bytes([letter]))
        assert received(connection, len(ANSWER)) == ANSWER

    assert [call.path for call in endpoint.take_calls()] == ["/a"]


def test_a_call_is_told_once_with_the_instant_of_its_arrival(endpoint: RunningEndpoint) -> None:
    with connected(endpoint) as connection:
        before = time.monotonic()
        connection.sendall(REQUEST % b"ada")
        received(connection, len(ANSWER))
        after = time.monotonic()

    [call] = endpoint.take_calls()
    assert before <= call.arrived_at <= after
    assert endpoint.take_calls() == []


def test_who_leaves_in_the_middle_of_a_request_disturbs_nobody(endpoint: RunningEndpoint) -> None:
    with connected(endpoint) as connection:
        connection.sendall((REQUEST % b"a")[:-2])

    with connected(endpoint) as connection:
        connection.sendall(REQUEST % b"b")
        assert received(connection, len(ANSWER)) == ANSWER
    assert [call.path for call in endpoint.take_calls()] == ["/b"]


def test_each_call_is_answered_after_the_delay_however_many_there_are(tmp_path: Path) -> None:
    with started_endpoint(tmp_path, delay=DELAY) as endpoint:
        callers = [connected(endpoint) for _ in range(20)]
        before = time.monotonic()
        for connection in callers:
            connection.sendall(REQUEST % b"a")
        for connection in callers:
            assert received(connection, len(ANSWER)) == ANSWER
        took_s = time.monotonic() - before
        for connection in callers:
            connection.close()

    assert took_s >= DELAY.total_seconds()
    assert took_s < 10 * DELAY.total_seconds()  # one after the other it would be twenty times
