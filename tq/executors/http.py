"""The call that a task makes for a user, by HTTP.

A job's identity and body are the same at every attempt, so that the endpoint can recognise a
repetition. What the endpoint answers, and whatever goes wrong on the way, is a result, never an
exception; only a variable that this process lacks is raised, since another process may have it.

What came from the environment, and logins and queries of URLs, reaches no result.
"""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from http import HTTPStatus
from typing import Protocol

import httpx

from tq.by_identity import ByIdentity
from tq.clock import Clock, Stopwatch, SystemClock
from tq.errors import InvalidInput
from tq.executors.addresses import Places, Until
from tq.executors.blueprint import Blueprint
from tq.executors.client import open_client
from tq.models import ErrorDetail, ExecutionResult, Job, Outcome, TaskType, format_duration
from tq.outcomes import ErrorCode, code_of, outcome_of, parse_retry_after
from tq.redaction import redact

MAX_BODY = 4 * 1024  # bytes of an answer that are kept; enough for an error's text
# Reading a longer answer to its end costs more than the new connection that cutting it off costs.
MAX_READ = 64 * 1024

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_NOT_SENT = (httpx.ConnectTimeout, httpx.PoolTimeout)
_CUT_OFF = {
    httpx.PoolTimeout: "waiting for a free connection",
    httpx.ConnectTimeout: "connecting",
    httpx.WriteTimeout: "sending the request",
}


class CallTraces(Protocol):
    """Is told of every call, and names its span in the request."""

    def call(
        self, job: Job, request: httpx.Request, exchange: Callable[[], ExecutionResult]
    ) -> ExecutionResult:
        """What the exchange gives."""
        ...


class HttpExecutor:
    """Calls a task's endpoint for one job; one for all threads of a process, and of its forks."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        client: httpx.Client | None = None,
        environ: Mapping[str, str] | None = None,
        places: Places | None = None,
        clock: Clock | None = None,
        traces: CallTraces | None = None,
    ) -> None:
        """Nothing is opened before the first call.

        A `client` that is handed in stays its owner's to close, and finds its own addresses.
        """
        self._allow_private = allow_private
        self._given = client
        self._environ = os.environ if environ is None else environ
        self._places = places or Places()
        self._clock = clock or SystemClock()
        self._traces = traces
        # All jobs of a definition are given the same object.
        self._blueprints = ByIdentity(self._blueprint_of)
        self._lock = threading.Lock()
        self._opened: tuple[int, httpx.Client] | None = None  # and by which process

    def execute(self, job: Job) -> ExecutionResult:
        """What became of one attempt, with the time that it took.

        Raises:
            ExecutorUnavailable: if a variable that endpoint or headers name is not set here.
        """
        watch = Stopwatch()
        result = self._attempt(job, watch)
        return result if result.duration else result.model_copy(update={"duration": watch.elapsed})

    def open(self) -> None:
        """Loads what calls need, so that the first one has not to wait for it; connects to nothing.

        Raises:
            ValueError: if a proxy that the environment names is no URL of a proxy.
        """
        self._client()

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def _attempt(self, job: Job, watch: Stopwatch) -> ExecutionResult:
        blueprint = self._blueprints.get(job.task)
        if blueprint is None:
            return _invalid(f"task {job.task_id} has no endpoint; add config.endpoint")
        client = self._client()  # before the clock runs: the first call is not to pay for what it opens
        until = Until(blueprint.limit_s)
        try:
            request = blueprint.request(job, sent_at=int(self._clock.now().timestamp()), until=until)
        except InvalidInput as error:
            return _invalid(str(error))
        refusal = None if self._allow_private else self._refusal(request.url, until)
        if refusal is not None:
            return refusal
        if self._traces is None:
            return self._call(client, request, until, watch)
        return self._traces.call(job, request, lambda: self._call(client, request, until, watch))

    def _blueprint_of(self, task: TaskType) -> Blueprint | None:
        if task.config is None:
            return None
        limit = min(task.timeout, task.config.max_duration or task.timeout)
        return Blueprint(task.id, task.config, self._environ, limit_s=limit.total_seconds())

    def _refusal(self, url: httpx.URL, until: Until) -> ExecutionResult | None:
        try:
            place = self._places.find(url.raw_host.decode("ascii"), within=until.left)
        except UnicodeError:
            return _invalid(_no_name(url))
        except TimeoutError:
            return _timed_out(httpx.ConnectTimeout(""), "connecting", until)
        except OSError as error:
            return _unreachable(error, url)
        if place.private is None:
            return None
        return ExecutionResult.failed(
            ErrorCode.BLOCKED_ADDRESS,
            f"the endpoint's address {place.private} is not public; set TQ_ALLOW_PRIVATE_ENDPOINTS=true to allow it",
        )

    def _call(
        self, client: httpx.Client, request: httpx.Request, until: Until, watch: Stopwatch
    ) -> ExecutionResult:
        phase = "waiting for the answer"
        try:
            response = client.send(request, stream=True, follow_redirects=False)
            phase = "reading the answer's body"
            body: bytes | None = response.extensions.get("whole_body")
            if body is None:
                with closing(response):
                    body = _start_of_body(response, until)
            return self._told(response, body, watch)
        except httpx.TimeoutException as error:
            return _timed_out(error, _CUT_OFF.get(type(error), phase), until)
        except httpx.LocalProtocolError:
            return _invalid("the request is not valid HTTP; check the task's endpoint and headers")
        except UnicodeError:
            return _invalid(_no_name(request.url))
        except httpx.TransportError as error:
            return _unreachable(error, request.url)

    def _told(self, response: httpx.Response, body: bytes, watch: Stopwatch) -> ExecutionResult:
        status = response.status_code
        outcome = outcome_of(status)
        first_byte_s = response.extensions.get("time_to_first_byte")
        first_byte = None if first_byte_s is None else timedelta(seconds=first_byte_s)
        if outcome is Outcome.SUCCESS:
            return ExecutionResult(
                outcome=outcome, http_status=status, duration=watch.elapsed, time_to_first_byte=first_byte
            )
        retry = outcome not in {Outcome.FAILED, Outcome.GONE}
        wait = response.headers.get("retry-after") if retry else None
        return ExecutionResult(
            outcome=outcome,
            error=ErrorDetail(
                code=code_of(status), message=f"endpoint answered {status_named(status)}", retry=retry
            ),
            http_status=status,
            retry_after=None if wait is None else parse_retry_after(wait, now=self._clock.now()),
            body=_shown(body),
            time_to_first_byte=first_byte,
        )

    def _client(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        process, opened = os.getpid(), self._opened
        if opened is None or opened[0] != process:
            with self._lock:
                opened = self._opened
                # Two processes that shared a connection would read each other's answers. What the parent opened
                # is dropped and not closed: over TLS its endpoints would take that for the parent's goodbye.
                if opened is None or opened[0] != process:
                    client = open_client(self._places, allow_private=self._allow_private, max_body=MAX_READ)
                    opened = self._opened = (process, client)
        return opened[1]


def _start_of_body(response: httpx.Response, until: Until) -> bytes:
    # Raw, since a few bytes can decompress to gigabytes. Some transports have read all of it by now.
    body = bytearray()
    for chunk in [response.content] if response.is_stream_consumed else response.iter_raw():
        body += chunk
        if len(body) >= MAX_READ:
            break
        if until.left <= 0:
            raise httpx.ReadTimeout("the call's time is over")
    return bytes(body[:MAX_READ])


def _shown(body: bytes) -> str | None:
    # More than is kept is looked at, so that a secret at the end is not cut and thereby missed.
    text = redact(body[: 2 * MAX_BODY].decode(errors="replace"))
    return text.encode()[:MAX_BODY].decode(errors="ignore") or None


def status_named(status: int) -> str:
    """A status as people read it, such as `503 Service Unavailable`."""
    # The words are the standard's: an endpoint's own could hold anything.
    return f"{status} {_PHRASES[status]}" if status in _PHRASES else str(status)


def _timed_out(error: httpx.TimeoutException, phase: str, until: Until) -> ExecutionResult:
    limit = format_duration(timedelta(seconds=until))
    text = f"no complete answer within {limit}: cut off while {phase}"
    if not isinstance(error, _NOT_SENT):
        text += "; the endpoint may have done the work"
    return ExecutionResult.retry(ErrorCode.TIMEOUT, text)


def _unreachable(error: Exception, url: httpx.URL) -> ExecutionResult:
    return ExecutionResult.retry(ErrorCode.HTTP_ERROR, unreachable_because(error, url))


def unreachable_because(error: Exception, url: httpx.URL) -> str:
    """Why there is no answer, without what is secret in the URL."""
    place = url.netloc.decode("ascii")
    match _cause(error):
        case socket.gaierror():
            text = f"the name {url.host} could not be resolved"
        case ConnectionRefusedError():
            text = f"{place} refused the connection"
        case ConnectionResetError() | BrokenPipeError():
            text = f"{place} closed the connection before its answer was complete"
        case ssl.SSLCertVerificationError() as cause:
            text = f"the certificate of {place} is not trusted: {cause.verify_message}"
        case ssl.SSLError() as cause:
            text = f"no TLS connection to {place}: {cause.reason}"
        case OSError() as cause:
            text = f"no connection to {place}: {cause.strerror or type(cause).__name__}"
        case httpx.RemoteProtocolError():
            text = f"{place} ended the connection before its answer was complete, or does not speak HTTP"
        case _:
            text = f"no connection to {place}: {type(error).__name__}"
    return redact(text)


def _cause(error: BaseException) -> BaseException:
    """What the operating system said, where it is known, else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        # httpcore takes the cause off on the way; the context stays.
        cause = cause.__cause__ or cause.__context__
    return cause or error


def _no_name(url: httpx.URL) -> str:
    return f"the endpoint's host {url.host} cannot be a name; correct the endpoint"


def _invalid(message: str) -> ExecutionResult:
    return ExecutionResult.failed(ErrorCode.INVALID_PAYLOAD, redact(message))
