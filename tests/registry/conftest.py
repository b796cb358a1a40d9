"""A directory to work in, with its own files, modules and declarations."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from loguru import logger


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def write_module(directory: Path) -> Iterator[Callable[[str, str], Path]]:
    """Writes a module of that name; what was imported of it is forgotten after the test."""
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        path = directory / f"{name}.py"
        path.write_text(dedent(source))
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(directory)):
            del sys.modules[name]


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What was logged as a warning, with the fields."""
    lines: list[str] = []
    sink = logger.add(
        lambda line: lines.append(str(line)), level="WARNING", format="{message} {extra}", colorize=False
    )
    yield lines
    logger.remove(sink)
