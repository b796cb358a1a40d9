"""What a user has enabled, and how."""

from typing import Any

import orjson
from pydantic import Field, field_validator

from tq.models.base import Model
from tq.models.ids import TaskId, UserIdField
from tq.models.interval import Interval, known_zone

# Parameters travel in every call's body; Standard Webhooks advises bodies under 20 kB.
MAX_PARAMETERS_BYTES = 16 * 1024


class TaskSettings(Model):
    """One user's settings for one task: whether, how often, with which parameters, and why it is off."""

    enabled: bool = True
    interval: Interval | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    reason: str | None = None

    @field_validator("parameters")
    @classmethod
    def _small_enough(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(orjson.dumps(value))
        except TypeError as error:
            raise ValueError(f"parameters must be JSON: {error}") from None
        if size > MAX_PARAMETERS_BYTES:
            raise ValueError(
                f"parameters have {size:,} bytes as JSON; at most {MAX_PARAMETERS_BYTES:,} are allowed, "
                "so store them elsewhere and pass a reference"
            )
        return value


class UserPreference(Model):
    """A user: the time zone, and the settings of each task that was ever enabled or disabled."""

    user_id: UserIdField
    timezone: str = "UTC"
    tasks: dict[TaskId, TaskSettings] = Field(default_factory=dict)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return known_zone(value)
