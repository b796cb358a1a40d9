"""What is done around each request: its id, HEAD, its line in the log, and what nobody has foreseen.

The id is the caller's `X-Request-ID` if it can stand in a log, else it is made here. It is answered with, and
every line that the request writes carries it.
"""

import re
import uuid
from collections.abc import Iterable
from http import HTTPStatus

from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tq.clock import MILLISECOND, Stopwatch
from tq.web.errors import error_response

REQUEST_ID = b"x-request-id"
# Long enough for whatever proxies make up, and nothing in it that a log or a shell would take amiss.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_ALWAYS = (
    # What is told of the present is told of no other time, and is no page, whatever a browser makes of it.
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class Requests:
    """Wraps an ASGI app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _id_of(scope["headers"])
        with logger.contextualize(request_id=request_id):
            await _Exchange(request_id, scope, send).carry_out(self._app, receive)


class _Exchange:
    """One request and its answer."""

    def __init__(self, request_id: str, scope: Scope, send: Send) -> None:
        self._request_id = request_id
        self._scope = scope
        self._send = send
        self._status = 0

    async def carry_out(self, app: ASGIApp, receive: Receive) -> None:
        watch, method = Stopwatch(), self._scope["method"]
        # What answers GET answers HEAD; only the body is left out.
        asked = {**self._scope, "method": "GET"} if method == "HEAD" else self._scope
        try:
            await app(asked, receive, self._pass_on)
        except Exception:  # here the request ends, whoever's fault it was, and the process goes on
            if self._status:
                raise  # too late for another answer: the server logs it, and drops the connection
            logger.exception("request failed unexpectedly", method=method, path=self._scope["path"])
            answer = error_response(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"an error that should not be; the log tells more under request_id {self._request_id}",
            )
            await answer(asked, receive, self._pass_on)
        logger.debug(
            "request answered",
            method=method,
            path=self._scope["path"],
            status=self._status,
            duration_ms=round(watch.elapsed / MILLISECOND, 3),
        )

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            given = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _ALWAYS if name not in given]
            message = {**message, "headers": [*headers, (REQUEST_ID, self._request_id.encode())]}
        elif message["type"] == "http.response.body" and self._scope["method"] == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)


def _id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = next((value.decode("latin-1") for name, value in headers if name == REQUEST_ID), "")
    return given if _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
