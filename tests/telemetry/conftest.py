"""Logs that go into a string, and loggers that are as before when a test ends."""

import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from loguru import logger

from tq import redaction

LEVELS_SET = (
    "",
    "tq.pipeline",
    "tq.pipeline.tick",
    "tq.schedule",
    "tq.executors",
    "tq.store",
    "actors",
    "actors.tick",
    "middleware",
    "dramatiq",
    "periodiq",
    "httpx",
    "httpcore",
    "uvicorn",
)


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what one test registered as secret from being masked in another."""
    monkeypatch.setattr(redaction, "_secrets", redaction._Secrets())


@pytest.fixture
def stream() -> Iterator[StringIO]:
    """Where a test has its lines written; puts back what configure_logs changed for the whole process."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in LEVELS_SET}
    yield StringIO()
    logger.remove()
    root.handlers = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
