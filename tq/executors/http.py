"""The call that a task makes for a user, by HTTP.

A job's identity and body are the same at every attempt, so that the endpoint can recognise a
repetition. What the endpoint answers, and whatever goes wrong on the way, is a result, never an
exception; only a variable that this process lacks is raised, since another process may have it.

What came from the environment, and logins and queries of URLs, reaches no result.
"""

import os
import re
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from urllib.parse import quote

import httpx

from tq.clock import Clock, Stopwatch, SystemClock, iso
from tq.errors import ExecutorUnavailable, InvalidInput
from tq.executors.addresses import Connections, Places, Until
from tq.models import ErrorDetail, ExecutionResult, Job, Outcome, TaskConfig, format_duration
from tq.outcomes import ErrorCode, code_of, outcome_of, parse_retry_after
from tq.redaction import is_secret_name, redact, register_secret

MAX_BODY = 4 * 1024  # bytes of an answer that are kept; enough for an error's text
# Reading a longer answer to its end costs more than the new connection that cutting it off costs.
MAX_READ = 64 * 1024
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
USER_AGENT = f"taskqueue/{version('taskqueue')}"

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_FILLED = re.compile(r"\$\{([^{}]*)\}|\{(user_id|task_id|run_id)\}")
# Where the body ends is for whoever sends it to say.
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NOT_SENT = (httpx.ConnectTimeout, httpx.PoolTimeout)
_CUT_OFF = {
    httpx.PoolTimeout: "waiting for a free connection",
    httpx.ConnectTimeout: "connecting",
    httpx.WriteTimeout: "sending the request",
}


class HttpExecutor:
    """Calls a task's endpoint for one job; one for all threads of a process, and of its forks."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        client: httpx.Client | None = None,
        environ: Mapping[str, str] | None = None,
        max_connections: int = 256,
        places: Places | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is opened before the first call.

        A `client` that is handed in stays its owner's to close, and finds its own addresses; without
        one, at most `max_connections` calls are under way at once, and further ones wait.
        """
        self._allow_private = allow_private
        self._given = client
        self._environ = os.environ if environ is None else environ
        self._max_connections = max_connections
        self._places = places or Places()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None
        self._opened_by = 0

    def execute(self, job: Job) -> ExecutionResult:
        """What became of one attempt, with the time that it took.

        Raises:
            ExecutorUnavailable: if a variable that endpoint or headers name is not set here.
        """
        watch = Stopwatch()
        return self._attempt(job).model_copy(update={"duration": watch.elapsed})

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        with self._lock:
            # A fork must leave alone what its parent opened.
            if self._opened is not None and self._opened_by == os.getpid():
                self._opened.close()
            self._opened = None

    def _attempt(self, job: Job) -> ExecutionResult:
        config = job.task.config
        if config is None:
            return _invalid(f"task {job.task_id} has no endpoint; add config.endpoint")
        until = Until(min(job.task.timeout, config.max_duration or job.task.timeout).total_seconds())
        try:
            url = self._url(job, config)
            headers = self._headers(job, config)
        except InvalidInput as error:
            return _invalid(str(error))
        refusal = None if self._allow_private else self._refusal(url)
        if refusal is not None:
            return refusal
        content = job.body() if config.method in WITH_BODY else None
        return self._call(config.method, url, headers, content, until)

    def _url(self, job: Job, config: TaskConfig) -> httpx.URL:
        names = {"user_id": job.user_id, "task_id": job.task_id, "run_id": job.run_id}

        def filled(match: re.Match[str]) -> str:
            if match[2]:
                return quote(names[match[2]], safe="")
            return self._variable(match[1], job)

        # Both kinds in one pass, so that braces in a variable's value stay what they are.
        text = _FILLED.sub(filled, config.endpoint)
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, UnicodeError):
            url = httpx.URL()
        has_port = url.port is None or 0 < url.port < 65536
        if url.scheme not in {"http", "https"} or not url.host or not has_port:
            raise InvalidInput(
                f"the endpoint of task {job.task_id} is no URL once it is filled in; "
                "it needs https:// or http://, a host, and, if any, a port from 1 to 65535"
            )
        # A login without a password may be a token in place of a user; httpx sends either as Basic.
        register_secret(url.password or url.username)
        register_secret(b64encode(f"{url.username}:{url.password}".encode()).decode() if url.userinfo else "")
        return url

    def _headers(self, job: Job, config: TaskConfig) -> list[tuple[bytes, bytes]]:
        defaults = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if config.method in WITH_BODY:
            defaults["Content-Type"] = "application/json"
        fixed = {
            "Idempotency-Key": f'"{job.idempotency_key}"',
            "webhook-id": job.idempotency_key,
            "webhook-timestamp": str(int(self._clock.now().timestamp())),
            "X-Job-ID": job.id,
            "X-User-ID": job.user_id,
            "X-Task-Type": job.task_id,
            "X-Run-ID": job.run_id,
            "X-Attempt": str(job.attempt),
            "X-Trigger": job.trigger.value,
            "X-Scheduled-At": iso(job.scheduled_at),
        }
        own = {
            name: _FILLED.sub(lambda match: self._variable(match[1], job) if match[1] else match[0], text)
            for name, text in config.headers.items()
            if name.lower() not in _FRAMING
        }
        chosen: dict[str, tuple[bytes, bytes]] = {}
        for name, text in (*defaults.items(), *own.items(), *fixed.items()):
            # Blanks around a value mean nothing in HTTP, and a variable from a file often ends with one.
            value = text.strip(" \t")
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidInput(
                    f"the value of header {name} has a line break or another character that HTTP does not allow; "
                    "correct the variable it is filled from"
                )
            if is_secret_name(name):
                register_secret(value.rpartition(" ")[2])
            chosen[name.lower()] = (name.encode(), value.encode("latin-1"))
        return list(chosen.values())

    def _variable(self, name: str, job: Job) -> str:
        value = self._environ.get(name)
        if value is None:
            raise ExecutorUnavailable(
                f"task {job.task_id} needs the environment variable {name}, which is not set here; "
                "set it where workers are started"
            )
        register_secret(value.strip())
        return value

    def _refusal(self, url: httpx.URL) -> ExecutionResult | None:
        try:
            place = self._places.find(url.raw_host.decode("ascii"))
        except UnicodeError:
            return _invalid(_no_name(url))
        except OSError as error:
            return _unreachable(error, url)
        if place.private is None:
            return None
        return ExecutionResult.failed(
            ErrorCode.BLOCKED_ADDRESS,
            f"the endpoint's address {place.private} is not public; set TQ_ALLOW_PRIVATE_ENDPOINTS=true to allow it",
        )

    def _call(
        self,
        method: str,
        url: httpx.URL,
        headers: list[tuple[bytes, bytes]],
        content: bytes | None,
        until: Until,
    ) -> ExecutionResult:
        phase = "waiting for the answer"
        try:
            with self._client().stream(
                method,
                url,
                headers=headers,
                content=content,
                timeout=httpx.Timeout(until),
                follow_redirects=False,
            ) as response:
                phase = "reading the answer's body"
                return self._told(response, _start_of_body(response, until))
        except httpx.TimeoutException as error:
            return _timed_out(error, _CUT_OFF.get(type(error), phase), until)
        except httpx.LocalProtocolError:
            return _invalid("the request is not valid HTTP; check the task's headers")
        except UnicodeError:
            return _invalid(_no_name(url))
        except httpx.TransportError as error:
            return _unreachable(error, url)

    def _told(self, response: httpx.Response, body: bytes) -> ExecutionResult:
        status = response.status_code
        outcome = outcome_of(status)
        if outcome is Outcome.SUCCESS:
            return ExecutionResult(outcome=outcome, http_status=status)
        retry = outcome not in {Outcome.FAILED, Outcome.GONE}
        wait = response.headers.get("retry-after") if retry else None
        return ExecutionResult(
            outcome=outcome,
            error=ErrorDetail(
                code=code_of(status), message=f"endpoint answered {_named(status)}", retry=retry
            ),
            http_status=status,
            retry_after=None if wait is None else parse_retry_after(wait, now=self._clock.now()),
            body=_shown(body),
        )

    def _client(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        with self._lock:
            # Two processes that shared a connection would read each other's answers.
            if self._opened is None or self._opened_by != os.getpid():
                self._opened = self._open()
                self._opened_by = os.getpid()
            return self._opened

    def _open(self) -> httpx.Client:
        client = httpx.Client(
            http2=False,
            limits=httpx.Limits(
                max_connections=self._max_connections, max_keepalive_connections=self._max_connections
            ),
            # A cookie that came with one user's answer must not travel with another's request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        # httpx has no public way to open its connections oneself and yet take proxies from the environment.
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                to_proxy = transport is not client._transport
                transport._pool._network_backend = Connections(
                    self._places, allow_private=self._allow_private or to_proxy
                )
        return client


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


def _named(status: int) -> str:
    # The words are the standard's: an endpoint's own could hold anything.
    return f"{status} {_PHRASES[status]}" if status in _PHRASES else str(status)


def _timed_out(error: httpx.TimeoutException, phase: str, until: Until) -> ExecutionResult:
    limit = format_duration(timedelta(seconds=until))
    text = f"no complete answer within {limit}: cut off while {phase}"
    if not isinstance(error, _NOT_SENT):
        text += "; the endpoint may have done the work"
    return ExecutionResult.retry(ErrorCode.TIMEOUT, text)


def _unreachable(error: Exception, url: httpx.URL) -> ExecutionResult:
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
    return ExecutionResult.retry(ErrorCode.HTTP_ERROR, redact(text))


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
