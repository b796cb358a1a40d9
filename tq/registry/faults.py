"""What is wrong with a definition, in one line that an operator can act on.

    tasks.yaml:12: email_digest: interval.value: '0' is too small; write at least 1

A definition may hold secrets: a password in the endpoint, a token in a header. A fault never
shows the value of a header, nor more of an endpoint than scheme and host, and it shows a key that
is not known only as far as it looks like a key.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tq.errors import InvalidDefinition
from tq.models import FixedTime, Interval, RateBand, TaskConfig, TaskType
from tq.models.base import Model
from tq.models.ids import ID_PATTERN, ID_RULE
from tq.models.rates import FORMS
from tq.models.tasks import ENVIRONMENT, ENVIRONMENT_NAME, PLACEHOLDERS

Key: TypeAlias = tuple[str | int, ...]

MOST_SHOWN = 20  # faults; a screen that an operator can still read
_LONGEST_VALUE = 60  # characters
_ENDPOINT: Key = ("config", "endpoint")
_HEADERS: Key = ("config", "headers")
_MODELS: Mapping[Key, type[Model]] = {
    (): TaskType,
    ("interval",): Interval,
    ("interval", "at_time"): FixedTime,
    ("rate_limit",): RateBand,
    ("config",): TaskConfig,
}
# What to write where a key is missing, or where its value is of the wrong kind.
_EXAMPLES: Mapping[Key, str] = {
    (): '{id: digest, interval: {type: daily, at_time: "09:00"}, config: {endpoint: https://example.com/digest}}',
    ("id",): f"an id of {ID_RULE}",
    ("interval",): '{type: daily, at_time: "09:00"}',
    ("interval", "type"): "one such as daily",
    ("interval", "at_time"): '"09:00"',
    ("interval", "at_time", "hour"): "0 to 23",
    ("interval", "day"): "1 to 31, or last",
    ("interval", "anchor"): "a date such as 2026-01-31",
    **{("rate_limit", name): "a rate such as 50" for name in RateBand.model_fields},
    ("config",): "{endpoint: https://example.com/digest}",
    _ENDPOINT: "a URL that begins with https:// or http://",
    _HEADERS: "{Content-Type: application/json}",
}
_WHOLE_NUMBER = frozenset({"int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number"})
_NUMBER = frozenset({"float_type", "float_parsing"})
_MAPPING = frozenset({"model_type", "model_attributes_type", "dict_type", "mapping_type"})
_CHOICE = frozenset({"enum", "literal_error"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|([\w.-]|\$?\{\w+\})+)(:\d+)?")
_A_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")  # shown without quotes, as it is written in YAML
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_KEY_LETTERS = re.compile(r"[\w.-]*")


class Fault(NamedTuple):
    """One thing that is wrong: with which key of a definition, and what, and what is allowed."""

    key: Key
    text: str


class Place(NamedTuple):
    """Where something is declared."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Declaration(NamedTuple):
    """A task type, and where it is declared."""

    task: TaskType
    place: Place


def invalid_definition(lines: Iterable[str]) -> InvalidDefinition:
    """All faults as one error: a line for each of the first, then how many more there are."""
    shown = list(lines)
    more = len(shown) - MOST_SHOWN
    return InvalidDefinition("\n".join(shown[:MOST_SHOWN] + ([f"… and {more} more"] if more > 0 else [])))


def line_for(place: Place, task: str, fault: Fault) -> str:
    """The fault as the one line in which it is reported."""
    return ": ".join(part for part in (str(place), task, key_shown(fault.key), fault.text) if part)


def key_shown(key: Key) -> str:
    """The key as it is written in a line: `config.headers.Authorization`."""
    return ".".join(_as_far_as_a_key(str(part)) for part in key)


def name_for(task_id: object, *, otherwise: str) -> str:
    """How a fault names a task: by its id, if that can be an id."""
    return task_id if isinstance(task_id, str) and re.fullmatch(ID_PATTERN, task_id) else otherwise


def task_and_key(from_top: Key) -> tuple[str, Key]:
    """The name of the task that a key counted from the top of a file lies in, and the rest of the key."""
    match from_top[1:] if from_top[:1] == ("tasks",) else from_top:
        case int(index), *rest:
            return f"task {index + 1}", tuple(rest)
        case task_id, *rest:
            return name_for(task_id, otherwise="a task"), tuple(rest)
        case _:
            return "", from_top


def faults_in(error: ValidationError, definition: object) -> list[Fault]:
    """What pydantic found wrong with a definition, each key once."""
    found: dict[Key, Fault] = {}
    for details in error.errors(include_url=False):
        key = _key_of(details, definition)
        found.setdefault(key, Fault(key, _text_of(details, key)))
    return list(found.values())


def missing_variables(task: TaskType, environ: Mapping[str, str]) -> list[Fault]:
    """What endpoint and headers ask of the environment and it does not have."""
    if task.config is None:
        return []
    texts: dict[Key, str] = {_ENDPOINT: task.config.endpoint}
    texts |= {(*_HEADERS, name): text for name, text in task.config.headers.items()}
    return [
        Fault(key, _variable_fault(name))
        for key, text in texts.items()
        for name in dict.fromkeys(ENVIRONMENT.findall(text))
        if name not in environ
    ]


def _variable_fault(name: str) -> str:
    if not ENVIRONMENT_NAME.fullmatch(name):
        # Not shown: in ${NAME:-value} it would be the value.
        return "what stands between ${ and } is not the name of a variable; write letters, digits and _, as in ${API_TOKEN}"
    return f"${{{name}}} is not in the environment; export {name}=… or add it to .env"


def near_miss(word: str, known: Collection[str]) -> str | None:
    """The known word that was probably meant."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(word: object, known: Collection[str]) -> str:
    """The end of a sentence that asks whether a known word was meant; empty if none is near."""
    near = near_miss(word, known) if isinstance(word, str) else None
    return f"; did you mean {near}?" if near else ""


def shown(value: object) -> str:
    """A value as it may stand in one line."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
    return repr(cut) if isinstance(value, str) and not _A_NUMBER.fullmatch(text) else cut


def _key_of(details: ErrorDetails, definition: object) -> Key:
    """The key that the author wrote, without the names that pydantic adds for the members of a union."""
    key: list[str | int] = []
    here = definition
    for step in details["loc"]:
        if isinstance(here, Mapping) and step in here:
            here = here[step]
        elif step in FORMS:
            continue
        elif details["type"] != "missing":
            break
        key.append(step)
    return tuple(key)


def _text_of(details: ErrorDetails, key: Key) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    example = _EXAMPLES.get(key, "text")
    found = _value_shown(key, value)
    if kind == "missing":
        return f"is missing; write {example}"
    if kind == "extra_forbidden":
        return _unknown_key(key)
    if kind in _MAPPING:
        return f"{_kind_shown(value)} is not a mapping; write {example}"
    if value is None:
        return "nothing is written; write a value, or drop the key"
    if kind == "value_error":
        return _own_words(details, key)
    if kind == "string_pattern_mismatch":
        return f"{found} cannot be an id; write {ID_RULE}"
    if len(details["loc"]) > len(key) or kind.startswith("date"):
        return f"{found} cannot be used; write {example}"
    if kind in _CHOICE:
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"{found} is not one of the choices; write one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if kind in {"greater_than_equal", "greater_than"}:
        least = f"at least {context['ge']}" if "ge" in context else f"more than {context['gt']:g}"
        return f"{found} is too small; write {least}"
    if kind in {"less_than_equal", "less_than"}:
        most = f"at most {context['le']}" if "le" in context else f"less than {context['lt']}"
        return f"{found} is too large; write {most}"
    if kind in _WHOLE_NUMBER:
        return f"{found} is not a whole number; write one such as 3"
    if kind in _NUMBER:
        return f"{found} is not a number; write one such as 50"
    if kind.startswith("string"):
        return f"{found} is not text; write text"
    return f"{found} cannot be used: {details['msg']}"


def _own_words(details: ErrorDetails, key: Key) -> str:
    """What a model's own check says; it names the whole value, which may be long or hold a secret."""
    message = details["msg"].removeprefix("Value error, ")
    value: Any = details["input"]
    if key == _ENDPOINT and message.startswith("{"):
        name, _, rest = message.removeprefix("{").partition("} cannot be filled in")
        near = near_miss(name, PLACEHOLDERS)
        return f"a placeholder cannot be filled in{rest}" + (f"; did you mean {{{near}}}?" if near else "")
    if key == _HEADERS:
        for name in value:
            message = message.replace(repr(name), repr(_as_far_as_a_key(name)))
        return message
    return message if isinstance(value, Mapping) else message.replace(repr(value), _value_shown(key, value))


def _value_shown(key: Key, value: object) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        return shown(value)
    if key[:2] == _HEADERS:
        return "its value"
    return shown(_scheme_and_host(str(value)) if key == _ENDPOINT else value)


def _kind_shown(value: object) -> str:
    # What stands in place of a mapping may be an endpoint or a header that lost its key.
    if isinstance(value, str):
        return "text"
    return shown(value) if value is None or isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _scheme_and_host(endpoint: str) -> str:
    """As much of an endpoint as holds no secret; what does not look like scheme and host is …"""
    scheme, separator, rest = endpoint.partition("://") if "://" in endpoint else ("", "", endpoint)
    # A password may hold a slash: if there is an @ anywhere, only what follows the last may be a host.
    host = re.split(r"[/?#\\]", rest.rpartition("@")[2])[0]
    safe_scheme = scheme if not scheme or _SCHEME.fullmatch(scheme) else "…"
    return f"{safe_scheme}{separator}{host if _HOST.fullmatch(host) else '…'}"


def _unknown_key(key: Key) -> str:
    model = _MODELS.get(key[:-1])
    known = list(model.model_fields) if model else []
    return f"is not a known key; known are {', '.join(known)}{did_you_mean(key[-1], known)}"


def _as_far_as_a_key(text: str) -> str:
    # What follows a blank or a colon is not a key's: it may be a value whose quotes or colon are missing.
    match = _KEY_LETTERS.match(text)
    letters = match[0][:_LONGEST_VALUE] if match else ""
    return letters if letters == text else f"{letters}…"
