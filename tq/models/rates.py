"""Rates as operators write them: `50`, `50/s`, `30/m`, `3000/h`; kept as calls per second."""

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BeforeValidator, Discriminator, Tag, model_validator

from tq.models.base import Model

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(?:/\s*([smh]))?", re.ASCII)
RATE_RULE = "calls per second, or with a unit: 50, 50/s, 30/m, 3000/h"
SLOWEST = 1 / 3600  # what was granted longer ago need not be remembered
FASTEST = 1_000_000.0  # far more than one Redis could tell workers, and far from any overflow
# How pydantic names the two forms of a limit in the location of an error.
_NUMBER, _BAND = "rate", "band"
FORMS = frozenset({_NUMBER, _BAND})


class Strategy(StrEnum):
    """How a rate is chosen."""

    ADAPTIVE = "adaptive"  # the highest below a ceiling that the endpoint copes with
    STEPPED = "stepped"  # one of three, by the error rate of the last minute


def parse_rate(value: object) -> float:
    """Calls per second.

    Raises:
        ValueError: if it is no rate; the message names the value and the remedy.
    """
    rate = _read(value)
    if rate is None:
        raise ValueError(f"{value!r} is not a rate; write {RATE_RULE}")
    if rate <= 0:
        raise ValueError(f"{value!r} is too small; write more than 0")
    if rate < SLOWEST:
        raise ValueError(f"{value!r} is too small; write at least 1/h")
    if rate > FASTEST:
        raise ValueError(f"{value!r} is too large; write at most {FASTEST:.0f}/s")
    return rate


def _read(value: object) -> float | None:
    if isinstance(value, str):
        match = _RATE.fullmatch(value.strip())
        return _finite(float(match[1]) / _SECONDS[match[2] or "s"]) if match else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    return None


def _finite(number: float) -> float | None:
    try:
        return float(number) if math.isfinite(number) else None
    except OverflowError:  # an int that no float can hold
        return None


def format_rate(rate: float) -> str:
    """The rate for people, in the unit in which it is at least 1: `50/s`, `30/m`, `12/h`."""
    unit = next((unit for unit, seconds in _SECONDS.items() if rate * seconds >= 1), "h")
    count = rate * _SECONDS[unit]
    return f"{count:.0f}/{unit}" if count >= 1000 else f"{count:.4g}/{unit}"


Rate = Annotated[float, BeforeValidator(parse_rate)]


class RateBand(Model):
    """Three rates for the strategy `stepped`: usually `base`, `min` in trouble, `max` when all is well."""

    base: Rate
    min: Rate
    max: Rate

    @model_validator(mode="after")
    def _are_in_order(self) -> Self:
        if not self.min <= self.base <= self.max:
            raise ValueError(
                f"min {self.min:g}, base {self.base:g}, max {self.max:g} are not in order; "
                "write min <= base <= max"
            )
        return self

    def __str__(self) -> str:
        return (
            f"{format_rate(self.base)}, from {format_rate(self.min)} in trouble "
            f"to {format_rate(self.max)} when all is well"
        )


def _form_of(value: Any) -> str:
    return _BAND if isinstance(value, Mapping | RateBand) else _NUMBER


# Told apart by their form, so that an error speaks of what was written and not of the other form, too.
RateLimit: TypeAlias = Annotated[
    Annotated[Rate, Tag(_NUMBER)] | Annotated[RateBand, Tag(_BAND)], Discriminator(_form_of)
]
