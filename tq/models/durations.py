"""Durations as people write them: `30s`, `5m`, `1h30m`, `2d`, `1.5h`, or a number of seconds.

This covers what Go's time.ParseDuration accepts for positive values, plus days.
"""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
DURATION_RULE = "30s, 5m, 1h30m, 2d, or a number of seconds"
LONGEST = timedelta(days=3660)  # ten years: more is a slip of the pen, and far from any overflow


def parse_duration(value: object) -> timedelta:
    """The duration that was written.

    Raises:
        ValueError: if it is not one, is negative, or is longer than ten years.
    """
    duration = _read(value)
    if duration is None or not timedelta(0) <= duration <= LONGEST:
        raise ValueError(f"{value!r} is not a duration; write {DURATION_RULE}")
    return duration


def _read(value: object) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return timedelta(seconds=value) if 0 <= value <= LONGEST.total_seconds() else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _read(float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    seconds = sum(float(number) * _UNITS[unit].total_seconds() for number, unit in parts)
    return _read(seconds)


def format_duration(duration: timedelta) -> str:
    """The shortest exact text: `1h30m`, `2d`, `250ms`; what `parse_duration` reads back."""
    rest = duration // timedelta(milliseconds=1)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def _validate(value: Any) -> timedelta:
    return parse_duration(value)


Duration = Annotated[timedelta, BeforeValidator(_validate)]
