"""httpx over libcurl: what differs from httpx's own transport, and what must not."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from io import StringIO
from threading import Barrier, Event, Thread
from typing import Any

import httpx
import pytest
from loguru import logger

from tests.waiting import eventually
from tq.executors.addresses import Places, Until
from tq.executors.client import open_client
from tq.executors.curl import CurlTransport
from tq.executors.http import HttpExecutor
from tq.models import Outcome

from . import CERTIFICATE, EMPTY_200, LOOPBACK, Endpoint, Request, make_job, tls_context

SHORT = 0.2
SOON = 5.0
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """May call this machine."""
    transport = CurlTransport(Places(), allow_private=True, max_body=64 * 1024)
    with httpx.Client(transport=transport, timeout=SOON) as made:
        yield made


@pytest.fixture(params=["plain", "over TLS"])
def either(request: pytest.FixtureRequest) -> Endpoint:
    """An endpoint without TLS, whose callers carry the call out themselves, and one with TLS, where a loop does."""
    name = "endpoint" if request.param == "plain" else "secure_endpoint"
    made: Endpoint = request.getfixturevalue(name)
    return made


def over(resolve: Callable[[str], tuple[str, ...]], *, allow_private: bool = True) -> httpx.Client:
    return httpx.Client(
        transport=CurlTransport(Places(resolve=resolve), allow_private=allow_private), timeout=SOON
    )


# --- In time ---------------------------------------------------------------------------------------


def test_a_lookup_that_takes_too_long_is_left() -> None:
    over_at_last = Event()

    def resolve(_: str) -> tuple[str, ...]:
        over_at_last.wait()
        return (LOOPBACK,)

    with over(resolve) as client, pytest.raises(httpx.ConnectTimeout):
        client.get("http://api.example.com/", timeout=Until(SHORT))
    over_at_last.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a full queue swallow connections")
def test_a_connection_that_takes_too_long_is_given_up(client: httpx.Client) -> None:
    with socket.socket() as swallower, ExitStack() as waiting:
        swallower.bind((LOOPBACK, 0))
        swallower.listen(0)
        for _ in range(4):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(swallower.getsockname())

        with pytest.raises(httpx.ConnectTimeout):
            client.get(f"http://{LOOPBACK}:{swallower.getsockname()[1]}/", timeout=Until(SHORT))


def test_a_tls_handshake_that_takes_too_long_is_given_up(client: httpx.Client, endpoint: Endpoint) -> None:
    endpoint.instead = b""

    with pytest.raises(httpx.ConnectTimeout):
        client.get(f"https://{LOOPBACK}:{endpoint.port}/", timeout=Until(SHORT))


def test_a_request_that_nobody_reads_is_given_up(client: httpx.Client, endpoint: Endpoint) -> None:
    endpoint.instead = b""

    with pytest.raises(httpx.WriteTimeout):
        client.post(endpoint.url, content=b"x" * 20_000_000, timeout=Until(SHORT))


def test_an_answer_that_does_not_come_is_given_up(client: httpx.Client, either: Endpoint) -> None:
    either.drips(b"", b"")

    with pytest.raises(httpx.ReadTimeout):
        client.post(either.url, timeout=Until(SHORT))


def test_a_body_that_drips_is_given_up_while_it_is_read(client: httpx.Client, either: Endpoint) -> None:
    either.drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x")

    with client.stream("GET", either.url, timeout=Until(SHORT)) as response:
        status = response.status_code
        with pytest.raises(httpx.ReadTimeout):
            response.read()

    assert status == 200


def test_nothing_is_begun_when_the_time_is_over(client: httpx.Client, endpoint: Endpoint) -> None:
    client.get(endpoint.url)

    with pytest.raises(httpx.ConnectTimeout):
        client.get(endpoint.url, timeout=Until(0))

    assert len(endpoint.requests) == 1


def test_without_a_limit_a_call_waits_as_long_as_it_takes(client: httpx.Client, endpoint: Endpoint) -> None:
    client.get(endpoint.url, timeout=Until(SHORT))
    asked, may_answer = Event(), Event()

    def answer(_: Request) -> Iterable[bytes]:
        asked.set()
        may_answer.wait()
        return [EMPTY_200]

    endpoint.answer = answer
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.get, endpoint.url, timeout=None)
        asked.wait()
        time.sleep(2 * SHORT)  # nothing shows that time passes, and the limit of the call before is to pass
        may_answer.set()

        assert call.result().status_code == 200


# --- What is sent and what comes back --------------------------------------------------------------


def test_the_head_alone_can_be_asked_for(client: httpx.Client, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: [HELLO[:-5] if request.method == "HEAD" else HELLO]

    answers = [client.request(method, endpoint.url) for method in ("POST", "HEAD", "POST", "HEAD", "GET")]

    assert [answer.content for answer in answers] == [b"hello", b"", b"hello", b"", b"hello"]
    assert [request.method for request in endpoint.requests] == ["POST", "HEAD", "POST", "HEAD", "GET"]
    assert endpoint.connections == 1


def test_what_is_sent_is_what_httpx_was_given(client: httpx.Client, either: Endpoint) -> None:
    own = {"Host": "own.example.com", "X-Empty": "", "X-Own": "a: b"}

    client.put(f"{either.url}/a/b;c?d=%20e#f", content=b"\x00body", headers=own)

    (request,) = either.requests
    assert (request.method, request.target, request.body) == ("PUT", "/a/b;c?d=%20e", b"\x00body")
    assert request.headers.items() >= {"host": "own.example.com", "x-empty": "", "x-own": "a: b"}.items()
    assert request.headers["content-length"] == "5"
    assert not {"expect", "content-type"} & request.headers.keys()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_no_call_inherits_from_the_one_before_on_its_connection(
    client: httpx.Client, endpoint: Endpoint, method: str
) -> None:
    client.request(method, endpoint.url, content=b"long body of another user", headers={"X-User": "ada"})

    client.request(method, endpoint.url)

    second = endpoint.requests[1]
    assert (second.method, second.body) == (method, b"")
    assert "x-user" not in second.headers
    assert endpoint.connections == 1


def test_a_large_body_is_sent_without_waiting_to_be_asked_for_it(
    client: httpx.Client, endpoint: Endpoint
) -> None:
    client.post(endpoint.url, content=b"x" * 2_000_000, headers={"Expect": ""})
    client.post(endpoint.url, content=b"x" * 2_000_000)

    assert [len(request.body) for request in endpoint.requests] == [2_000_000] * 2
    assert "expect" not in endpoint.requests[1].headers


@pytest.mark.parametrize("value", ["a\r\nX-Forged: 1", "a\nX-Forged: 1", "a\x00b"])
def test_a_header_with_a_line_break_is_not_sent(client: httpx.Client, endpoint: Endpoint, value: str) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        client.get(endpoint.url, headers={"X-Own": value})

    assert endpoint.requests == []


def test_an_interim_answer_a_repeated_header_and_a_trailer_are_told_apart(
    client: httpx.Client, either: Endpoint
) -> None:
    either.answer = lambda _: [
        b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nX-Twice: a\r\nX-Twice: b\r\nX-Blank:\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
    ]

    response = client.get(either.url)

    assert (response.status_code, response.reason_phrase, response.content) == (200, "Fine", b"hello")
    assert response.http_version == "HTTP/1.1"
    assert response.headers.get_list("x-twice") == ["a", "b"]
    assert response.headers["x-blank"] == ""
    assert not {"x-hint", "x-trailer"} & response.headers.keys()


def test_an_answer_says_how_long_its_first_byte_took_and_not_how_long_its_body(
    client: httpx.Client, either: Endpoint
) -> None:
    def wait_before_and_within(_: Request) -> Iterable[bytes]:
        time.sleep(0.1)
        yield HELLO[:-1]
        time.sleep(1.0)
        yield HELLO[-1:]

    either.answer = wait_before_and_within
    with client.stream("GET", either.url) as response:
        response.read()
    took_s = response.elapsed.total_seconds()

    # The request may have been read before the caller noted that it was sent.
    assert 0.05 <= response.extensions["time_to_first_byte"] < took_s / 2


def test_a_body_ends_where_it_becomes_too_long(either: Endpoint) -> None:
    taken = 0

    def answer(_: Request) -> Iterable[bytes]:
        nonlocal taken
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
        for _megabyte in range(1000):
            yield b"x" * 1_000_000
            taken += 1

    either.answer = answer
    transport = CurlTransport(Places(), allow_private=True, max_body=1000)
    with httpx.Client(transport=transport) as client:
        long = client.get(either.url)
        either.answer = lambda _: [HELLO]
        next_one = client.get(either.url)

    assert long.content == b"x" * 1000
    assert next_one.content == b"hello"
    assert taken < 100


def test_an_answer_has_nothing_of_the_one_before(client: httpx.Client, either: Endpoint) -> None:
    either.answer = lambda _: [b"HTTP/1.1 500 Oops\r\nX-Ada: 1\r\nContent-Length: 9\r\n\r\nadas data"]
    client.get(either.url)
    either.answer = lambda _: [EMPTY_200]

    response = client.get(either.url)

    assert (response.status_code, response.content) == (200, b"")
    assert "x-ada" not in response.headers


def test_a_broken_answer_leaves_nothing_for_the_next_call(client: httpx.Client, either: Endpoint) -> None:
    def break_off(_: Request) -> Iterable[bytes]:
        yield b"HTTP/1.1 500 Oops\r\nX-Ada: 1\r\nContent-Length: 100\r\n\r\nadas data"
        raise ConnectionAbortedError

    either.answer = break_off
    with (
        client.stream("GET", either.url) as response,
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
    ):
        response.read()
    either.answer = lambda _: [HELLO]

    response = client.get(either.url)

    assert (response.status_code, response.content) == (200, b"hello")
    assert "x-ada" not in response.headers


def test_a_client_can_be_instrumented_as_others_are(client: httpx.Client, endpoint: Endpoint) -> None:
    # As opentelemetry's instrument_client does: it replaces the method of the client's own transport.
    transport: Any = client._transport
    carried_out = transport.handle_request
    seen = []

    def observed(request: httpx.Request) -> httpx.Response:
        request.headers["traceparent"] = "00-1-2-01"
        response: httpx.Response = carried_out(request)
        seen.append((request.method, response.status_code, response.extensions["http_version"]))
        return response

    transport.handle_request = observed
    client.post(endpoint.url)

    assert seen == [("POST", 200, b"HTTP/1.1")]
    assert endpoint.requests[0].headers["traceparent"] == "00-1-2-01"


# --- Connections -----------------------------------------------------------------------------------


def test_a_connection_is_used_again_by_whichever_thread_comes_next(
    client: httpx.Client, either: Endpoint
) -> None:
    for _ in range(5):
        thread = Thread(target=client.get, args=(either.url,))
        thread.start()
        thread.join()

    assert len(either.requests) == 5
    assert either.connections == 1


def test_each_of_two_hosts_keeps_its_connection(client: httpx.Client, endpoint: Endpoint) -> None:
    other = Endpoint()

    for _ in range(3):
        client.get(endpoint.url)
        client.get(other.url)

    assert (endpoint.connections, other.connections) == (1, 1)
    other.close()


def test_no_more_idle_connections_are_kept_than_allowed(endpoint: Endpoint) -> None:
    others = [Endpoint() for _ in range(3)]
    transport = CurlTransport(Places(), allow_private=True, max_idle=2)
    with httpx.Client(transport=transport) as client:
        for one in (endpoint, *others, endpoint):
            client.get(one.url)

    assert endpoint.connections == 2
    for one in others:
        one.close()


def test_a_connection_that_was_closed_while_idle_is_not_used(client: httpx.Client, either: Endpoint) -> None:
    closed = Event()

    def answer_and_close(_: Request) -> Iterable[bytes]:
        try:
            yield HELLO
            raise ConnectionAbortedError
        finally:
            closed.set()

    either.answer = answer_and_close
    client.post(either.url)
    closed.wait()
    # That its end has arrived here nothing shows; and over TLS libcurl looks for it once a second only.
    time.sleep(1.1 if either.url.startswith("https") else 0.1)
    either.answer = lambda _: [HELLO]

    response = client.post(either.url)

    assert response.content == b"hello"
    assert len(either.requests) == 2


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_request_that_may_have_been_received_is_not_sent_again(
    client: httpx.Client, either: Endpoint, method: str
) -> None:
    client.get(either.url)

    def take_it_and_go(_: Request) -> Iterable[bytes]:
        raise ConnectionAbortedError

    either.answer = take_it_and_go
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        client.request(method, either.url, content=b"x" if method == "POST" else None)

    assert len(either.requests) == 2


def test_hundreds_of_threads_call_at_once(client: httpx.Client, endpoint: Endpoint) -> None:
    together = Barrier(256)

    def answer(request: Request) -> Iterable[bytes]:
        together.wait()
        return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.body), request.body)]

    endpoint.answer = answer
    bodies = [b"%d" % number for number in range(256)]
    with ThreadPoolExecutor(256) as threads:
        # So many at once fill the queue of the endpoint, and the system tries some again after a second.
        calls = [threads.submit(client.post, endpoint.url, content=body, timeout=60) for body in bodies]
        answers = [call.result().content for call in calls]

    assert answers == bodies
    assert endpoint.connections == 256


def test_many_threads_call_at_once_over_tls(secure_endpoint: Endpoint) -> None:
    client = httpx.Client(transport=CurlTransport(Places(), allow_private=True, max_idle=32), timeout=SOON)
    together = Barrier(32)

    def answer(request: Request) -> Iterable[bytes]:
        together.wait()
        return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.body), request.body)]

    secure_endpoint.answer = answer
    bodies = [b"%d" % number for number in range(64)]
    with ThreadPoolExecutor(32) as threads:
        answers = list(
            threads.map(lambda body: client.post(secure_endpoint.url, content=body).content, bodies)
        )

    assert answers == bodies
    assert secure_endpoint.connections == 32
    client.close()


def test_calls_over_tls_end_when_the_client_is_closed(secure_endpoint: Endpoint) -> None:
    secure_endpoint.drips(b"", b"")
    client = httpx.Client(transport=CurlTransport(Places(), allow_private=True), timeout=60)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.get, secure_endpoint.url)
        eventually(lambda: bool(secure_endpoint.requests))

        client.close()

        with pytest.raises(httpx.RemoteProtocolError):
            call.result(SOON)


FORKING = """
import os, sys
from datetime import timedelta
from tests.executors import make_job
from tq.executors.http import HttpExecutor

executor = HttpExecutor(allow_private=True, environ={})
calls = lambda: executor.execute(make_job(sys.argv[1])).http_status == 200
assert calls()
child = os.fork()
if child == 0:
    # Ends as a worker does, with all that an interpreter closes at its end.
    sys.exit(0 if calls() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert calls()
"""


def test_a_fork_that_ends_does_not_say_goodbye_for_its_parent(either: Endpoint) -> None:
    ended = subprocess.run([sys.executable, "-c", FORKING, either.url], capture_output=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert len(either.requests) == 3
    assert either.connections == 2


# --- Where calls go --------------------------------------------------------------------------------


def test_a_name_is_called_where_places_found_it(endpoint: Endpoint) -> None:
    with over(lambda _: ("::1", LOOPBACK)) as client:
        response = client.get(f"http://api.example.com:{endpoint.port}/")

    assert response.status_code == 200
    assert endpoint.requests[0].headers["host"] == f"api.example.com:{endpoint.port}"


def test_an_address_is_judged_when_the_connection_is_made_whatever_was_found(endpoint: Endpoint) -> None:
    # libcurl reads this host as an address of its own accord and does not ask what was found for it.
    client = over(lambda _: ("93.184.215.14",), allow_private=False)

    with pytest.raises(httpx.ConnectError, match=r"its address 127\.0\.0\.1 is not public"):
        client.get(f"http://127.1:{endpoint.port}/")

    client.close()

    assert endpoint.connections == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_turns_private_is_not_called_again(endpoint: Endpoint, scheme: str) -> None:
    found = [("93.184.215.14",), (LOOPBACK,)]
    # Half a minute passes between any two looks, so that each call asks anew.
    hand = iter(range(0, 10_000, 30))
    places = Places(resolve=lambda _: found.pop(0), monotonic=lambda: float(next(hand)))
    client = httpx.Client(transport=CurlTransport(places))
    url = f"{scheme}://api.example.com:{endpoint.port}/"

    with pytest.raises(httpx.TransportError):
        client.get(url, timeout=Until(0.05))
    with pytest.raises(httpx.ConnectError, match="is not public"):
        client.get(url)

    assert endpoint.connections == 0
    client.close()


def test_one_that_is_neither_http_nor_https_is_not_called(client: httpx.Client) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        client.get("file:///etc/hostname")


# --- TLS -------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    endpoint = Endpoint(tls=True)
    executor = HttpExecutor(allow_private=True, environ={})

    result = executor.execute(make_job(endpoint.url))

    assert result.error is not None
    assert result.error.message.startswith(
        f"the certificate of {LOOPBACK}:{endpoint.port} is not trusted: self"
    )
    assert endpoint.requests == []
    executor.close()
    endpoint.close()


def test_a_certificate_is_trusted_if_the_environment_says_so(
    client: httpx.Client, secure_endpoint: Endpoint
) -> None:
    response = client.get(secure_endpoint.url)

    assert response.status_code == 200


def test_a_certificate_of_another_host_is_refused(secure_endpoint: Endpoint) -> None:
    with over(lambda _: (LOOPBACK,)) as client, pytest.raises(httpx.ConnectError, match=r"api\.example\.com"):
        client.get(f"https://api.example.com:{secure_endpoint.port}/")

    assert secure_endpoint.requests == []


def test_where_http_2_is_offered_calls_share_a_connection(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Http2Endpoint(answers_in_groups_of=1) as endpoint:
        first = client.post(endpoint.url, content=b"x")
        endpoint.group = 8
        with ThreadPoolExecutor(8) as threads:
            # None is answered before all have come, on the one connection that there is.
            rest = list(threads.map(lambda _: client.post(endpoint.url, content=b"x"), range(8)))

    assert {response.status_code for response in (first, *rest)} == {200}
    assert {response.http_version for response in (first, *rest)} == {"HTTP/2"}
    assert endpoint.connections == 1


class Http2Endpoint:
    """Speaks as much HTTP/2 as an empty answer of 200 needs."""

    SETTINGS, SETTINGS_ACK = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
    DATA, HEADERS, SETTINGS_FRAME, END_OF_STREAM, ACK = 0, 1, 4, 1, 1

    def __init__(self, *, answers_in_groups_of: int) -> None:
        self.group = answers_in_groups_of
        self.connections = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"https://{LOOPBACK}:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> "Http2Endpoint":
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self.connections += 1
                Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        context = tls_context("h2")
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
            incoming = connection.makefile("rb")
            incoming.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            connection.sendall(self.SETTINGS)
            ended: list[bytes] = []
            while frame := incoming.read(9):
                incoming.read(int.from_bytes(frame[:3], "big"))
                kind, flags, stream = frame[3], frame[4], frame[5:]
                if kind == self.SETTINGS_FRAME and not flags & self.ACK:
                    connection.sendall(self.SETTINGS_ACK)
                if kind in {self.DATA, self.HEADERS} and flags & self.END_OF_STREAM:
                    ended.append(stream)
                if len(ended) >= self.group:
                    # One byte of headers: the 8th entry of the table that both sides know, ":status: 200".
                    connection.sendall(b"".join(b"\0\0\1\1\5" + stream + b"\x88" for stream in ended))
                    ended.clear()


# --- Proxies ---------------------------------------------------------------------------------------


class Tunnel:
    """A proxy that connects through to wherever CONNECT says, or answers it with something else."""

    def __init__(
        self, *, answer: bytes = b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n"
    ) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"http://ada:secret-pw@{LOOPBACK}:{self._listener.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += caller.recv(1)
                self.asked.append(head.decode())
                caller.sendall(self.answer)
                if b" 200 " not in self.answer:
                    caller.close()
                    continue
                port = int(head.split(b" ")[1].rpartition(b":")[2])
                called = socket.create_connection((LOOPBACK, port))
                for one, other in ((caller, called), (called, caller)):
                    Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while chunk := one.recv(65536):
                other.sendall(chunk)
            other.shutdown(socket.SHUT_RDWR)


def test_a_call_over_tls_goes_through_the_proxy_that_the_environment_names(
    secure_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel()
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    client = open_client(Places(), allow_private=False, max_body=1000)

    response = client.get(secure_endpoint.url)

    assert response.status_code == 200
    assert "x-proxy" not in response.headers
    assert tunnel.asked[0].startswith(f"CONNECT {LOOPBACK}:{secure_endpoint.port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic YWRhOnNlY3JldC1wdw==" in tunnel.asked[0]
    assert "proxy-authorization" not in secure_endpoint.requests[0].headers
    client.close()
    tunnel.close()


def test_a_proxy_that_refuses_is_told_apart_from_an_endpoint_that_does(
    secure_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel(answer=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("ALL_PROXY", tunnel.url)
    client = open_client(Places(), allow_private=True, max_body=1000)

    with pytest.raises(httpx.ProxyError):
        client.get(secure_endpoint.url)

    client.close()
    tunnel.close()


@pytest.mark.parametrize("exempt", ["*", LOOPBACK, "example.com,127.0.0.1"])
def test_who_is_exempt_from_the_proxy_is_called_directly(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    # Nobody listens there, so that a call which took this way would fail.
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:9")
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:9")
    monkeypatch.setenv("NO_PROXY", exempt)
    client = open_client(Places(), allow_private=True, max_body=1000)

    response = client.get(endpoint.url)

    assert response.status_code == 200
    client.close()


# --- Without pycurl --------------------------------------------------------------------------------


def test_without_pycurl_httpx_carries_calls_out_and_the_remedy_is_logged_once(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = StringIO()
    sink = logger.add(log, format="{level} {message} {extra}")
    for name in ("tq.executors.curl", "tq.executors.curl_loop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pycurl", None)
    executor = HttpExecutor(allow_private=True, environ={})

    results = [executor.execute(make_job(endpoint.url)) for _ in range(2)]

    logger.remove(sink)
    assert {result.outcome for result in results} == {Outcome.SUCCESS}
    (line,) = log.getvalue().splitlines()
    assert line.startswith("WARNING calls go over httpx's own transport")
    assert "install pycurl" in line
    executor.close()
