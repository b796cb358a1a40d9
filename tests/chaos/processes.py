"""Real processes that can be killed, stopped and started again. Needs Linux' /proc."""

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from tq.child_process import kill_group

# Longer than any call may take, so that asking a process to end cuts none off.
SHUTDOWN_TIMEOUT_S = 10
STOP_TIMEOUT_S = SHUTDOWN_TIMEOUT_S + 10


class Service:
    """`tq worker` or `tq scheduler`: a supervisor, and below it the process that does the work."""

    def __init__(self, name: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.name = name
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self.is_ending = False

    def start(self) -> None:
        """Starts it; from the main thread, because a process ends with the thread that started it."""
        self._process = self._start()
        self.is_ending = False

    @property
    def exit_code(self) -> int | None:
        """The code with which it ended; None while it runs."""
        return self._running.poll()

    def kill(self) -> None:
        """Ends all of it in one instant, as when its machine fails."""
        # A supervisor that is stopped cannot see its child die; and a child is not told that it is gone.
        self._send(signal.SIGSTOP, [self._running.pid])
        self._send(signal.SIGKILL, [*descendants(self._running.pid), self._running.pid])
        self._running.wait()

    def kill_child(self) -> None:
        """Kills what does the work; its supervisor starts it anew."""
        self._send(signal.SIGKILL, descendants(self._running.pid))

    def stop(self) -> None:
        """Stops all of it, until `go_on`."""
        self._send(signal.SIGSTOP, [self._running.pid, *descendants(self._running.pid)])

    def go_on(self) -> None:
        """Lets what was stopped go on."""
        self._send(signal.SIGCONT, [self._running.pid, *descendants(self._running.pid)])

    def terminate(self) -> None:
        """Asks it to end; once, for a second time would cut off what it is to finish."""
        self.is_ending = True
        self._running.terminate()

    def _send(self, number: signal.Signals, pids: Iterable[int]) -> None:
        if self.exit_code is None:  # once it has ended, its id may soon be another process's
            _send_to(pids, number)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError(f"{self.name} was not started")
        return self._process


def end_all(services: Iterable[Service]) -> list[str]:
    """Ends services as they are asked to, or by force; returns what did not end in good order."""
    problems = []
    started = [service for service in services if service._process is not None]
    for service in started:
        if service.exit_code is None:
            service.go_on()
            service.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for service in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            service._running.wait(timeout=max(0.0, deadline - time.monotonic()))
        if service.exit_code is None:
            problems.append(f"{service.name} did not end within {STOP_TIMEOUT_S} s of SIGTERM")
            service.kill()
        elif service.exit_code not in (0, -signal.SIGKILL):
            problems.append(f"{service.name} ended with code {service.exit_code} after SIGTERM")
        kill_group(service._running)
    return problems


def kill_all_below(pid: int) -> None:
    """Kills all processes below a process, for good."""
    stopped: set[int] = set()
    # Whoever is stopped starts nobody anew; until then it may.
    while running := set(descendants(pid)) - stopped:
        _send_to(running, signal.SIGSTOP)
        stopped |= running
    _send_to(stopped, signal.SIGKILL)


def _send_to(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """All processes below a process, children before their own."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(stat.parent.name))
    found = list(children[pid])
    for child in found:
        found += children[child]
    return found
