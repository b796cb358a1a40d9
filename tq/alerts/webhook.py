"""A call to an address that an operator has set: bounded in time, no redirect followed, its answer not read.

Such an address is a secret; what is told of it is its host at most.
"""

import socket
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import httpx
import orjson

from tq.alerts.alert import Alert, Kind, delivery_id_of, message_of, written
from tq.doctor import Status
from tq.executors.addresses import Places, Until
from tq.executors.client import open_client
from tq.executors.http import status_named, unreachable_because

TIMEOUT_S = 10.0
MAX_READ = 1024  # bytes of an answer; none of it is looked at


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the receiver took it, and what it said, in words that may be logged."""

    is_taken: bool
    told: str


class Caller:
    """Makes such calls; one for all threads of a process."""

    def __init__(self) -> None:
        # Receivers often stand in the operator's own network.
        self._client = open_client(Places(), allow_private=True, max_body=MAX_READ)

    def tell(self, url: str, alert: Alert, kind: Kind, now: datetime, *, namespace: str) -> Answer:
        """Posts a message of an alert."""
        message = message_of(alert, kind, now, host=socket.gethostname(), namespace=namespace)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": delivery_id_of(alert, kind, namespace),
            "webhook-timestamp": str(int(now.timestamp())),
        }
        return self._call("POST", url, headers, orjson.dumps(written(message)))

    def ping(self, url: str) -> Answer:
        """Calls an address with nothing to say but that somebody lives."""
        return self._call("GET", url, {}, b"")

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def _call(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        headers = {"User-Agent": f"TaskQueue/{version('taskqueue')}", **headers}
        until = Until(TIMEOUT_S)
        try:
            request = self._client.build_request(
                method, url, headers=headers, content=body or None, timeout=until
            )
            response = self._client.send(request, stream=True, follow_redirects=False)
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
            return Answer(False, "the address cannot be called; see that it is whole")
        except httpx.TimeoutException:
            return Answer(False, f"no answer within {TIMEOUT_S:g} s")
        except httpx.TransportError as error:
            return Answer(False, unreachable_because(error, request.url))
        response.close()
        told = f"{request.url.host} answered {status_named(response.status_code)}"
        if response.is_redirect:
            told += "; redirects are not followed, set the address to which it leads"
        return Answer(response.is_success, told)


def send_test(url: str, *, namespace: str, now: datetime) -> Answer:
    """Sends an alert that says that it is a test."""
    alert = Alert(
        check="test",
        since=now,
        severity=Status.WARNING,
        severity_since=now,
        summary="this is a test; nothing is wrong",
        why="an alert that nobody receives helps nobody",
        remedy="nothing; alerts arrive here",
    )
    caller = Caller()
    try:
        return caller.tell(url, alert, Kind.FIRING, now, namespace=namespace)
    finally:
        caller.close()
