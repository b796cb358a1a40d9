"""How a child process is started and killed, so that none is ever left behind.

A child leads a session of its own: Ctrl-C in the terminal reaches only us, and its process group
is everything that it started in turn. On Linux the kernel sends it SIGTERM when we end, however
we end. Elsewhere a child outlives a parent that is killed with SIGKILL.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# Loaded before any fork. PyDLL keeps the GIL, so the call is safe in a child that has one thread only.
_libc = ctypes.PyDLL(None) if sys.platform == "linux" else None


def start_child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """The started process. `env` is added to our environment; `output` takes stdout and stderr, else both are ours.

    Start it from the main thread: Linux sends the SIGTERM when the *thread* ends that started it.

    Raises:
        OSError: the command cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - the commands are our own, and no shell reads them
        command,
        env={**os.environ, **(env or {})},
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        preexec_fn=_end_with_parent(),
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it started; nothing happens where nothing is left."""
    # macOS answers "not permitted" for a group in which only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_with_parent() -> Callable[[], None] | None:
    return partial(_ask_for_sigterm, _libc, os.getpid()) if _libc is not None else None


def _ask_for_sigterm(libc: ctypes.PyDLL, parent: int) -> None:
    # Our own handler would swallow a SIGTERM that comes before the new program runs, and a parent
    # that ignores SIGTERM would hand that down.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the kernel knew of our wish
        os._exit(1)
