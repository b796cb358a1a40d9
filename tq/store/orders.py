"""What operators order while the system runs: other rates, and pauses.

An order stays until it is withdrawn, whatever restarts. It goes before what is configured, which
it does not change. The limiter reads orders at every exchange, and every order is told to all
processes, so that it is in force with the next call.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from tq.clock import from_ms, iso, to_ms
from tq.errors import InvalidInput
from tq.limits import EVERY_TASK
from tq.models import parse_rate
from tq.models.ids import ID_PATTERN, ID_RULE
from tq.store.connection import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RateOrder:
    """A rate, in calls per second, in place of the configured one: held exactly if it is pinned, else a ceiling."""

    rate: float
    pinned: bool
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no call begins; without an end it lasts until it is withdrawn."""

    reason: str
    by: str
    since: datetime
    until: datetime | None

    def __str__(self) -> str:
        """In words, such as `paused by ada@ops until 2026-11-24 12:00:00 UTC: maintenance`."""
        by = f" by {self.by}" if self.by else ""
        until = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else ""
        return f"paused{by}{until}{f': {self.reason}' if self.reason else ''}"


class InForce(NamedTuple):
    """All orders of one instant, by scope."""

    rates: Mapping[str, RateOrder]
    pauses: Mapping[str, Pause]


class Orders:
    """The orders in force. A scope is a task's id, or `EVERY_TASK` for all tasks together."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def set_rate(self, scope: str, per_second: float, *, pinned: bool = False, by: str = "") -> None:
        """Has a rate hold in place of the configured one.

        Raises:
            InvalidInput: if it is no rate, or the scope is none.
        """
        try:
            rate = parse_rate(per_second)
        except ValueError as error:
            raise InvalidInput(f"rate: {error}") from None
        self._order("rate", scope, {"rate": rate, "pinned": pinned, "by": by})

    def reset_rate(self, scope: str) -> bool:
        """Has the configured rate hold again; False if it did already."""
        return self._order("rate", scope, None) == 1

    def pause(self, scope: str, *, reason: str = "", by: str = "", until: datetime | None = None) -> None:
        """Has no call begin; what is paused already stays so, with this reason and end.

        Raises:
            InvalidInput: if the end is past by Redis' time, or the scope is none.
        """
        if self._order("pause", scope, pause_order(reason, by, until)) < 0 and until is not None:
            raise end_is_past(until)

    def resume(self, scope: str) -> bool:
        """Ends a pause; False if there was none."""
        return self._order("pause", scope, None) == 1

    def in_force(self) -> InForce:
        """All orders."""
        rates, pauses = self._redis.script("orders")
        return InForce(_read(rates, _rate_of), _read(pauses, pause_of))

    def rates(self) -> Mapping[str, RateOrder]:
        """The rates that were ordered, by scope."""
        return self.in_force().rates

    def pauses(self) -> Mapping[str, Pause]:
        """The pauses that hold, by scope."""
        return self.in_force().pauses

    def _order(self, kind: Literal["rate", "pause"], scope: str, order: dict[str, Any] | None) -> int:
        if scope != EVERY_TASK and not re.fullmatch(ID_PATTERN, scope):
            raise InvalidInput(
                f"{scope!r} cannot be the id of a task; write {ID_RULE}, or {EVERY_TASK} for all"
            )
        return int(self._redis.script("order", kind, scope, orjson.dumps(order) if order else ""))


def pause_order(reason: str, by: str, until: datetime | None) -> dict[str, Any]:
    """A pause as scripts are given it; they add since when it holds."""
    return {"reason": reason, "by": by, **({"until": to_ms(until)} if until else {})}


def pause_of(order: dict[str, Any]) -> Pause:
    """The pause that a script has kept."""
    until = order.get("until")
    return Pause(order["reason"], order["by"], from_ms(order["since"]), from_ms(until) if until else None)


def end_is_past(until: datetime) -> InvalidInput:
    """The error of a pause that would be over already."""
    return InvalidInput(f"until: {iso(until)} is past; write an instant that is to come")


def _read(answer: list[str], order_of: Callable[[dict[str, Any]], T]) -> dict[str, T]:
    return {
        scope: order_of(orjson.loads(text)) for scope, text in zip(answer[::2], answer[1::2], strict=True)
    }


def _rate_of(order: dict[str, Any]) -> RateOrder:
    return RateOrder(float(order["rate"]), order["pinned"], order["by"], from_ms(order["at"]))
