"""An HTTP endpoint that remembers every call, and can be told to hold calls back or to answer otherwise."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tests.serving import Answer, Request, Serving


@dataclass(frozen=True)
class Seen:
    """A call that has arrived."""

    path: str
    key: str
    user: str
    attempt: str
    authorization: str
    body: bytes
    traceparent: str = ""


class Endpoint(Serving):
    """Serves on loopback for as long as it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], int] = lambda _seen: 200
        self.says: Callable[[Seen], bytes] = lambda _seen: b""
        self._free = threading.Event()
        self._free.set()

    def respond(self, request: Request) -> Answer:
        """Remembers the call, and answers once calls may end."""
        headers = request.headers
        call = Seen(
            path=request.path,
            key=headers.get("Idempotency-Key", ""),
            user=headers.get("X-User-ID", ""),
            attempt=headers.get("X-Attempt", ""),
            authorization=headers.get("Authorization", ""),
            body=request.body,
            traceparent=headers.get("traceparent", ""),
        )
        self.seen.append(call)
        self._free.wait(timeout=60)
        return Answer(self.answer(call), body=self.says(call))

    @property
    def url(self) -> str:
        """Where it is."""
        return self.origin

    def hold(self) -> None:
        """Lets no call end."""
        self._free.clear()

    def let_go(self) -> None:
        """Lets all calls end."""
        self._free.set()

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        super().__exit__(type_, error, trace)
