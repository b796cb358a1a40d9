"""What is written on the command line, as values of the domain.

Whatever cannot be used is an InvalidInput that names the option, what was found, and what is allowed.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from pydantic import ValidationError

from tq.errors import InvalidInput
from tq.models import Interval, IntervalType, TaskId, TaskSettings, UserId, parse_duration, parse_rate
from tq.models.ids import ID_PATTERN, ID_RULE
from tq.models.interval import SUB_DAILY, USER_ZONE, known_zone

LONGEST_REASON = 200  # characters; it is kept with the user's settings and shown beside them
DEFAULT = "default"  # in place of an interval: the task's own
INTERVAL_HELP = (
    "An interval of the user's own: JSON as in tasks.yaml, or 'hourly', or 'daily 08:00' in the user's "
    "time zone; 'default' goes back to the task's."
)


def user_id_of(text: str) -> UserId:
    """The id of a user."""
    return UserId(_id_of("user", text))


def task_id_of(text: str) -> TaskId:
    """The id of a task."""
    return TaskId(_id_of("task", text))


def zone_of(text: str) -> str:
    """The name of a time zone."""
    try:
        return known_zone(text)
    except ValueError as error:
        raise InvalidInput(f"--timezone: {error}") from None


def instant_of(option: str, text: str) -> datetime:
    """An instant in RFC 3339; without a zone it is in UTC."""
    try:
        instant = datetime.fromisoformat(text.strip().upper())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{option}: {text!r} is not an instant; write RFC 3339, for example 2026-11-24T09:00:00Z"
        ) from None


def duration_of(option: str, text: str, *, least: timedelta) -> timedelta:
    """A duration of at least `least`."""
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"{option}: {error}") from None
    if duration < least:
        raise InvalidInput(f"{option}: {text!r} is too short; write at least {least.total_seconds():g}s")
    return duration


def rate_of(option: str, text: str) -> float:
    """Calls per second."""
    try:
        return parse_rate(text)
    except ValueError as error:
        raise InvalidInput(f"{option}: {error}") from None


def reason_of(text: str, option: str = "--reason") -> str:
    """Why something is as it is, in a few words."""
    if len(text) > LONGEST_REASON:
        raise InvalidInput(f"{option}: has {len(text):,} characters; write at most {LONGEST_REASON}")
    return text


def interval_of(text: str) -> Interval | None:
    """An interval of a user's own, or None for the task's."""
    if text == DEFAULT:
        return None
    if text.lstrip().startswith("{"):
        written = _json_of("--interval", text)
    else:
        kind, *times = text.split() or [""]
        if len(times) > 1:
            raise InvalidInput(
                f"--interval: {text!r} is not an interval; write JSON, hourly, or 'daily 08:00'"
            )
        written = {"type": kind}
        if kind not in SUB_DAILY:
            written["timezone"] = USER_ZONE
        if times:
            written["at_time"] = times[0]
    return settings_of({"interval": written}, prefix="--").interval


def parameters_of(text: str | None, pairs: Sequence[str]) -> dict[str, Any] | None:
    """The parameters of a job: a JSON object, with each `key=value` put into it; None if neither is given."""
    if text is None and not pairs:
        return None
    parameters = {} if text is None else _json_of("--parameters", text)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidInput(f"--param: {pair!r} is not a parameter; write key=value")
        parameters[key] = _json_or_text(value)
    return settings_of({"parameters": parameters}, prefix="--").parameters


def settings_of(written: Mapping[str, Any], *, prefix: str = "") -> TaskSettings:
    """A user's settings for a task; `prefix` goes before the key that an error names.

    Raises:
        InvalidInput: names the key, what was found and what is allowed; the first that is wrong.
    """
    # Takes 50 ms, for YAML and what belongs to it, which commands that are given nothing need not spend.
    from tq.registry.faults import faults_in, key_shown

    try:
        settings = TaskSettings.model_validate(written)
    except ValidationError as error:
        fault = faults_in(error, written)[0]
        raise InvalidInput(f"{prefix}{key_shown(fault.key)}: {fault.text}") from None
    if settings.interval is not None and settings.interval.type is IntervalType.CRON:
        _check_it_falls_due(settings.interval, prefix)
    return settings


def _check_it_falls_due(interval: Interval, prefix: str) -> None:
    from tq.schedule import next_after

    try:
        next_after(interval.in_zone("UTC"), datetime.now(UTC))
    except ValueError as error:
        raise InvalidInput(f"{prefix}interval: {error}") from None


def _id_of(kind: str, text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        found = text if len(text) <= 60 else f"{text[:59]}…"
        raise InvalidInput(f"{found!r} cannot be the id of a {kind}; write {ID_RULE}")
    return text


def _json_of(option: str, text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{option}: not JSON: {error}; put it in single quotes for the shell") from None
    if not isinstance(value, dict):
        raise InvalidInput(f'{option}: not a JSON object; write one such as {{"key": "value"}}')
    return value


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
