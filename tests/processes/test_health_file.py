"""A file says that a process lives for as long as its work goes on, and all of several only if each does."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from loguru import logger

from tq.errors import InvalidSetting
from tq.health_file import HealthFile, Ward

from . import eventually

SOON = timedelta(milliseconds=300)
LONG = timedelta(minutes=1)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged as an error."""
    found: list[str] = []
    sink = logger.add(lambda message: found.append(message.record["message"]), level="ERROR")
    yield found
    logger.remove(sink)


def test_a_file_is_there_from_the_first_touch_to_the_end(tmp_path: Path) -> None:
    file = HealthFile(tmp_path / "healthy")

    file.touch()
    is_there = (tmp_path / "healthy").exists()
    file.remove()

    assert is_there
    assert list(tmp_path.iterdir()) == []


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with Ward(None, ["left"], fresh=LONG) as ward:
        ward.touch()
        ward.look()
        environment = ward.environment_of("left")
        HealthFile(None).touch()

    assert environment == {}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nobody(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.health_file.TOUCHED_EVERY", timedelta(0))
    file = HealthFile(tmp_path / "nowhere" / "healthy")

    file.touch()
    file.touch()

    assert told == ["health file cannot be written"]


def test_who_starts_with_a_file_that_cannot_be_written_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidSetting, match=r"^TQ_HEALTH_FILE: .*healthy cannot be written: .*; name a file in"
    ):
        HealthFile(tmp_path / "nowhere" / "healthy").create()


def test_children_touch_files_of_their_own_and_none_is_left_at_the_end(tmp_path: Path) -> None:
    with Ward(tmp_path / "healthy", ["left", "right"], fresh=LONG) as ward:
        own = [Path(ward.environment_of(name)["TQ_HEALTH_FILE"]) for name in ("left", "right")]
        for file in own:
            file.touch()
        there = sorted(file.name for file in tmp_path.iterdir())

    assert there == ["healthy", "healthy.left", "healthy.right"]
    assert list(tmp_path.iterdir()) == []


def test_the_named_file_is_touched_only_while_every_child_touches_its_own(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.health_file.TOUCHED_EVERY", timedelta(0))
    named, left, right = (tmp_path / name for name in ("healthy", "healthy.left", "healthy.right"))

    def is_touched_when(*touched: Path) -> bool:
        """Whether the named file is touched by a look after these were."""
        for file in touched:
            file.touch()
        before = named.stat().st_mtime_ns
        ward.look()
        return named.stat().st_mtime_ns > before

    with Ward(named, ["left", "right"], fresh=SOON) as ward:
        at_first = is_touched_when()
        goes_silent = eventually(lambda: not is_touched_when(left))
        stays_silent = not is_touched_when(left)
        comes_back = is_touched_when(left, right)

    assert at_first
    assert goes_silent
    assert stays_silent
    assert comes_back
    assert told == ["child does not touch its health file any more"]
