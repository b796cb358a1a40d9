"""What a process answers about itself over HTTP: `/debug/threads`, `/debug/heap`, `/debug/profile`.

Knows no server: whichever there is hands over path, query and headers, and gets status, type and bytes.
Nothing it tells holds a value of a variable.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import orjson

from tq.debugging import formats
from tq.debugging.heap import TRACING, heap_text
from tq.debugging.profile import DEFAULT_HZ, DEFAULT_SECONDS, HIGHEST_HZ, LONGEST_S, record
from tq.debugging.threads import threads_now, threads_text
from tq.errors import InvalidInput, ProcessNotFound, ProfileRunning

PREFIX = "/debug/"
JSON, TEXT, SVG = "application/json", "text/plain; charset=utf-8", "image/svg+xml"
SHORTEST_S = 0.1
# Whose names in the header Host lead to this machine, whatever a name server says.
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Answer(NamedTuple):
    """What a server is to send back."""

    status: int
    content_type: str
    body: bytes


def answer(path: str, query: str) -> Answer:
    """The answer to a GET of a path with a query as it came; a profile takes as long as was asked for."""
    respond = _ANSWERS.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
    if respond is None:
        known = ", ".join(PREFIX + name for name in _ANSWERS)
        return error(HTTPStatus.NOT_FOUND, "not_found", f"there is no {path[:100]!r}; there are {known}")
    try:
        parameters = _Parameters(query)
        parameters.check_process()
        return respond(parameters)
    except InvalidInput as wrong:
        return error(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input", str(wrong))
    except ProcessNotFound as other:
        return error(HTTPStatus.NOT_FOUND, "process_not_found", str(other), {"pid": os.getpid()})
    except ProfileRunning as busy:
        return error(HTTPStatus.CONFLICT, "profile_running", str(busy))


def refused(header: Callable[[str], str | None], *, client: str) -> Answer | None:
    """Why a request is not answered, by its headers and where it came from; None if it may be.

    Only who is on this machine may ask, and has to have meant this machine: not a page in a browser, whose
    name leads here, or which comes from elsewhere; and not somebody for whom a proxy asks.
    """
    host = urlsplit(f"//{header('host') or ''}").hostname or ""
    proxies = [name for name in ("forwarded", "x-forwarded-for") if header(name) is not None]
    if not _is_loopback(client) or proxies:
        reason = "these pages are for this machine only; ask from here, at 127.0.0.1"
    elif host not in _LOOPBACK_NAMES:
        reason = f"the header Host is {host[:100]!r}; ask at 127.0.0.1"
    elif (header("sec-fetch-site") or "none") not in ("none", "same-origin"):
        reason = "another site's page may not ask this"
    else:
        return None
    return error(HTTPStatus.FORBIDDEN, "forbidden", reason)


def error(status: int, code: str, message: str, details: Mapping[str, object] | None = None) -> Answer:
    """An error as every part of the system tells it."""
    document = {"error": {"code": code, "message": message, "details": details}}
    return Answer(int(status), JSON, orjson.dumps(document))


class _Parameters:
    """What was asked for; a name that nobody reads, or twice the same, is wrong."""

    def __init__(self, query: str) -> None:
        pairs = parse_qsl(query, keep_blank_values=True)
        self._given = dict(pairs)
        if len(self._given) < len(pairs):
            raise InvalidInput("a parameter is given twice; give each once")

    def check_process(self) -> None:
        """Returns if this process is the one that was meant, where one was named.

        Raises:
            ProcessNotFound: if it has another id, because the port was another process' before.
        """
        meant = self._given.pop("pid", str(os.getpid()))
        if meant != str(os.getpid()):
            raise ProcessNotFound(f"this is process {os.getpid()}, not {meant[:20]}; that one has ended")

    def word(self, name: str, *known: str) -> str:
        """One of these words, the first if none is given."""
        found = self._given.pop(name, known[0])
        if found not in known:
            raise InvalidInput(f"{name}: {found[:50]!r} is not known; write one of {', '.join(known)}")
        return found

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within these bounds."""
        text = self._given.pop(name, None)
        try:
            found = default if text is None else float(text)
        except ValueError:
            found = float("nan")
        if not least <= found <= most:
            raise InvalidInput(f"{name}: {(text or '')[:50]!r} is not a number from {least:g} to {most:g}")
        return found

    def end(self, *known: str) -> None:
        """Returns if nothing else was given."""
        for name in self._given:
            raise InvalidInput(f"{name[:50]!r} is not a parameter here; known are {', '.join(known)}, pid")


def _threads(asked: _Parameters) -> Answer:
    as_text = asked.word("format", "json", "text") == "text"
    asked.end("format")
    threads = threads_now()
    if as_text:
        return Answer(HTTPStatus.OK, TEXT, threads_text(threads).encode())
    documents = [
        {
            "name": thread.name,
            "native_id": thread.native_id,
            "daemon": thread.is_daemon,
            "cpu_seconds": thread.cpu_s,
            "stack": [place._asdict() for place in thread.stack],
        }
        for thread in threads
    ]
    return _document({"threads": documents})


def _heap(asked: _Parameters) -> Answer:
    as_text = asked.word("format", "json", "text") == "text"
    starts = asked.word("start", "false", "true") == "true"
    stops = asked.word("stop", "false", "true") == "true"
    asked.end("format", "start", "stop")
    if starts and stops:
        raise InvalidInput("start begins to trace and stop ends it; say one of the two")
    heap = TRACING.start() if starts else TRACING.stop() if stops else TRACING.look()
    if as_text:
        return Answer(HTTPStatus.OK, TEXT, heap_text(heap).encode())
    places = {
        name: [
            {
                "file": grown.place.file,
                "line": grown.place.line,
                "bytes": grown.size,
                "objects": grown.count,
                "bytes_since_last": grown.since_last,
            }
            for grown in found
        ]
        for name, found in (("largest", heap.largest), ("growing", heap.growing))
    }
    return _document({**asdict(heap), **places})


def _profile(asked: _Parameters) -> Answer:
    form = asked.word("format", *_FORMATS)
    seconds = asked.number("seconds", DEFAULT_SECONDS, SHORTEST_S, LONGEST_S)
    hz = asked.number("hz", DEFAULT_HZ, 1, HIGHEST_HZ)
    asked.end("format", "seconds", "hz")
    content_type, write = _FORMATS[form]
    return Answer(HTTPStatus.OK, content_type, write(record(seconds, int(hz)).profile))


def _document(document: dict[str, Any]) -> Answer:
    body = orjson.dumps({"pid": os.getpid(), **document}, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Answer(HTTPStatus.OK, JSON, body)


def _is_loopback(client: str) -> bool:
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False


_FORMATS = {
    "svg": (SVG, formats.flame_graph),
    "speedscope": (JSON, formats.speedscope),
    "collapsed": (TEXT, formats.collapsed),
}
_ANSWERS: dict[str, Callable[[_Parameters], Answer]] = {
    "threads": _threads,
    "heap": _heap,
    "profile": _profile,
}
