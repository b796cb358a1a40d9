"""Rules about real processes: what is started, kept running, answered and ended."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def eventually(condition: Callable[[], bool], *, within_s: float = 20) -> bool:
    """Whether the condition comes true in time; for what another process does at its own pace."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs a few lines of Python in a process that starts fast."""
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def ends(pid: int) -> bool:
    """Whether the process of that id is gone within a few seconds."""
    return eventually(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here, or it ended just now; the next look tells
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie has ended, only nobody asked for its code yet
