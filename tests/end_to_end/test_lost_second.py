"""A Redis that has lost its last second, in short; see lost_second.py, which tells how to have it at full length."""

from pathlib import Path

from tests.end_to_end.lost_second import lost_second


def test_what_redis_has_lost_of_a_run_is_found_and_made_up(tmp_path: Path) -> None:
    report = lost_second(tmp_path, users=2000, lost_at=[0.5])

    assert report.missed() == []
