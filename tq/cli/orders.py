"""What commands that order something have in common: how a pause is written, and who gives the order."""

import getpass
import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from tq.cli.arguments import duration_of, instant_of, reason_of
from tq.errors import InvalidInput

if TYPE_CHECKING:
    from tq.store import Store

SHORTEST_PAUSE = timedelta(seconds=1)

PauseReason = Annotated[str, typer.Option("--reason", help="Why, for whoever looks.")]
PauseUntil = Annotated[
    str | None,
    typer.Option("--until", help="When it ends by itself: RFC 3339, in UTC where it names no zone."),
]
PauseLength = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="After how long it ends by itself: 30m, 2h."),
]


@dataclass(frozen=True)
class WrittenPause:
    """A pause as it stands on the command line; it ends by itself at an instant, after a time, or never."""

    reason: str
    end: datetime | None
    lasts: timedelta | None

    def until(self, store: "Store") -> datetime | None:
        """When it ends by itself, by Redis' time."""
        return self.end if self.lasts is None else store.now() + self.lasts


def pause_written(reason: str, until: str | None, length: str | None) -> WrittenPause:
    """The pause that the options say.

    Raises:
        InvalidInput: names the option, what was found and what is allowed.
    """
    if until is not None and length is not None:
        raise InvalidInput("a pause ends --until an instant, or has lasted --for a time; say one of the two")
    return WrittenPause(
        end=None if until is None else instant_of("--until", until),
        lasts=None if length is None else duration_of("--for", length, least=SHORTEST_PAUSE),
        reason=reason_of(" ".join(reason.split())),
    )


def operator() -> str:
    """Who gives an order, as far as the machine knows: `ada@ops-1`."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        login = str(os.getuid())
    return f"{login}@{socket.gethostname()}"
