"""How often a task type falls due, as declared. When that is, `tq.schedule` decides."""

import re
from datetime import date
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import Field, field_serializer, field_validator, model_validator

from tq.clock import EPOCH
from tq.models.base import Model

USER_ZONE = "user"
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
# Every N is bounded so that no grid step can leave the calendar: a thousand years of months.
MAX_VALUE = 12_000


LONGEST_EXPRESSION = 100  # it is part of keys


class IntervalType(StrEnum):
    """The unit that an interval counts."""

    MINUTELY = "minutely"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    CRON = "cron"


SUB_DAILY = frozenset({IntervalType.MINUTELY, IntervalType.HOURLY})


class FixedTime(Model):
    """A wall time of day."""

    hour: int = Field(ge=0, le=23)
    minute: int = Field(default=0, ge=0, le=59)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The wall time written as `HH:MM`.

        Raises:
            ValueError: if it is not one.
        """
        match = _CLOCK_TIME.fullmatch(text.strip())
        if match is None:
            raise ValueError(f'{text!r} is not a time of day; write "HH:MM", for example "09:00"')
        return cls(hour=int(match[1]), minute=int(match[2]))

    def __str__(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"


class Interval(Model):
    """A fixed grid of instants: every `value` minutes, hours, days, weeks or months, or a cron expression."""

    type: IntervalType
    value: Annotated[int, Field(ge=1, le=MAX_VALUE)] = 1
    timezone: str = "UTC"
    at_time: FixedTime | None = None
    weekday: str | None = None
    day: int | Literal["last"] | None = None
    expression: str | None = None
    anchor: date | None = None

    @field_validator("at_time", mode="before")
    @classmethod
    def _read_time(cls, value: Any) -> Any:
        return FixedTime.parse(value) if isinstance(value, str) else value

    @field_serializer("at_time")
    def _write_time(self, value: FixedTime | None) -> str | None:
        return None if value is None else str(value)

    @field_validator("value", "day", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"{str(value).lower()} is not a number")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return value if value == USER_ZONE else known_zone(value)

    @field_validator("weekday", mode="before")
    @classmethod
    def _read_weekday(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = value.strip().lower()
        if text in _FULL_NAMES:
            return text[:3]
        if text in WEEKDAYS:
            return text
        raise ValueError(f"{value!r} is not a weekday; write one of {', '.join(WEEKDAYS)}")

    @field_validator("day")
    @classmethod
    def _day_of_month(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 1 <= value <= 31:
            raise ValueError(f"{value} is not a day of a month; write 1 to 31, or last")
        return value

    @field_validator("expression")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = " ".join(value.split())
        if len(text) > LONGEST_EXPRESSION:
            raise ValueError(f"the expression has {len(text)} characters; write at most {LONGEST_EXPRESSION}")
        if len(text.split()) != 5:
            raise ValueError(
                f"{value!r} is not a cron expression; write five fields: minute hour day month weekday"
            )
        try:
            CronSim(text, EPOCH)
        except CronSimError as error:
            raise ValueError(f"{value!r} is not a cron expression: {error}") from None
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        allowed: dict[str, frozenset[IntervalType]] = {
            "at_time": frozenset({IntervalType.DAILY, IntervalType.WEEKLY, IntervalType.MONTHLY}),
            "weekday": frozenset({IntervalType.WEEKLY}),
            "day": frozenset({IntervalType.MONTHLY}),
            "expression": frozenset({IntervalType.CRON}),
            "anchor": frozenset(IntervalType) - {IntervalType.CRON},
        }
        for key, types in allowed.items():
            if getattr(self, key) is not None and self.type not in types:
                raise ValueError(f"{key} goes with {' or '.join(sorted(types))}, not with {self.type}")
        if self.type is IntervalType.CRON and self.expression is None:
            raise ValueError('a cron interval needs an expression, for example "0 9 * * mon-fri"')
        if self.type is IntervalType.CRON and self.value != 1:
            raise ValueError(
                f"value goes with every type but cron; the expression says how often, so drop value: {self.value}"
            )
        return self

    @classmethod
    def minutely(cls, every: int = 1, *, anchor: date | None = None) -> Self:
        """Every N minutes of elapsed time."""
        return cls(type=IntervalType.MINUTELY, value=every, anchor=anchor)

    @classmethod
    def hourly(cls, every: int = 1, *, anchor: date | None = None) -> Self:
        """Every N hours of elapsed time."""
        return cls(type=IntervalType.HOURLY, value=every, anchor=anchor)

    @classmethod
    def daily(
        cls, every: int = 1, *, at: str = "00:00", timezone: str = "UTC", anchor: date | None = None
    ) -> Self:
        """Every N days at a wall time."""
        return cls(
            type=IntervalType.DAILY,
            value=every,
            at_time=FixedTime.parse(at),
            timezone=timezone,
            anchor=anchor,
        )

    @classmethod
    def weekly(
        cls,
        weekday: str = "mon",
        *,
        every: int = 1,
        at: str = "00:00",
        timezone: str = "UTC",
        anchor: date | None = None,
    ) -> Self:
        """Every N weeks on one weekday at a wall time."""
        return cls(
            type=IntervalType.WEEKLY,
            value=every,
            weekday=weekday,
            at_time=FixedTime.parse(at),
            timezone=timezone,
            anchor=anchor,
        )

    @classmethod
    def monthly(
        cls,
        day: int | Literal["last"] = 1,
        *,
        every: int = 1,
        at: str = "00:00",
        timezone: str = "UTC",
        anchor: date | None = None,
    ) -> Self:
        """Every N months on one day at a wall time; a day that a month lacks is its last."""
        return cls(
            type=IntervalType.MONTHLY,
            value=every,
            day=day,
            at_time=FixedTime.parse(at),
            timezone=timezone,
            anchor=anchor,
        )

    @classmethod
    def cron(cls, expression: str, *, timezone: str = "UTC") -> Self:
        """Whenever a five-field cron expression matches the wall time."""
        return cls(type=IntervalType.CRON, expression=expression, timezone=timezone)

    @property
    def uses_user_zone(self) -> bool:
        """Whether each user's own time zone decides."""
        return self.timezone == USER_ZONE

    def in_zone(self, zone: str) -> Self:
        """The interval as it is for a user who lives in `zone`."""
        return self.model_copy(update={"timezone": zone}) if self.uses_user_zone else self

    @property
    def wall_time(self) -> FixedTime:
        """The time of day at which daily, weekly and monthly intervals fall due; midnight if none is set."""
        return self.at_time or FixedTime(hour=0)

    @property
    def canonical(self) -> str:
        """One text for equal intervals, short enough for a key: `weekly/1/mon/09:00@user`."""
        if self.type is IntervalType.CRON:
            return f"{self.type}/{self.expression}@{self.timezone}"
        parts = [self.type.value, str(self.value)]
        if self.type is IntervalType.WEEKLY:
            parts.append(self.weekday or WEEKDAYS[0])
        if self.type is IntervalType.MONTHLY:
            parts.append(str(self.day or 1))
        if self.type not in SUB_DAILY:
            parts.append(str(self.wall_time))
        if self.anchor is not None:
            parts.append(f"from {self.anchor}")
        return f"{'/'.join(parts)}@{self.timezone}"

    @classmethod
    def from_canonical(cls, text: str) -> Self:
        """The interval whose canonical text this is.

        Raises:
            ValueError: if it is not one.
        """
        rest, _, zone = text.rpartition("@")
        kind, _, rest = rest.partition("/")
        fields: dict[str, Any] = {"type": kind, "timezone": zone}
        if kind == IntervalType.CRON:
            return cls.model_validate({**fields, "expression": rest})
        value, *parts = rest.split("/")
        fields["value"] = value
        if parts and parts[-1].startswith("from "):
            fields["anchor"] = parts.pop().removeprefix("from ")
        if kind == IntervalType.WEEKLY:
            fields["weekday"] = parts.pop(0) if parts else ""
        if kind == IntervalType.MONTHLY:
            day = parts.pop(0) if parts else ""
            fields["day"] = int(day) if day.isdigit() else day
        if parts:
            fields["at_time"] = parts.pop(0)
        return cls.model_validate(fields)

    def __str__(self) -> str:
        zone = " in each user's time zone" if self.uses_user_zone else f" ({self.timezone})"
        if self.type is IntervalType.CRON:
            return f"cron {self.expression}{zone}"
        unit = {
            IntervalType.MINUTELY: "minute",
            IntervalType.HOURLY: "hour",
            IntervalType.DAILY: "day",
            IntervalType.WEEKLY: "week",
            IntervalType.MONTHLY: "month",
        }[self.type]
        text = f"every {unit}" if self.value == 1 else f"every {self.value} {unit}s"
        if self.type in SUB_DAILY:
            return text
        if self.type is IntervalType.WEEKLY:
            text += f" on {self.weekday or WEEKDAYS[0]}"
        if self.type is IntervalType.MONTHLY:
            text += " on the last day" if self.day == "last" else f" on day {self.day or 1}"
        return f"{text} at {self.wall_time}{zone}"


def known_zone(name: str) -> str:
    """The name, if it is an IANA time zone.

    Raises:
        ValueError: if it is not, with what was probably meant.
    """
    if name in _zones():
        return name
    near = get_close_matches(name, _zones(), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else "; write an IANA name such as Europe/Berlin"
    raise ValueError(f"{name!r} is not a time zone{hint}")


@cache
def _zones() -> frozenset[str]:
    # `localtime` is another zone on every machine, and `Factory` none.
    return frozenset(available_timezones()) - {"localtime", "Factory"}
