"""An endpoint that records every call, and can be out of order.

Instants are in seconds since the epoch, to be compared with what Redis on the same machine stored.
"""

import asyncio
import time
import zlib
from dataclasses import dataclass

from tq.http_server import Connection, Request, Server

OK = 200
# Most calls are short; one in fifty is long enough to be cut off by whatever happens.
SHORTEST_S, LONGEST_S = 0.005, 0.04
LONG_S = 1.5
LONG_OF_A_THOUSAND = 20
# Some fail at first, so that retries are under way at any moment.
FAILED = 500
FAILED_OF_A_THOUSAND = 15


@dataclass(slots=True)
class Call:
    """A call that arrived; without an end it has not been answered."""

    key: str
    run: str
    task: str
    user: str
    attempt: int
    process: str
    begun: float
    ended: float | None = None
    status: int | None = None


class Endpoint(Server):
    """Serves on loopback, in a thread of its own, for as long as it is entered; `url` is where."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.state = ""

    def fail(self, how: str) -> None:
        """From now on answers `503`, lets calls `hang`, or `refuse`s callers; with `` all is well again."""
        asyncio.run_coroutine_threadsafe(self._change(how), self._loop).result()

    def connect(self) -> "_Caller":
        """What answers a new caller."""
        return _Caller(self)

    async def _change(self, how: str) -> None:
        self.state = how
        if how == "refuse":
            self.refuse()
        else:
            await self.accept_again()


class _Caller(Connection):
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._endpoint = endpoint

    def take(self, request: Request) -> None:
        told = request.headers.get
        attempt = told("x-attempt", "")
        self._call = Call(
            key=told("idempotency-key", "").strip('"'),
            run=told("x-run-id", ""),
            task=told("x-task-type", ""),
            user=told("x-user-id", ""),
            attempt=int(attempt) if attempt.isdecimal() else 0,
            process=told("x-process", ""),
            begun=_begun(told("webhook-timestamp", "")),
        )
        self._endpoint.calls.append(self._call)
        match self._endpoint.state:
            case "hang":
                pass
            case "503":
                self._answer(503)
            case _:
                chance = zlib.crc32(f"{self._call.key}{attempt}".encode())
                is_long = chance % 1000 < LONG_OF_A_THOUSAND
                is_failed = self._call.attempt == 1 and chance // 1000 % 1000 < FAILED_OF_A_THOUSAND
                takes = LONG_S if is_long else SHORTEST_S + chance % 97 / 97 * (LONGEST_S - SHORTEST_S)
                asyncio.get_running_loop().call_later(takes, self._answer, FAILED if is_failed else OK)

    def abandon(self) -> None:
        """The call stays without an answer."""

    def _answer(self, status: int) -> None:
        if self._taken is not None:
            self._call.ended, self._call.status = time.time(), status
            self.answer(status)


def _begun(sent: str) -> float:
    """When a call began: now, or, where we have been slow to look, at the end of the second in which it was sent."""
    now = time.time()
    return min(now, int(sent) + 1.0) if sent.isdecimal() else now
