"""What commands print: JSON for programs, tables and sentences for people.

JSON is one document, or one object per line where there is no telling how many will come. Instants
in it are RFC 3339 in UTC with a `Z`, durations are seconds. For people, instants are in UTC and say
so; where no terminal is watching, nothing is coloured and no line is cut or wrapped.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, TextIO

import orjson
import typer
from rich.console import Console
from rich.table import Table

from tq.clock import iso

WIDE = 10_000  # columns; without a terminal nobody reads a wrapped line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(document: object) -> None:
    """Prints the one document of a command."""
    _write(document, orjson.OPT_INDENT_2)


def print_json_line(document: object) -> None:
    """Prints one object of many, at once."""
    _write(document, 0)
    sys.stdout.flush()


def say(sentence: str) -> None:
    """Prints a line for people."""
    _console(sys.stdout).print(sentence, soft_wrap=True)


def note(sentence: str) -> None:
    """Tells people something on standard error."""
    _console(sys.stderr).print(sentence, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows for people; numbers stand to the right."""
    _console(sys.stdout).print(table_of(columns, rows))


def terminal() -> Console | None:
    """Standard output, if a person watches it."""
    console = _console(sys.stdout)
    return console if console.is_terminal else None


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """The rows as a table without a frame."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    cells = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(type(row[index]) is int for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(shown(value) for value in row))
    return table


def shown(value: object) -> str:
    """A value as people read it."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        case _:
            return str(value)


def error_console() -> Console:
    """Standard error, for what changes while one looks at it."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    # An id may hold what looks like markup or an emoji: it is printed as it is.
    return Console(
        file=stream, width=None if stream.isatty() else WIDE, markup=False, emoji=False, highlight=False
    )


def _write(document: object, option: int) -> None:
    options = option | orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(document, default=_plain, option=options))


def _plain(value: object) -> object:
    match value:
        case datetime():
            return iso(value)
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case _:
            return str(value)
