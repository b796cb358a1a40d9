"""A YAML file as its author wrote it: every scalar is text, and everything knows its line.

YAML guesses at types: an unquoted 9:30 is the number 570, `on` is true, 1.10 loses its zero. Here
nothing is guessed. A value stays the text that was written, and what it means is decided by the
field that reads it. Only an empty value, `~` and `null` are nothing.

Whatever stands in the file, reading it takes bounded time and memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, TypeAlias

import yaml

from tq.errors import InvalidDefinition
from tq.registry.faults import Fault, Key, Place, line_for, task_and_key

# 300 tasks like the one in the documentation are 140 kB and 6,300 values.
MAX_BYTES = 5_000_000
MAX_VALUES = 200_000  # with what aliases repeat, so that a few lines cannot stand for billions
MAX_DEPTH = 20

Plain: TypeAlias = "str | list[Plain] | dict[str, Plain] | None"

_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")
)
# How the parser puts the slips that people make, and what they are in plain words.
_SLIPS = {
    "mapping values are not allowed": "a second ': ' in one line, or a line that is indented too far; "
    "put text that holds ': ' in quotes, or indent the line like its neighbours",
    "found character '\\t'": "a tab; indent with spaces",
    "that cannot start any token": "a value cannot begin with this character; put the value in quotes",
    "found unexpected end of stream": "a quote is opened and never closed; close it",
    "expected the node content": "a value is missing, or a bracket is opened and never closed; write or close it",
    "expected ',' or": "a bracket is opened and never closed, or a comma is missing; "
    "close it, or put text that holds brackets in quotes",
    "expected <block end>": "this line does not fit in with the lines above; indent it like its neighbours",
    "found undefined tag handle": "a value that begins with ! is a tag; put it in quotes if text is meant",
    "could not find expected ':'": "a key without ': ' behind it; write key: value",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A value with the line where it, or else its key, stands; and what it is made of."""

    line: int
    value: Plain
    parts: Mapping[str | int, "Written"] = field(default_factory=dict)
    size: int = 1

    def line_of(self, key: Key) -> int:
        """The line of the part that the key leads to, or of the last part on the way that there is."""
        here = self
        for step in key:
            if step not in here.parts:
                break
            here = here.parts[step]
        return here.line


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key that is written a second time in one mapping; the second value is not used."""

    key: Key
    line: int
    first_line: int


def read_yaml(path: Path) -> tuple[Written, Sequence[Repeated]]:
    """What is written in the file, and which keys in it are repeated.

    Raises:
        InvalidDefinition: if there is no such file, or it is not YAML, or not the plain part of
            it (one document, core tags, keys that are text), or too large.
    """
    reader = _Reader(path, _text_of(path))
    return reader.document(), reader.repeated


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidDefinition(
            f"{path}: there is no such file; write one, or set TQ_TASKS_FILE to where it is"
        ) from None
    except OSError as error:
        raise InvalidDefinition(
            f"{path}: cannot be read: {error.strerror}; make it a file that this user may read, "
            "or set TQ_TASKS_FILE to another"
        ) from None
    if len(raw) > MAX_BYTES:
        raise InvalidDefinition(
            f"{path}: has more than {MAX_BYTES:,} bytes, the most that is read; shorten it"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidDefinition(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from None


class _Reader:
    """Builds the tree from the parser's events, which come one by one: a bound stops the parser too."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._events = self._parsed(text)
        self._anchored: dict[str, Written] = {}
        self.repeated: list[Repeated] = []

    def document(self) -> Written:
        """The one document of the file; an empty file is nothing in line 1."""
        next(self._events)  # the beginning of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Written(1, None)
        root = self._value(next(self._events), ())
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse(
                after, (), "a second document begins; write all tasks in one, without --- between them"
            )
        return root

    def _parsed(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.BaseLoader)
        except yaml.MarkedYAMLError as error:
            raise InvalidDefinition(self._broken(error)) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            letter = ord(text[error.position])
            raise InvalidDefinition(
                f"{self._path}:{line}: not YAML: the character U+{letter:04X} cannot stand in it; remove it"
            ) from None
        except (ValueError, OverflowError):
            # Such as the escape "\UFFFFFFFF", which the parser hands to chr() unchecked.
            raise InvalidDefinition(
                f"{self._path}:1: not YAML: a number is out of bounds, in an escape or after %YAML; mend it"
            ) from None

    def _broken(self, error: yaml.MarkedYAMLError) -> str:
        problem = error.problem or "it cannot be read"
        plain = next((plain for slip, plain in _SLIPS.items() if slip in problem), problem)
        mark, begins = error.problem_mark, error.context_mark
        if mark is None:
            return f"{self._path}:1: not YAML: {plain}"
        since = (
            f" (the part it belongs to begins in line {begins.line + 1})"
            if begins and begins.line != mark.line
            else ""
        )
        return f"{self._path}:{mark.line + 1}: column {mark.column + 1}: not YAML: {plain}{since}"

    def _value(self, event: yaml.Event, key: Key) -> Written:
        if len(key) > MAX_DEPTH:
            self._refuse(
                event, key[:3], f"is nested more than {MAX_DEPTH} deep; no task is, so check the brackets"
            )
        match event:
            case yaml.AliasEvent():
                return self._alias(event, key)
            case yaml.ScalarEvent():
                written = self._scalar(event, key)
            case yaml.SequenceStartEvent():
                written = self._list(event, key)
            case yaml.MappingStartEvent():
                written = self._mapping(event, key)
            case _:
                raise TypeError(f"{event!r} stands where YAML's grammar has a value")
        if event.tag is not None and event.tag not in _CORE_TAGS:
            self._refuse(event, key, "a value that begins with ! is a tag; put it in quotes if text is meant")
        if written.size > MAX_VALUES:
            self._refuse(
                event, key, f"has more than {MAX_VALUES:,} values, with what aliases repeat; shorten it"
            )
        if event.anchor is not None:
            self._anchored[event.anchor] = written
        return written

    def _alias(self, event: yaml.AliasEvent, key: Key) -> Written:
        written = self._anchored.get(event.anchor or "")
        if written is None:
            self._refuse(
                event,
                key,
                "a value that begins with * repeats one marked with & above; put it in quotes if text is meant",
            )
        return written

    def _scalar(self, event: yaml.ScalarEvent, key: Key) -> Written:
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self._refuse(event, key, "an escape in it is half a character; write the character itself")
        is_nothing = event.style is None and event.value in _NOTHING and event.tag is None
        return Written(_line(event), None if is_nothing else event.value)

    def _list(self, start: yaml.Event, key: Key) -> Written:
        items: list[Written] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*key, len(items))))
        size = 1 + sum(item.size for item in items)
        return Written(_line(start), [item.value for item in items], dict(enumerate(items)), size)

    def _mapping(self, start: yaml.Event, key: Key) -> Written:
        parts: dict[str | int, Written] = {}
        value: dict[str, Plain] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._value(event, key).value if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(name, str):
                self._refuse(event, key, "a key is missing or is not text; write key: value")
            line = _line(event)
            written = self._value(next(self._events), (*key, name))
            if name in parts:
                self.repeated.append(Repeated((*key, name), line, parts[name].line))
            else:
                # The line of a value is that of its key: there an editor should jump to.
                parts[name] = replace(written, line=line)
                value[name] = written.value
        return Written(_line(start), value, parts, 1 + sum(part.size for part in parts.values()))

    def _refuse(self, event: yaml.Event, key: Key, problem: str) -> NoReturn:
        task, rest = task_and_key(key)
        raise InvalidDefinition(line_for(Place(self._path, _line(event)), task, Fault(rest, problem)))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
