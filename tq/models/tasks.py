"""A task type: what is done for each enabled user, how often, and how its calls are made."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import core_schema

from tq.models.base import Model
from tq.models.durations import DURATION_RULE, Duration, format_duration, parse_duration
from tq.models.ids import TaskIdField
from tq.models.interval import Interval
from tq.models.rates import RateLimit

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_URL = re.compile(r"(?i)https?://[^/?#\s]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
PLACEHOLDERS = frozenset({"user_id", "task_id", "run_id"})
_PLACEHOLDER = re.compile(r"(?<!\$)\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"\$\{([^{}]*)\}")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Priority(StrEnum):
    """Which of the three queues a task's jobs wait in; served 16 : 4 : 1."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Missed(StrEnum):
    """What happens to occurrences that nobody claimed in time."""

    LATEST = "latest"
    SKIP = "skip"
    ALL = "all"


class Overlap(StrEnum):
    """What happens when a run falls due and the last one of the same users has not ended."""

    REPLACE = "replace"
    SKIP = "skip"
    ALLOW = "allow"


class Window:
    """The time over which a run is spread: a duration, or a share of the time to the next occurrence."""

    __slots__ = ("duration", "share")

    def __init__(self, *, duration: timedelta | None = None, share: float | None = None) -> None:
        self.duration = duration
        self.share = share

    @classmethod
    def parse(cls, value: object) -> Self:
        """The window that was written: a duration, or a percentage such as `50%`.

        Raises:
            ValueError: if it is neither.
        """
        if isinstance(value, cls):
            return value
        match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            try:
                return cls(duration=parse_duration(value))
            except ValueError:
                raise ValueError(
                    f"{value!r} is not a window; write a duration ({DURATION_RULE}) or a share such as 50%"
                ) from None
        share = float(match[1]) / 100
        if share > 1:
            raise ValueError(f"{value!r} is more than the whole interval; write at most 100%")
        return cls(share=share)

    def within(self, until_next: timedelta) -> timedelta:
        """How long a run is spread that has `until_next` before the occurrence after it."""
        if self.share is not None:
            return timedelta(milliseconds=int(until_next / timedelta(milliseconds=1) * self.share))
        return min(self.duration or timedelta(0), until_next)

    def __str__(self) -> str:
        return (
            f"{self.share * 100:g}%"
            if self.share is not None
            else format_duration(self.duration or timedelta(0))
        )

    def __repr__(self) -> str:
        return f"Window({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Window) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )


class TaskConfig(Model):
    """The HTTP call that a task makes for each user."""

    endpoint: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict)
    max_duration: Duration | None = None

    @field_validator("method", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        # A variable may hold scheme and host; then the whole is checked again when the call is made.
        if not value.startswith("${") and not _URL.match(value):
            raise ValueError(
                f"{value!r} is not an endpoint; write a URL that begins with https:// or http://"
            )
        if re.search(r"\s", value):
            raise ValueError(f"{value!r} has a blank in it; write it as %20")
        unknown = [name for name in _PLACEHOLDER.findall(value) if name not in PLACEHOLDERS]
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
            raise ValueError(f"{{{unknown[0]}}} cannot be filled in; known are {known}")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header; write letters, digits and dashes")
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
                raise ValueError(f"the value of header {name} has a control character in it; remove it")
        return value


class TaskType(Model):
    """The definition of a task, as an operator declares it."""

    id: TaskIdField
    name: str = ""
    description: str = ""
    interval: Interval
    window: Window = Window(duration=timedelta(minutes=30))
    timeout: Duration = timedelta(seconds=30)
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    retry_delay: Duration = timedelta(seconds=5)
    retry_after_max: Duration = timedelta(hours=1)
    rate_limit: RateLimit | None = None
    concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = None
    priority: Priority = Priority.NORMAL
    missed: Missed = Missed.LATEST
    catchup_window: Duration | None = None
    overlap: Overlap = Overlap.REPLACE
    max_lateness: Duration | None = None
    executor: str | None = None
    config: TaskConfig | None = None

    @field_validator("timeout")
    @classmethod
    def _takes_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("a call needs time; write a timeout of more than 0s")
        return value

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        if self.executor is None and self.config is None:
            raise ValueError("a task needs config.endpoint, or an executor")
        limit = self.config.max_duration if self.config else None
        if limit is not None and limit > self.timeout:
            raise ValueError(
                f"config.max_duration {format_duration(limit)} is longer than timeout {format_duration(self.timeout)}; "
                "lower it, or raise timeout"
            )
        return self

    @property
    def title(self) -> str:
        """The name for people."""
        return self.name or self.id
