"""Whoever breaks a round off, at whatever moment, finds nothing left of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import descendants, kill_all_below
from tests.waiting import eventually
from tq.child_process import start_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

INTERRUPTED = 130
SOON_S = 8.0
# Redis, two schedulers and three workers, each below its supervisor.
EVERYTHING = 11


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A round of chaos under way, with its files in the test's folder."""
    process = start_child(
        [sys.executable, "-m", "tests.chaos", "--jobs", "400"],
        env={"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
    )
    yield process
    if process.poll() is None:
        kill_all_below(process.pid)
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_round_is_broken_off_as_it_begins(
    harness: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    eventually(lambda: len(descendants(harness.pid)) > 0, why="nothing was started")
    started = descendants(harness.pid)

    harness.send_signal(number)

    assert harness.wait(SOON_S) == INTERRUPTED
    assert_nothing_is_left(started, tmp_path)


def test_a_round_is_broken_off_while_processes_stand_still(
    harness: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    eventually(lambda: len(descendants(harness.pid)) >= EVERYTHING, why="not everything was started")
    started = descendants(harness.pid)
    for pid in started:
        os.kill(pid, signal.SIGSTOP)

    harness.terminate()

    assert harness.wait(SOON_S) == INTERRUPTED
    assert_nothing_is_left(started, tmp_path)


def assert_nothing_is_left(started: list[int], folder: Path) -> None:
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), why="processes are left")
    assert list(folder.iterdir()) == []
