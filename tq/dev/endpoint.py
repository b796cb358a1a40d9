"""The endpoint that `tq dev` calls: how it behaves, and what it remembers of each call.

It answers mostly well, and badly often enough that retries, backoff and final failures can be
watched. What it answers follows from a seed, the idempotency key, the attempt and the user alone,
so the same calls always fail in the same way, whoever makes them and whenever.

Its own tally of calls is the proof from outside: who was called, how often, and who was called
again although the job was done. GET /stats and GET /calls tell it, POST /reset clears it; every
other path is a task.
"""

import argparse
import asyncio
import hashlib
import os
import re
import signal
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qs

import orjson

from tq.errors import InvalidInput
from tq.http_server import HOST, Connection, Request, Server, listen
from tq.models import format_duration, parse_duration

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
    busy: float = 0.0005  # each holds the whole task for a second
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


class DemoEndpoint(Server):
    """The endpoint, with its tally."""

    def __init__(self, *, behaviour: Behaviour, seed: int) -> None:
        super().__init__()
        self.tally = Tally()
        self._behaviour = behaviour
        self._seed = seed
        self._served_lately: deque[float] = deque()  # monotonic seconds

    def connect(self) -> "_Connection":
        """What answers a new caller."""
        return _Connection(self)

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


class _Connection(Connection):
    """One caller of a task, or whoever asks about the tally.

    A caller that leaves before its answer is recorded as ABANDONED: it does not know what became
    of the job, so its next call for it is no duplicate.
    """

    def __init__(self, endpoint: DemoEndpoint) -> None:
        super().__init__(endpoint)
        self._endpoint = endpoint
        self._open: _OpenCall | None = None

    def take(self, request: Request) -> None:
        path, _, query = request.target.partition("?")
        match request.method, path:
            case "GET", "/stats":
                self.answer(200, self._endpoint.tally.stats())
            case "GET", "/calls":
                after = parse_qs(query).get("after", ["0"])[-1]
                if _NUMBER.fullmatch(after):
                    self.answer(200, self._endpoint.tally.calls_after(int(after)))
                else:
                    self.answer(
                        400, {"error": "after is not a number; write the last sequence number you have"}
                    )
            case "POST", "/reset":
                # Calls under way end in the old tally, so the new one begins with nothing.
                self._endpoint.tally = Tally()
                self.answer(200, {})
            case _, "/stats" | "/calls" | "/reset":
                self.answer(405, {"error": "read /stats and /calls, post to /reset"})
            case _:
                self._begin(_call_of(request, path))

    def abandon(self) -> None:
        if self._open is not None:
            self._open.timer.cancel()
            self._open.tally.end(self._open.call, ABANDONED)

    def _begin(self, call: Call) -> None:
        answer = self._endpoint.answer(call)
        tally = self._endpoint.tally
        tally.begin()
        timer = asyncio.get_running_loop().call_later(answer.after.total_seconds(), self._end)
        self._open = _OpenCall(call, answer.status, tally, timer)

    def _end(self) -> None:
        if self._open is not None:
            (call, status, tally, _), self._open = self._open, None
            tally.end(call, status)
            told = {"task": call.task, "user": call.user}
            self.answer(status, told, retry_after=1 if status in (429, 503) else None)


class _OpenCall(NamedTuple):
    call: Call
    status: int
    tally: Tally
    timer: asyncio.TimerHandle


_NUMBER = re.compile(r"[0-9]{1,18}")
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
        listener = listen(chosen.port)
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
