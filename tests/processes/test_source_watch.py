"""Code that changes is noticed once, however many events an editor makes of it."""

from pathlib import Path

from tests.waiting import eventually
from tq.dev.source_watch import QUIET, SourceWatch


def settled(watch: SourceWatch, folder: Path) -> None:
    """Waits until nothing is being noticed any more."""
    (folder / "marker.py").write_text("# here")
    eventually(watch.take_change)


def test_saving_in_many_steps_is_one_change(tmp_path: Path) -> None:
    with SourceWatch(tmp_path) as watch:
        settled(watch, tmp_path)

        for number in range(5):
            (tmp_path / ".code.tmp.py").write_text(f"x = {number}")
            (tmp_path / ".code.tmp.py").rename(tmp_path / "code.py")

        assert not watch.take_change()
        eventually(watch.take_change)
        assert not watch.take_change()
    assert QUIET.total_seconds() < 1


def test_what_is_no_code_of_ours_is_no_change(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "code.py").write_text("x = 1")
    with SourceWatch(tmp_path) as watch:
        settled(watch, tmp_path)

        (tmp_path / ".venv" / "installed.py").write_text("x = 1")
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "code.py").read_text()
        (tmp_path / "last.py").write_text("x = 1")

        eventually(watch.take_change)
        assert not watch.take_change()
