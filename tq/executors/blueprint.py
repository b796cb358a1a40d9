"""The request that a task makes for each of its users: what is the same for all is made ready once.

Variables are read from the environment at every call; what was made of them is kept as long as they stay the same.
What came from the environment, and logins in URLs, is registered as secret at every call, since the register forgets.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote

import httpx

from tq.clock import iso
from tq.errors import ExecutorUnavailable, InvalidInput
from tq.executors.addresses import Until
from tq.models import Job, TaskConfig, TaskId
from tq.ready_http import Line, ready_request
from tq.redaction import is_secret_name, register_secret

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
USER_AGENT = f"taskqueue/{version('taskqueue')}"

_FILLED = re.compile(r"\$\{([^{}]*)\}|\{(user_id|task_id|run_id)\}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# A task may not say whose job a request is for, nor where its body ends.
_NOT_A_TASKS = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "idempotency-key",
        "webhook-id",
        "webhook-timestamp",
        "x-job-id",
        "x-user-id",
        "x-task-type",
        "x-run-id",
        "x-attempt",
        "x-trigger",
        "x-scheduled-at",
    }
)


class Blueprint:
    """What a task's requests have in common; for all threads of a process."""

    def __init__(
        self, task_id: TaskId, config: TaskConfig, environ: Mapping[str, str], *, limit_s: float
    ) -> None:
        """`limit_s` is how long a call of the task may take, in seconds."""
        self.limit_s = limit_s
        self._task_id = task_id
        self._config = config
        self._environ = environ
        texts = (config.endpoint, *config.headers.values())
        self._variables = tuple(
            dict.fromkeys(match[1] for text in texts for match in _FILLED.finditer(text) if not match[2])
        )
        self._has_body = config.method in WITH_BODY
        self._filled: _Filled | None = None

    def request(self, job: Job, *, sent_at: int, until: Until) -> httpx.Request:
        """The request of one attempt; `sent_at` in seconds since the epoch.

        Raises:
            ExecutorUnavailable: if a variable that endpoint or headers name is not set here.
            InvalidInput: if what comes of them is no URL or no header.
        """
        values = tuple([self._variable(name) for name in self._variables])
        filled = self._filled
        if filled is None or filled.values != values:
            filled = self._filled = self._fill(values)
        for secret in filled.secrets:
            register_secret(secret)
        url = filled.url or self._url_for(job, filled.endpoint)
        body = job.body() if self._has_body else b""
        key = job.idempotency_key.encode()
        headers = [
            *filled.headers,
            (b"Idempotency-Key", b"idempotency-key", b'"%s"' % key),
            (b"webhook-id", b"webhook-id", key),
            (b"webhook-timestamp", b"webhook-timestamp", b"%d" % sent_at),
            (b"X-Job-ID", b"x-job-id", job.id.encode()),
            (b"X-User-ID", b"x-user-id", job.user_id.encode()),
            (b"X-Run-ID", b"x-run-id", job.run_id.encode()),
            (b"X-Attempt", b"x-attempt", b"%d" % job.attempt),
            (b"X-Trigger", b"x-trigger", job.trigger.encode()),
            (b"X-Scheduled-At", b"x-scheduled-at", iso(job.scheduled_at).encode()),
        ]
        if not filled.has_host:
            headers.append((b"Host", b"host", url.netloc))
        if self._has_body:
            headers.append((b"Content-Length", b"content-length", b"%d" % len(body)))
        timeouts = {"connect": until, "read": until, "write": until, "pool": until}
        return ready_request(self._config.method, url, headers, body, {"timeout": timeouts})

    def _variable(self, name: str) -> str:
        value = self._environ.get(name)
        if value is None:
            raise ExecutorUnavailable(
                f"task {self._task_id} needs the environment variable {name}, which is not set here; "
                "set it where workers are started"
            )
        register_secret(value.strip())
        return value

    def _fill(self, values: tuple[str, ...]) -> "_Filled":
        by_name = dict(zip(self._variables, values, strict=True))
        endpoint = _pieces(self._config.endpoint, by_name)
        headers, secrets = self._headers(by_name)
        url = None
        if len(endpoint) == 1:
            url, of_url = self._url(endpoint[0])
            secrets += of_url
        return _Filled(
            values=values,
            endpoint=endpoint,
            url=url,
            headers=[*headers.values()],
            has_host="host" in headers,
            secrets=secrets,
        )

    def _headers(self, variables: Mapping[str, str]) -> tuple[dict[str, Line], tuple[str, ...]]:
        texts = {
            "Accept": "*/*",
            "Connection": "keep-alive",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }
        if self._has_body:
            texts["Content-Type"] = "application/json"
        own = {
            name: _FILLED.sub(lambda match: match[0] if match[2] else variables[match[1]], text)
            for name, text in self._config.headers.items()
            if name.lower() not in _NOT_A_TASKS
        }
        headers: dict[str, Line] = {}
        secrets = []
        for name, text in (*texts.items(), *own.items(), ("X-Task-Type", self._task_id)):
            # Blanks around a value mean nothing in HTTP, and a variable from a file often ends with one.
            value = text.strip(" \t")
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidInput(
                    f"the value of header {name} has a line break or another character that HTTP does not allow; "
                    "correct the variable it is filled from"
                )
            if is_secret_name(name):
                secrets.append(value.rpartition(" ")[2])
            headers[name.lower()] = (name.encode(), name.lower().encode(), value.encode("latin-1"))
        return headers, tuple(secrets)

    def _url_for(self, job: Job, endpoint: tuple[str, ...]) -> httpx.URL:
        names = {"user_id": job.user_id, "task_id": job.task_id, "run_id": job.run_id}
        pieces = list(endpoint)
        pieces[1::2] = [quote(names[name], safe="") for name in endpoint[1::2]]
        url, secrets = self._url("".join(pieces))
        for secret in secrets:
            register_secret(secret)
        return url

    def _url(self, text: str) -> tuple[httpx.URL, tuple[str, ...]]:
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, UnicodeError):
            url = httpx.URL()
        has_port = url.port is None or 0 < url.port < 65536
        if url.scheme not in {"http", "https"} or not url.host or not has_port:
            raise InvalidInput(
                f"the endpoint of task {self._task_id} is no URL once it is filled in; "
                "it needs https:// or http://, a host, and, if any, a port from 1 to 65535"
            )
        if not url.userinfo:
            return url, ()
        # A login without a password may be a token in place of a user; httpx sends either as Basic.
        basic = b64encode(f"{url.username}:{url.password}".encode()).decode()
        return url, (url.password or url.username, basic)


@dataclass(frozen=True, slots=True)
class _Filled:
    """What was made of the variables' values, as long as they are these."""

    values: tuple[str, ...]
    endpoint: tuple[str, ...]  # text and the name of a placeholder, by turns
    url: httpx.URL | None  # if it is the same for all users
    headers: list[Line]
    has_host: bool
    secrets: tuple[str, ...]


def _pieces(endpoint: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    # Both kinds in one pass, so that braces in a variable's value stay what they are.
    pieces = [""]
    end = 0
    for match in _FILLED.finditer(endpoint):
        pieces[-1] += endpoint[end : match.start()]
        end = match.end()
        if match[2]:
            pieces += [match[2], ""]
        else:
            pieces[-1] += variables[match[1]]
    pieces[-1] += endpoint[end:]
    return tuple(pieces)
