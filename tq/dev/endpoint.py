"""The endpoint that `tq dev` calls: how it behaves, and what it remembers of each call.

It answers mostly well, and badly often enough that retries, backoff and final failures can be
watched. What it answers follows from a seed, the idempotency key, the attempt and the user alone,
so the same calls always fail in the same way, whoever makes them and whenever.

Its own tally of calls is the proof from outside: who was called, how often, and who was called
again although the job was done. GET /stats and GET /calls tell it, POST /reset clears it; every
other path is a task.

The server is written on asyncio.Protocol, because one process has to answer thousands of calls a
second while the workers that make them share the machine.
"""

import argparse
import asyncio
import hashlib
import os
import re
import signal
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast
from urllib.parse import parse_qs

import orjson

from tq.errors import InvalidInput
from tq.models import format_duration, parse_duration

HOST = "127.0.0.1"
BACKLOG = 1024  # all of a worker's connections may be opened in the same instant
MAX_HEAD_BYTES = 32 * 1024
MAX_WAITING_BYTES = 64 * 1024  # of further requests on a connection whose last one is being answered
KEPT_CALLS = 200_000
MAX_JOBS = 5_000_000  # about half a gigabyte; later jobs are answered but no longer told apart
SLOW_FROM, SLOW_TO = timedelta(milliseconds=300), timedelta(milliseconds=800)
RATES = ("slow", "flaky", "busy", "rejected", "broken")
ABANDONED = 499  # nginx' word for a caller that left before the answer


class Answer(NamedTuple):
    """What a call gets, and how long that takes."""

    status: int
    after: timedelta


@dataclass(frozen=True)
class Behaviour:
    """How often what goes wrong; rates are shares of 1.

    `slow` calls take 300 to 800 ms. `flaky` jobs get 500 and `busy` ones 503 with `Retry-After: 1`
    at their first attempt. `rejected` users always get 422, `broken` ones always 500. All else is
    answered 200 after `fastest` to `slowest`. Beyond `limit_per_second` a call gets 429. Where two
    rates make more than 1 together, the first of flaky and busy, rejected and broken has its share.
    """

    slow: float = 0.03
    flaky: float = 0.04
    busy: float = 0.01
    rejected: float = 0.01
    broken: float = 0.005
    fastest: timedelta = timedelta(milliseconds=5)
    slowest: timedelta = timedelta(milliseconds=50)
    limit_per_second: int | None = None

    def __post_init__(self) -> None:
        for name in RATES:
            rate: float = getattr(self, name)
            if not 0 <= rate <= 1:
                raise InvalidInput(f"{name} is {rate}; write a share from 0 to 1")
        if self.fastest > self.slowest:
            raise InvalidInput(
                f"fastest is {format_duration(self.fastest)} and slowest {format_duration(self.slowest)}; "
                "lower fastest, or raise slowest"
            )
        if self.limit_per_second is not None and self.limit_per_second < 1:
            raise InvalidInput(
                f"limit_per_second is {self.limit_per_second}; write at least 1, or none for no limit"
            )

    @classmethod
    def perfect(cls) -> Self:
        """Nothing goes wrong, and nothing is slow."""
        return cls(slow=0, flaky=0, busy=0, rejected=0, broken=0)

    def answer(self, *, seed: int, key: str, attempt: int, user: str) -> Answer:
        """What one call gets: always the same for the same seed, key, attempt and user."""
        trouble, slowness, share = _draws(seed, "job", key, attempt)
        fate, _, _ = _draws(seed, "user", user)
        shortest, longest = (SLOW_FROM, SLOW_TO) if slowness < self.slow else (self.fastest, self.slowest)
        after = shortest + (longest - shortest) * share
        if fate < self.rejected:
            return Answer(422, after)
        if fate < self.rejected + self.broken:
            return Answer(500, after)
        if attempt == 1 and trouble < self.flaky:
            return Answer(500, after)
        if attempt == 1 and trouble < self.flaky + self.busy:
            return Answer(503, after)
        return Answer(200, after)


def _draws(*about: object) -> tuple[float, float, float]:
    """Three independent numbers in [0, 1) that depend on nothing but what they are about."""
    text = "\0".join(map(str, about))
    digest = hashlib.blake2b(text.encode(), digest_size=24).digest()
    one, two, three = struct.unpack("<3Q", digest)
    return (one >> 11) / 2**53, (two >> 11) / 2**53, (three >> 11) / 2**53


class Call(NamedTuple):
    """A call to a task, as its headers tell it; `started` is in seconds since the epoch."""

    task: str
    key: str
    user: str
    attempt: int
    started: float


class Tally:
    """What is remembered of the calls; bounded, whatever comes."""

    def __init__(self, *, max_jobs: int = MAX_JOBS, kept_calls: int = KEPT_CALLS) -> None:
        self._max_jobs = max_jobs
        self._calls = 0
        self._by_status: Counter[int] = Counter()
        self._duplicates = 0
        self._concurrent = 0
        self._max_concurrent = 0
        self._jobs: dict[bytes, bool] = {}  # digest of the key: whether it was answered 2xx
        self._jobs_succeeded = 0
        self._latest: deque[tuple[Call, int, float]] = deque(maxlen=kept_calls)

    def begin(self) -> None:
        """Count a call that is being worked on."""
        self._concurrent += 1
        self._max_concurrent = max(self._max_concurrent, self._concurrent)

    def end(self, call: Call, status: int) -> None:
        """Record a call that was begun, and how it was answered."""
        self._concurrent -= 1
        self._calls += 1
        self._by_status[status] += 1
        self._latest.append((call, status, time.time()))
        if call.key:
            self._end_job(hashlib.blake2b(call.key.encode(), digest_size=16).digest(), status)

    def _end_job(self, job: bytes, status: int) -> None:
        # Decided when the call ends, so that two calls side by side for one job count as well.
        had_succeeded = self._jobs.get(job)
        if had_succeeded is None and len(self._jobs) >= self._max_jobs:
            return
        succeeds = 200 <= status < 300
        self._duplicates += bool(had_succeeded)
        self._jobs_succeeded += succeeds and not had_succeeded
        self._jobs[job] = bool(had_succeeded) or succeeds

    def stats(self) -> dict[str, object]:
        """The sums.

        `calls` are those that have ended, `successes` those answered 2xx, `duplicates` those whose
        job had been answered 2xx before. `distinct_jobs` counts idempotency keys, `jobs_succeeded`
        those of them answered 2xx at least once.
        """
        return {
            "calls": self._calls,
            "successes": sum(count for status, count in self._by_status.items() if 200 <= status < 300),
            "duplicates": self._duplicates,
            "distinct_jobs": len(self._jobs),
            "jobs_succeeded": self._jobs_succeeded,
            "by_status": {str(status): self._by_status[status] for status in sorted(self._by_status)},
            "max_concurrent": self._max_concurrent,
        }

    def calls_after(self, sequence: int) -> list[dict[str, object]]:
        """The calls numbered higher than that, as far as they are still kept, in the order of their end."""
        first = self._calls - len(self._latest) + 1
        skipped = max(0, sequence + 1 - first)
        return [
            {"sequence": number, **call._asdict(), "status": status, "ended": ended}
            for number, (call, status, ended) in enumerate(
                islice(self._latest, skipped, None), start=first + skipped
            )
        ]


class DemoEndpoint:
    """An HTTP server on 127.0.0.1. As a context manager it runs in a thread of its own, on a free port."""

    def __init__(self, *, behaviour: Behaviour, seed: int) -> None:
        self.tally = Tally()
        self._behaviour = behaviour
        self._seed = seed
        self._connections: set[_Connection] = set()
        self._served_lately: deque[float] = deque()  # monotonic seconds

    async def serve(self, listener: socket.socket, *, until: asyncio.Event) -> None:
        """Answer what comes to a listening socket until the event is set; then drop every connection."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=BACKLOG)
        await until.wait()
        server.close()
        for connection in self._connections:
            connection.drop()
        await asyncio.sleep(0)  # asyncio tells a connection of its end in the next turn of the loop

    def __enter__(self) -> Self:
        listener = _listen(0)
        self.url = f"http://{HOST}:{listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve_in_thread, args=(listener,), name="demo-endpoint")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve_in_thread(self, listener: socket.socket) -> None:
        try:
            self._loop.run_until_complete(self.serve(listener, until=self._stop))
        finally:
            self._loop.close()

    def joined_by(self, connection: "_Connection") -> None:
        """Remember an open connection."""
        self._connections.add(connection)

    def left_by(self, connection: "_Connection") -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)

    def answer(self, call: Call) -> Answer:
        """What the call gets. It counts against the limit."""
        if self._is_over_limit():
            return Answer(429, timedelta(0))
        return self._behaviour.answer(seed=self._seed, key=call.key, attempt=call.attempt, user=call.user)

    def _is_over_limit(self) -> bool:
        limit = self._behaviour.limit_per_second
        if limit is None:
            return False
        now = time.monotonic()
        lately = self._served_lately
        while lately and lately[0] <= now - 1:
            lately.popleft()
        if len(lately) >= limit:
            return True
        lately.append(now)
        return False


class Request(NamedTuple):
    """A request whose body has arrived, and was passed over: all that counts is in the headers."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool


class Refusal(NamedTuple):
    """Why a stream of bytes is not, or no longer, a request; nothing after it can be understood."""

    status: int
    reason: str


class RequestReader:
    """Makes requests out of bytes as they come, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._missing = 0  # bytes of that request's body

    @property
    def waiting_bytes(self) -> int:
        """How much has come that was not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def next_request(self) -> Request | Refusal | None:
        """The next complete request, or None until more has come. After a refusal nothing follows."""
        if self._request is None:
            head = self._take_head()
            if not isinstance(head, str):
                return head
            parsed = _parse_head(head)
            if isinstance(parsed, Refusal):
                return parsed
            self._request, self._missing = parsed
        passed_over = min(self._missing, len(self._buffer))
        del self._buffer[:passed_over]
        self._missing -= passed_over
        if self._missing:
            return None
        request, self._request = self._request, None
        return request

    def _take_head(self) -> str | Refusal | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # some clients send one too many after a body
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        # Looked for before the head is complete: whoever ends lines with \n would wait forever.
        if _NO_HEAD.search(buffer, 0, end + 4 if end >= 0 else MAX_HEAD_BYTES):
            return Refusal(400, "a line break that is not \\r\\n, or a control character, in the head")
        if end >= 0:
            head = buffer[:end].decode("latin-1")
            del buffer[: end + 4]
            return head
        if len(buffer) >= MAX_HEAD_BYTES:
            return Refusal(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        return None


_NO_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


def _parse_head(head: str) -> tuple[Request, int] | Refusal:
    """The request and the length of its body."""
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[2].startswith("HTTP/"):
        return Refusal(400, "the first line is not METHOD /path HTTP/1.1")
    method, target, version = words
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if not target.startswith("/"):
        return Refusal(400, "the target does not begin with /")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            return Refusal(400, "a header is not Name: value")
        name, text = name.lower(), text.strip(" \t")
        if headers.setdefault(name, text) != text and name == "content-length":
            return Refusal(400, "two lengths that differ")
    if "transfer-encoding" in headers:
        return Refusal(411, "a body needs Content-Length; chunks are not read here")
    if method not in _METHODS:
        return Refusal(405, f"only {', '.join(sorted(_METHODS))} are answered here")
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        return Refusal(400, "Content-Length is not a number of bytes")
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return Request(method, target, headers, keep_alive), int(length)


class _Connection(asyncio.Protocol):
    """One caller. Its requests are answered one after the other, in their order.

    A caller that leaves before its answer is recorded as ABANDONED: it does not know what became
    of the job, so its next call for it is no duplicate.
    """

    def __init__(self, endpoint: DemoEndpoint) -> None:
        self._endpoint = endpoint
        self._reader = RequestReader()
        self._open: _OpenCall | None = None
        self._is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a stream server's transports are such
        self._endpoint.joined_by(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._endpoint.left_by(self)
        if self._open is not None:
            self._open.timer.cancel()
            self._open.tally.end(self._open.call, ABANDONED)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._advance()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._advance()

    def drop(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _advance(self) -> None:
        while self._open is None and self._is_writable and not self._transport.is_closing():
            request = self._reader.next_request()
            if request is None:
                break
            if isinstance(request, Refusal):
                self._write(request.status, {"error": request.reason}, keep_alive=False)
            else:
                self._take(request)
        if self._reader.waiting_bytes > MAX_WAITING_BYTES:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _take(self, request: Request) -> None:
        path, _, query = request.target.partition("?")
        match request.method, path:
            case "GET", "/stats":
                self._write(200, self._endpoint.tally.stats(), keep_alive=request.keep_alive)
            case "GET", "/calls":
                after = parse_qs(query).get("after", ["0"])[-1]
                if _LENGTH.fullmatch(after):
                    calls = self._endpoint.tally.calls_after(int(after))
                    self._write(200, calls, keep_alive=request.keep_alive)
                else:
                    error = {"error": "after is not a number; write the last sequence number you have"}
                    self._write(400, error, keep_alive=request.keep_alive)
            case "POST", "/reset":
                # Calls under way end in the old tally, so the new one begins with nothing.
                self._endpoint.tally = Tally()
                self._write(200, {}, keep_alive=request.keep_alive)
            case _, "/stats" | "/calls" | "/reset":
                self._write(
                    405, {"error": "read /stats and /calls, post to /reset"}, keep_alive=request.keep_alive
                )
            case _:
                self._begin(_call_of(request, path), keep_alive=request.keep_alive)

    def _begin(self, call: Call, *, keep_alive: bool) -> None:
        answer = self._endpoint.answer(call)
        tally = self._endpoint.tally
        tally.begin()
        timer = asyncio.get_running_loop().call_later(answer.after.total_seconds(), self._end)
        self._open = _OpenCall(call, answer.status, tally, timer, keep_alive)

    def _end(self) -> None:
        if self._open is None:
            return
        ended, self._open = self._open, None
        ended.tally.end(ended.call, ended.status)
        self._write(
            ended.status, {"task": ended.call.task, "user": ended.call.user}, keep_alive=ended.keep_alive
        )
        self._advance()

    def _write(self, status: int, body: object, *, keep_alive: bool) -> None:
        content = orjson.dumps(body)
        lines = [
            f"HTTP/1.1 {status} {_PHRASES.get(status, '')}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        if status in (429, 503):
            lines.append("Retry-After: 1")
        if not keep_alive:
            lines.append("Connection: close")
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + content)
        if not keep_alive:
            self._transport.close()


class _OpenCall(NamedTuple):
    call: Call
    status: int
    tally: Tally
    timer: asyncio.TimerHandle
    keep_alive: bool


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")


def _call_of(request: Request, path: str) -> Call:
    headers = request.headers
    attempt = headers.get("x-attempt", "")
    return Call(
        task=path.strip("/"),
        key=headers.get("idempotency-key", "").strip('"') or headers.get("webhook-id", ""),
        user=headers.get("x-user-id", ""),
        attempt=int(attempt) if _ATTEMPT.fullmatch(attempt) else 1,
        started=time.time(),
    )


def _listen(port: int) -> socket.socket:
    return socket.create_server((HOST, port), backlog=BACKLOG)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the endpoint as a process of its own, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tq.dev.endpoint", description="The endpoint of tq dev.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--seed", type=int, default=1, help="another seed fails other calls (default: 1)")
    parser.add_argument(
        "--announce", type=Path, help="the file that gets port and pid, as JSON, once it listens"
    )
    for name in RATES:
        parser.add_argument(f"--{name}", type=float, default=getattr(Behaviour, name), help="a share of 1")
    for name in ("fastest", "slowest"):
        parser.add_argument(
            f"--{name}", type=_duration, default=getattr(Behaviour, name), help="such as 20ms"
        )
    parser.add_argument("--limit-per-second", type=int, help="calls beyond it get 429 (default: no limit)")
    chosen = parser.parse_args(arguments)
    try:
        behaviour = Behaviour(**{field.name: getattr(chosen, field.name) for field in fields(Behaviour)})
    except InvalidInput as error:
        parser.error(str(error))
    try:
        listener = _listen(chosen.port)
    except OSError as error:
        parser.exit(1, f"cannot listen on {HOST}:{chosen.port}: {error}; choose another --port\n")
    asyncio.run(
        _serve_until_signal(DemoEndpoint(behaviour=behaviour, seed=chosen.seed), listener, chosen.announce)
    )


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _serve_until_signal(endpoint: DemoEndpoint, listener: socket.socket, announce: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if announce is not None:
        _announce(listener, announce)
    await endpoint.serve(listener, until=stop)


def _announce(listener: socket.socket, file: Path) -> None:
    # Whoever waits for the file must never read half of it.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_bytes(orjson.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}))
    draft.replace(file)


if __name__ == "__main__":
    main()
