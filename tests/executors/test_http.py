"""The call: what is sent, what each answer means, and that it ends in time and tells no secret.

Every rule holds over libcurl and over httpx's own transport.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from io import StringIO
from threading import Event

import httpx
import orjson
import pytest
from loguru import logger

from tq.errors import ExecutorUnavailable
from tq.executors.addresses import Places
from tq.executors.http import MAX_BODY, HttpExecutor
from tq.models import (
    Envelope,
    ErrorDetail,
    ExecutionResult,
    Interval,
    Outcome,
    RunId,
    RunKind,
    TaskId,
    TaskType,
    UserId,
)
from tq.outcomes import LONGEST_RETRY_AFTER
from tq.settings import Settings
from tq.telemetry import configure_logs
from tq.testing.clock import FrozenClock

from . import LOOPBACK, Endpoint, Request, make_job

NOW = datetime(2026, 3, 1, 9, 10, 0, 400_000, tzinfo=UTC)
SHORT = timedelta(milliseconds=200)
# A machine may be busy; without a bound these calls would never end.
SOON = timedelta(seconds=5)


@pytest.fixture(autouse=True, params=["libcurl", "httpx"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who carries the calls out: libcurl, or httpx as if there were no pycurl."""
    if request.param == "httpx":
        monkeypatch.setitem(sys.modules, "tq.executors.curl", None)


def executor_over(answer: Callable[[httpx.Request], httpx.Response]) -> HttpExecutor:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return HttpExecutor(allow_private=True, client=client, environ={}, clock=FrozenClock(NOW))


def answered(status: int, headers: dict[str, str] | None = None) -> ExecutionResult:
    return executor_over(lambda _: httpx.Response(status, headers=headers)).execute(make_job())


def raised(error: Exception) -> ExecutionResult:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    return executor_over(fail).execute(make_job())


def message_of(result: ExecutionResult) -> str:
    assert result.error is not None
    return result.error.message


def code_and_outcome(result: ExecutionResult) -> tuple[str | None, Outcome]:
    return (result.error.code if result.error else None, result.outcome)


# --- What is sent ----------------------------------------------------------------------------------


def test_the_endpoint_is_told_who_what_and_when(endpoint: Endpoint) -> None:
    executor = HttpExecutor(allow_private=True, environ={}, clock=FrozenClock(NOW))
    job = make_job(f"{endpoint.url}/digest", user_id="ada", attempt=2, parameters={"tone": "brief"})

    result = executor.execute(job)

    (request,) = endpoint.requests
    assert result.outcome is Outcome.SUCCESS
    assert (request.method, request.target) == ("POST", "/digest")
    assert request.body == (
        b'{"job_id":"job_0123456789abcdef","task_id":"email_digest","user_id":"ada",'
        b'"run_id":"email_digest~20260301T090000Z","scheduled_at":"2026-03-01T09:00:00Z",'
        b'"execute_after":"2026-03-01T09:10:00Z","trigger":"schedule","parameters":{"tone":"brief"}}'
    )
    assert request.headers == {
        "host": f"{LOOPBACK}:{endpoint.port}",
        "connection": "keep-alive",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "user-agent": f"taskqueue/{version('taskqueue')}",
        "idempotency-key": '"job_0123456789abcdef"',
        "webhook-id": "job_0123456789abcdef",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "x-job-id": "job_0123456789abcdef",
        "x-user-id": "ada",
        "x-task-type": "email_digest",
        "x-run-id": "email_digest~20260301T090000Z",
        "x-attempt": "2",
        "x-trigger": "schedule",
        "x-scheduled-at": "2026-03-01T09:00:00Z",
    }
    executor.close()


def test_identity_and_body_are_the_same_at_every_attempt(endpoint: Endpoint, executor: HttpExecutor) -> None:
    task = make_job(endpoint.url).task
    first = Envelope(
        task_id=TaskId("email_digest"),
        user_id=UserId("ada"),
        run_id=RunId("r1"),
        kind=RunKind.MANUAL,
        definition="1",
        scheduled_at=NOW,
        execute_after=NOW,
        share=0,
        parameters='{"b": 1.50, "a": "\\u00e9"}',
    )

    for envelope in (first, first.next_attempt(spent=1), first.next_attempt(spent=1).next_attempt(spent=2)):
        executor.execute(envelope.open_for(task, deadline_at=NOW))

    assert [request.headers["x-attempt"] for request in endpoint.requests] == ["1", "2", "3"]
    assert len({request.body for request in endpoint.requests}) == 1
    assert len({request.headers["idempotency-key"] for request in endpoint.requests}) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_methods_without_a_body_say_the_same_in_headers_only(
    endpoint: Endpoint, executor: HttpExecutor, method: str
) -> None:
    executor.execute(make_job(endpoint.url, method=method))

    (request,) = endpoint.requests
    assert request.method == method
    assert request.body == b""
    assert "content-type" not in request.headers
    assert request.headers["x-job-id"] == "job_0123456789abcdef"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_methods_with_a_body_send_it_as_json(endpoint: Endpoint, executor: HttpExecutor, method: str) -> None:
    job = make_job(endpoint.url, method=method)

    executor.execute(job)

    (request,) = endpoint.requests
    assert request.body == job.body()
    assert request.headers["content-type"] == "application/json"


def test_ids_in_the_endpoint_are_filled_in_and_encoded(endpoint: Endpoint, executor: HttpExecutor) -> None:
    executor.execute(make_job(f"{endpoint.url}/{{user_id}}/{{task_id}}?run={{run_id}}", user_id="a@b:c"))

    (request,) = endpoint.requests
    assert request.target == "/a%40b%3Ac/email_digest?run=email_digest~20260301T090000Z"


def test_variables_are_read_when_the_call_is_made(endpoint: Endpoint) -> None:
    environ = {"BASE": endpoint.url, "API_TOKEN": "first-token"}
    executor = HttpExecutor(allow_private=True, environ=environ)
    job = make_job("${BASE}/digest", headers={"Authorization": "Bearer ${API_TOKEN}"})

    executor.execute(job)
    environ["API_TOKEN"] = "second-token"
    executor.execute(job)

    sent = [request.headers["authorization"] for request in endpoint.requests]
    assert sent == ["Bearer first-token", "Bearer second-token"]
    executor.close()


def test_braces_in_a_variables_value_are_left_alone(endpoint: Endpoint) -> None:
    executor = HttpExecutor(allow_private=True, environ={"X": "{user_id}${Y}"})

    executor.execute(make_job(endpoint.url, headers={"X-Own": "${X} {user_id}"}))

    assert endpoint.requests[0].headers["x-own"] == "{user_id}${Y} {user_id}"
    executor.close()


def test_a_variable_that_is_not_set_gives_the_job_to_another_process(executor: HttpExecutor) -> None:
    job = make_job("https://api.example.com/", headers={"Authorization": "Bearer ${API_TOKEN}"})

    with pytest.raises(ExecutorUnavailable, match="email_digest needs the environment variable API_TOKEN"):
        executor.execute(job)


def test_a_task_may_set_its_own_content_type_and_user_agent_but_not_a_jobs_identity(
    endpoint: Endpoint, executor: HttpExecutor
) -> None:
    own = {"content-type": "application/vnd.own+json", "user-agent": "own/1", "X-Own": "own"}
    claimed = {"x-job-id": "forged", "IDEMPOTENCY-KEY": "forged", "X-User-Id": "forged"}

    executor.execute(make_job(endpoint.url, headers={**own, **claimed}))

    sent = endpoint.requests[0].headers
    assert (sent["content-type"], sent["user-agent"], sent["x-own"]) == tuple(own.values())
    assert "forged" not in sent.values()


def test_the_login_in_an_endpoint_is_sent_as_a_header(endpoint: Endpoint, executor: HttpExecutor) -> None:
    executor.execute(make_job(f"http://ada:secret-pw@{LOOPBACK}:{endpoint.port}/"))

    assert endpoint.requests[0].headers["authorization"] == "Basic YWRhOnNlY3JldC1wdw=="


def test_a_cookie_from_one_answer_does_not_travel_with_the_next_request(
    endpoint: Endpoint, executor: HttpExecutor
) -> None:
    endpoint.answers(200, {"Set-Cookie": "session=ada; Path=/"})

    executor.execute(make_job(endpoint.url, user_id="ada"))
    executor.execute(make_job(endpoint.url, user_id="bob"))

    assert "cookie" not in endpoint.requests[1].headers


# --- What cannot be sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [
        "ftp://host",
        "//host",
        "host",
        "https://",
        "https:///path",
        "http://h:0",
        "http://h:65536",
        "http://h\n",
        "http://h/\udcff",
        "http://[::1",
        f"http://{'a' * 64}.example.com",
        "http://a..b",
    ],
)
def test_an_endpoint_that_is_no_url_once_filled_in_fails_at_once(base: str) -> None:
    executor = HttpExecutor(allow_private=True, environ={"BASE": base})
    guarded = HttpExecutor(environ={"BASE": base})

    results = [made.execute(make_job("${BASE}")) for made in (executor, guarded)]

    assert {code_and_outcome(result) for result in results} == {("INVALID_PAYLOAD", Outcome.FAILED)}
    executor.close()


@pytest.mark.parametrize(
    "value", ["planted\r\nX-Forged: 1", "planted\n", "planted\x00", "planted €", "planted\udcff"]
)
def test_a_header_that_http_does_not_allow_fails_at_once_and_is_named_without_its_value(
    endpoint: Endpoint, value: str
) -> None:
    executor = HttpExecutor(allow_private=True, environ={"API_TOKEN": value})

    result = executor.execute(make_job(endpoint.url, headers={"X-Key": "${API_TOKEN}"}))

    assert code_and_outcome(result) == ("INVALID_PAYLOAD", Outcome.FAILED)
    assert "X-Key" in message_of(result)
    assert "planted" not in str(result)
    assert endpoint.requests == []


def test_blanks_around_a_headers_value_do_no_harm(endpoint: Endpoint) -> None:
    executor = HttpExecutor(allow_private=True, environ={"API_TOKEN": "abcdef \t"})

    executor.execute(make_job(endpoint.url, headers={"X-Key": "${API_TOKEN}", "X-Name": "Zoë"}))

    assert endpoint.requests[0].headers["x-key"] == "abcdef"
    assert endpoint.requests[0].headers["x-name"] == "Zoë"
    executor.close()


def test_a_task_cannot_say_where_the_body_ends(endpoint: Endpoint, executor: HttpExecutor) -> None:
    job = make_job(endpoint.url, headers={"Content-Length": "1", "Transfer-Encoding": "chunked"})

    executor.execute(job)

    assert endpoint.requests[0].body == job.body()
    assert "transfer-encoding" not in endpoint.requests[0].headers


def test_a_request_that_http_does_not_allow_fails_at_once_and_in_our_own_words() -> None:
    result = raised(httpx.LocalProtocolError("Illegal header value b'planted'"))

    assert code_and_outcome(result) == ("INVALID_PAYLOAD", Outcome.FAILED)
    assert "planted" not in str(result)


def test_a_task_without_an_endpoint_fails_at_once(executor: HttpExecutor) -> None:
    task = TaskType(id="sms", interval=Interval.hourly(), executor="myapp:Sms")

    result = executor.execute(make_job().model_copy(update={"task": task}))

    assert code_and_outcome(result) == ("INVALID_PAYLOAD", Outcome.FAILED)


# --- What an answer means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome", "retry"),
    [
        (408, Outcome.RETRY, True),
        (500, Outcome.RETRY, True),
        (503, Outcome.BUSY, True),
        (429, Outcome.THROTTLED, True),
        (403, Outcome.DENIED, True),
        (410, Outcome.GONE, False),
        (422, Outcome.FAILED, False),
        (302, Outcome.FAILED, False),
    ],
)
def test_an_answer_that_is_no_success_says_its_code_and_whether_to_try_again(
    status: int, outcome: Outcome, retry: bool
) -> None:
    result = answered(status)

    assert result.outcome is outcome
    assert result.http_status == status
    assert result.error is not None
    assert result.error.code == f"HTTP_{status}"
    assert result.error.retry is retry


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_success_has_no_error_and_keeps_no_body(status: int) -> None:
    result = answered(status)

    assert (result.outcome, result.error, result.body) == (Outcome.SUCCESS, None, None)
    assert result.http_status == status


def test_a_status_is_told_in_the_words_of_the_standard() -> None:
    assert message_of(answered(503)) == "endpoint answered 503 Service Unavailable"
    assert message_of(answered(599)) == "endpoint answered 599"


@pytest.mark.parametrize("status", [429, 503, 500, 408, 403])
def test_retry_after_is_read_wherever_the_call_is_tried_again(status: int) -> None:
    in_a_minute = format_datetime(NOW.replace(microsecond=0) + timedelta(seconds=60), usegmt=True)

    seconds = answered(status, {"Retry-After": "120"})
    date = answered(status, {"Retry-After": in_a_minute})
    none = answered(status, {"Retry-After": "soon"})
    endless = answered(status, {"Retry-After": "9" * 99})

    assert seconds.retry_after == timedelta(seconds=120)
    assert date.retry_after == timedelta(seconds=59.6)
    assert none.retry_after is None
    assert endless.retry_after == LONGEST_RETRY_AFTER


def test_a_redirect_is_not_followed(endpoint: Endpoint, executor: HttpExecutor) -> None:
    endpoint.answers(307, {"Location": f"{endpoint.url}/elsewhere"})

    result = executor.execute(make_job(f"{endpoint.url}/here"))

    assert code_and_outcome(result) == ("HTTP_307", Outcome.FAILED)
    assert [request.target for request in endpoint.requests] == ["/here"]


def test_the_body_of_an_error_is_kept(endpoint: Endpoint, executor: HttpExecutor) -> None:
    endpoint.answers(422, body='{"reason": "no address", "näher": "\ufffd"}'.encode() + b"\xff")

    result = executor.execute(make_job(endpoint.url))

    assert result.body == '{"reason": "no address", "näher": "\ufffd"}\ufffd'


def test_a_huge_body_is_cut_and_read_no_further(endpoint: Endpoint, executor: HttpExecutor) -> None:
    taken = 0

    def answer(_: Request) -> Iterable[bytes]:
        nonlocal taken
        yield b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n"
        for _megabyte in range(1000):
            yield b"\xc3\xa9" * 500_000
            taken += 1

    endpoint.answer = answer

    result = executor.execute(make_job(endpoint.url))

    assert result.body == "é" * (MAX_BODY // 2)
    assert taken < 100


def test_a_compressed_body_is_not_unpacked(endpoint: Endpoint, executor: HttpExecutor) -> None:
    endpoint.answers(500, {"Content-Encoding": "gzip"}, body=b"not even gzip")

    result = executor.execute(make_job(endpoint.url))

    assert code_and_outcome(result) == ("HTTP_500", Outcome.RETRY)
    assert result.body == "not even gzip"


def test_a_connection_is_used_again(endpoint: Endpoint, executor: HttpExecutor) -> None:
    for body in (b"", b"x" * 20_000, b"short"):
        endpoint.answers(200, body=body)
        executor.execute(make_job(endpoint.url))

    assert endpoint.connections == 1


# --- What goes wrong on the way --------------------------------------------------------------------


def test_a_refused_connection_is_tried_again(executor: HttpExecutor) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))  # and does not listen
        port = taken.getsockname()[1]

        result = executor.execute(make_job(f"http://ada:secret-pw@{LOOPBACK}:{port}/?token=abc"))

    assert result.outcome is Outcome.RETRY
    assert result.error == ErrorDetail(
        code="HTTP_ERROR", message=f"{LOOPBACK}:{port} refused the connection", retry=True
    )


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"SSH-2.0-OpenSSH\r\n"],
    ids=["nothing", "half a body", "not HTTP"],
)
def test_an_answer_that_breaks_off_is_tried_again(
    endpoint: Endpoint, executor: HttpExecutor, start: bytes
) -> None:
    def answer(_: Request) -> Iterable[bytes]:
        yield start
        raise ConnectionAbortedError

    endpoint.answer = answer

    result = executor.execute(make_job(endpoint.url))

    assert code_and_outcome(result) == ("HTTP_ERROR", Outcome.RETRY)
    assert "before its answer was complete" in message_of(result)


def test_an_endpoint_without_tls_is_told_so(endpoint: Endpoint, executor: HttpExecutor) -> None:
    endpoint.instead = b"220 mail.example.com\r\n"

    result = executor.execute(make_job(f"https://{LOOPBACK}:{endpoint.port}/"))

    assert code_and_outcome(result) == ("HTTP_ERROR", Outcome.RETRY)
    assert message_of(result).startswith(f"no TLS connection to {LOOPBACK}:{endpoint.port}: ")


def test_a_name_that_cannot_be_resolved_is_tried_again() -> None:
    def resolve(_: str) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    guarded = HttpExecutor(places=Places(resolve=resolve))
    unguarded = HttpExecutor(places=Places(resolve=resolve), allow_private=True)

    results = [
        executor.execute(make_job("https://api.example.com/?token=abc")) for executor in (guarded, unguarded)
    ]

    assert {code_and_outcome(result) for result in results} == {("HTTP_ERROR", Outcome.RETRY)}
    assert {message_of(result) for result in results} == {"the name api.example.com could not be resolved"}
    unguarded.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectTimeout(""), "cut off while connecting"),
        (httpx.PoolTimeout(""), "cut off while waiting for a free connection"),
        (httpx.WriteTimeout(""), "cut off while sending the request; the endpoint may have done the work"),
        (httpx.ReadTimeout(""), "cut off while waiting for the answer; the endpoint may have done the work"),
    ],
)
def test_a_timeout_says_where_it_struck_and_whether_the_work_may_be_done(
    error: httpx.TimeoutException, said: str
) -> None:
    result = raised(error)

    assert code_and_outcome(result) == ("TIMEOUT", Outcome.RETRY)
    assert message_of(result) == f"no complete answer within 10s: {said}"


@pytest.mark.parametrize(
    "error", [httpx.ProxyError("403 https://ada:pw@host"), httpx.WriteError("x"), httpx.CloseError("x")]
)
def test_any_other_trouble_on_the_way_is_tried_again_and_told_in_our_own_words(
    error: httpx.TransportError,
) -> None:
    result = raised(error)

    assert code_and_outcome(result) == ("HTTP_ERROR", Outcome.RETRY)
    assert message_of(result) == f"no connection to api.example.com: {type(error).__name__}"


# --- In time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "drop", "phase"),
    [
        (b"", b"", "waiting for the answer"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"x", "waiting for the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x", "reading the answer's body"),
    ],
    ids=["silence", "headers drop by drop", "a body drop by drop"],
)
def test_the_timeout_bounds_the_whole_call(
    endpoint: Endpoint, executor: HttpExecutor, start: bytes, drop: bytes, phase: str
) -> None:
    endpoint.drips(start, drop)

    result = executor.execute(make_job(endpoint.url, timeout=SHORT))

    assert code_and_outcome(result) == ("TIMEOUT", Outcome.RETRY)
    assert f"within 200ms: cut off while {phase}" in message_of(result)
    assert SHORT <= result.duration < SOON


def test_the_timeout_holds_on_a_connection_that_is_used_again(
    endpoint: Endpoint, executor: HttpExecutor
) -> None:
    first = executor.execute(make_job(endpoint.url))
    endpoint.drips(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x")

    second = executor.execute(make_job(endpoint.url, timeout=SHORT))

    assert endpoint.connections == 1
    assert first.outcome is Outcome.SUCCESS
    assert code_and_outcome(second) == ("TIMEOUT", Outcome.RETRY)


def test_a_tls_handshake_that_never_comes_is_cut_off(endpoint: Endpoint, executor: HttpExecutor) -> None:
    endpoint.instead = b""

    result = executor.execute(make_job(f"https://{LOOPBACK}:{endpoint.port}/", timeout=SHORT))

    assert code_and_outcome(result) == ("TIMEOUT", Outcome.RETRY)
    assert message_of(result) == "no complete answer within 200ms: cut off while connecting"


def test_a_clients_own_transport_is_bounded_between_chunks() -> None:
    def endless() -> Iterable[bytes]:
        while not Event().wait(0.02):
            yield b"x"

    executor = executor_over(lambda _: httpx.Response(200, content=endless()))

    result = executor.execute(make_job(timeout=SHORT))

    assert code_and_outcome(result) == ("TIMEOUT", Outcome.RETRY)


def test_the_time_that_the_endpoint_may_take_is_the_tighter_bound(
    endpoint: Endpoint, executor: HttpExecutor
) -> None:
    endpoint.drips(b"", b"")

    result = executor.execute(make_job(endpoint.url, timeout=timedelta(minutes=5), max_duration=SHORT))

    assert code_and_outcome(result) == ("TIMEOUT", Outcome.RETRY)
    assert result.duration < SOON


def test_the_time_a_call_took_is_part_of_its_result(endpoint: Endpoint, executor: HttpExecutor) -> None:
    result = executor.execute(make_job(endpoint.url))

    assert timedelta(0) < result.duration < SOON


# --- Where calls go --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [LOOPBACK, "localhost", "127.1", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_not_called_and_the_remedy_is_named(endpoint: Endpoint, host: str) -> None:
    executor = HttpExecutor(environ={})

    result = executor.execute(make_job(f"http://{host}:{endpoint.port}/"))

    assert code_and_outcome(result) == ("BLOCKED_ADDRESS", Outcome.FAILED)
    assert "is not public; set TQ_ALLOW_PRIVATE_ENDPOINTS=true to allow it" in message_of(result)
    assert endpoint.connections == 0


def test_a_name_that_turns_private_between_check_and_connection_is_not_called(endpoint: Endpoint) -> None:
    answers = iter([("93.184.215.14",), (LOOPBACK,), (LOOPBACK,)])
    # Between any two looks half a minute passes, so that each one asks anew.
    hand = iter(range(0, 10_000, 30))
    executor = HttpExecutor(
        environ={}, places=Places(resolve=lambda _: next(answers), monotonic=lambda: float(next(hand)))
    )
    job = make_job(f"http://api.example.com:{endpoint.port}/")

    first, second = executor.execute(job), executor.execute(job)

    assert code_and_outcome(first) == ("HTTP_ERROR", Outcome.RETRY)
    assert "its address 127.0.0.1 is not public" in message_of(first)
    assert code_and_outcome(second) == ("BLOCKED_ADDRESS", Outcome.FAILED)
    assert endpoint.connections == 0
    executor.close()


def test_a_proxy_may_be_private_but_what_is_called_through_it_may_not(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", endpoint.url)
    addresses = {
        "api.example.com": ("93.184.215.14",),
        "inside.example.com": ("10.0.0.1",),
        LOOPBACK: (LOOPBACK,),
    }
    executor = HttpExecutor(environ={}, places=Places(resolve=addresses.__getitem__))

    public = executor.execute(make_job("http://api.example.com/digest"))
    private = executor.execute(make_job("http://inside.example.com/digest"))

    assert public.outcome is Outcome.SUCCESS
    assert [request.target for request in endpoint.requests] == ["http://api.example.com/digest"]
    assert code_and_outcome(private) == ("BLOCKED_ADDRESS", Outcome.FAILED)
    executor.close()


def test_many_threads_share_one_executor(endpoint: Endpoint, executor: HttpExecutor) -> None:
    jobs = [make_job(endpoint.url, user_id=f"user-{number}") for number in range(100)]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(executor.execute, jobs))

    assert {result.outcome for result in results} == {Outcome.SUCCESS}
    assert {request.headers["x-user-id"] for request in endpoint.requests} == {job.user_id for job in jobs}
    assert endpoint.connections <= 8


def test_a_fork_opens_connections_of_its_own(endpoint: Endpoint, executor: HttpExecutor) -> None:
    job = make_job(endpoint.url)
    executor.execute(job)

    child = os.fork()
    if child == 0:
        succeeded = executor.execute(job).outcome is Outcome.SUCCESS
        executor.close()
        os._exit(0 if succeeded else 1)
    _, status = os.waitpid(child, 0)
    executor.execute(job)

    assert os.waitstatus_to_exitcode(status) == 0
    assert endpoint.connections == 2
    assert len(endpoint.requests) == 3


def test_a_closed_executor_opens_anew_at_the_next_call(endpoint: Endpoint, executor: HttpExecutor) -> None:
    executor.execute(make_job(endpoint.url))

    executor.close()
    executor.close()
    result = executor.execute(make_job(endpoint.url))

    assert result.outcome is Outcome.SUCCESS
    assert endpoint.connections == 2


# --- Nothing secret --------------------------------------------------------------------------------

SECRETS = {
    "API_TOKEN": "planted-header-token",
    "QUERY_KEY": "planted query/key",
    "PASSWORD": "planted-password",
    "BASE_PATH": "planted path",
}


def echo(request: Request) -> Iterable[bytes]:
    """An endpoint that tells all it was told, as debug pages do."""
    body = orjson.dumps({"url": f"http://host{request.target}", "target": request.target, **request.headers})
    return [b"HTTP/1.1 500 %s\r\nContent-Length: %d\r\n\r\n%s" % (body[:50], len(body), body)]


def refuse_in_mid_answer(request: Request) -> Iterable[bytes]:
    yield request.target.encode()
    raise ConnectionAbortedError


@pytest.mark.parametrize("answer", [echo, refuse_in_mid_answer])
def test_secrets_are_in_no_result_and_no_log_line(
    endpoint: Endpoint, answer: Callable[[Request], Iterable[bytes]], written: StringIO
) -> None:
    endpoint.answer = answer
    executor = HttpExecutor(allow_private=True, environ=SECRETS)
    job = make_job(
        f"http://ada:${{PASSWORD}}@{LOOPBACK}:{endpoint.port}/${{BASE_PATH}}?key=${{QUERY_KEY}}&token=literal-token",
        headers={
            "X-Api-Key": "${API_TOKEN}",
            "Authorization": "Custom literal-credential",
            "X-Again": "${API_TOKEN}",
        },
    )

    result = executor.execute(job)
    logger.info("call ended", result=result, error=result.error, body=result.body)
    logger.info(f"call ended: {result!r} after {endpoint.requests}")
    executor.close()

    sent = endpoint.requests[0]
    assert "planted-header-token" in sent.headers.values()
    assert sent.target == "/planted%20path?key=planted%20query/key&token=literal-token"
    assert result.outcome is Outcome.RETRY
    for secret in (
        *SECRETS.values(),
        "planted",
        "literal-token",
        "literal-credential",
        "YWRhOnBsYW50ZWQtcGFzc3dvcmQ",
    ):
        assert secret not in str(result)
        assert secret not in result.to_json()
        assert secret not in written.getvalue()


def test_a_secret_on_the_edge_of_what_is_kept_is_masked_whole(endpoint: Endpoint) -> None:
    endpoint.answers(500, body=b"x" * (MAX_BODY - 10) + b"planted-header-token" + b"y" * MAX_BODY)
    executor = HttpExecutor(allow_private=True, environ=SECRETS)

    result = executor.execute(make_job(endpoint.url, headers={"X-Key": "${API_TOKEN}"}))

    assert result.body == "x" * (MAX_BODY - 10) + "***" + "y" * 7
    executor.close()


@pytest.fixture
def written() -> Iterator[StringIO]:
    """All that is logged, with every switch on; loggers are as before when the test ends."""
    stream = StringIO()
    root, quiet = logging.getLogger(), [logging.getLogger(name) for name in ("httpx", "httpcore", "dramatiq")]
    handlers, levels = list(root.handlers), [one.level for one in (root, *quiet)]
    settings = Settings.model_construct(log_format="json", log_level="TRACE")
    configure_logs(settings, stream=stream)
    yield stream
    logger.remove()
    root.handlers = handlers
    for one, level in zip((root, *quiet), levels, strict=True):
        one.setLevel(level)
