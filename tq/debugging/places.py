"""How a place in the code is shown: function, file and line, and nothing of what it works with.

A file is named by where it stands below the entries of sys.path, as its module would be imported; so
neither a home directory nor any other folder of the machine is told.
"""

import sys
from functools import lru_cache
from pathlib import PurePath
from types import CodeType
from typing import NamedTuple

# A folder that is as far up as this holds other things than modules; what lies below would tell them.
LEAST_DEPTH = 2


class Place(NamedTuple):
    """A function and where it begins, or a line of it. Without a file it is a heading of our own, such as a thread."""

    function: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """As text: `Worker._run (dramatiq/worker.py:412)`."""
        return f"{self.function} ({self.file}:{self.line})" if self.file else self.function


def place_of(code: CodeType, line: int | None = None) -> Place:
    """Where a function begins, or a line of it."""
    return Place(
        _printable(code.co_qualname), file_shown(code.co_filename), line or max(code.co_firstlineno, 0)
    )


def file_shown(path: str) -> str:
    """A source file below the entry of sys.path that leads to it; its name alone if none does."""
    return _file_shown(path, tuple(sys.path))


@lru_cache(maxsize=4096)
def _file_shown(path: str, entries: tuple[str, ...]) -> str:
    file = PurePath(path)
    if not file.is_absolute():
        return _printable(path) if ".." not in file.parts else file.name
    folders = [PurePath(entry) for entry in entries]
    leading = [
        folder for folder in folders if len(folder.parts) > LEAST_DEPTH and file.is_relative_to(folder)
    ]
    if not leading:
        return _printable(file.name)
    return _printable(file.relative_to(max(leading, key=lambda folder: len(folder.parts))).as_posix())


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
