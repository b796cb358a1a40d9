"""Who gets alerts: remembers every call, and answers as it is told to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from tests.serving import Answer, Request, Serving

SECRET_PATH = "/services/T000/planted-in-the-path-4711"


@dataclass(frozen=True)
class Call(Request):
    """A call that has arrived."""

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


class Receiver(Serving):
    """Serves on loopback, at a port that stays its own, for as long as it is entered."""

    protocol = "HTTP/1.0"  # so that one that is away is not reached by what is left of a connection

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.calls: list[Call] = []
        self.answer: Callable[[Call], tuple[int, dict[str, str]]] = lambda _call: (204, {})

    def respond(self, request: Request) -> Answer:
        call = Call(request.method, request.path, request.headers, request.body)
        self.calls.append(call)
        status, headers = self.answer(call)
        return Answer(status, headers)

    @property
    def url(self) -> str:
        return self.origin + SECRET_PATH

    @property
    def told(self) -> list[tuple[str, str]]:
        """The check and the status of every message, in the order in which they came."""
        return [(call.document["check"], call.document["status"]) for call in self.calls]
