"""N child processes kept running, each restarted alone.

A child that ends unasked is started again after a delay that doubles each time, up to a bound,
and is forgotten once a child has lived for a while. What it leaves in its process group is killed
first, so that two generations never work side by side. Why it ended makes no difference.

SIGTERM goes to the child alone, which knows how to stop what it started; SIGKILL goes to its
whole group. If the supervisor itself is killed, its children get SIGTERM (on Linux).
"""

import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

from loguru import logger

from tq.child_process import kill_group, start_child
from tq.errors import InvalidInput

CHECK_EVERY = timedelta(
    milliseconds=200
)  # how late a restart or `until` may be noticed; signals wake at once


@dataclass(frozen=True)
class Child:
    """A process to keep running. `env` is added to our environment; `log` takes what it prints, else we do."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None
    log: Path | None = None


class Supervisor:
    """Keeps its children running until it is asked to stop.

    Either `run` it, or call `start`, then `poll` every now and then, then `stop`. All of it
    belongs in the main thread: on Linux a child ends with the thread that started it.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        stop_timeout: timedelta,
        restart_delay: timedelta = timedelta(seconds=1),
        max_restart_delay: timedelta = timedelta(seconds=30),
        healthy_after: timedelta = timedelta(seconds=10),
    ) -> None:
        """`stop_timeout` is what all children together have to end in after SIGTERM.

        Raises:
            InvalidInput: two children have the same name.
        """
        names = [child.name for child in children]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"two children are named {twice[0]!r}; give each a name of its own")
        self._places = [_Place(child) for child in children]
        self._stop_timeout = stop_timeout
        self._restart_delay = restart_delay
        self._max_restart_delay = max_restart_delay
        self._healthy_after = healthy_after
        self._stop_requests = 0
        self._killed = False

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each child that runs, or whose end was not yet noticed, by name."""
        return {place.child.name: place.process.pid for place in self._places if place.process is not None}

    def run(
        self, until: Callable[[], bool] | None = None, *, meanwhile: Callable[[], object] | None = None
    ) -> int:
        """Block until SIGTERM, SIGINT or `until()`; the exit code is 0, or 1 if a child had to be killed.

        A second signal kills what is left at once. `until` is asked several times a second, and `meanwhile` is
        called as often.
        """
        with self._signals() as wakeup:
            try:
                self.start()
                while not self._stop_requests and not (until is not None and until()):
                    _wait(wakeup, CHECK_EVERY)
                    self.poll()
                    if meanwhile is not None:
                        meanwhile()
                if self._stop_requests:
                    logger.info(
                        "asked to end; a second signal ends what is left at once",
                        children=len(self.pids),
                        stop_timeout_s=self._stop_timeout.total_seconds(),
                    )
            finally:
                code = self.stop()
            return code

    def start(self) -> None:
        """Start every child that does not run. One that cannot be started is tried again by `poll`."""
        for place in self._places:
            if place.process is None:
                self._launch(place)

    def poll(self) -> None:
        """Notice which children have ended, and start those whose delay is over. Returns at once."""
        for place in self._places:
            if place.process is None:
                if time.monotonic() >= place.start_at:
                    self._launch(place)
            elif (code := place.process.poll()) is not None:
                kill_group(place.process)
                if place.asked_to_end:
                    logger.info("child ended to start anew", child=place.child.name, code=code)
                    self._launch(place)
                    continue
                self._plan_restart(place)
                logger.warning(
                    "child exited",
                    child=place.child.name,
                    child_pid=place.process.pid,
                    code=code,
                    retry_in_s=place.delay.total_seconds(),
                )
                place.process = None

    def restart(self) -> None:
        """Ask every child to end what it has begun; `poll` starts each anew as soon as it has. Returns at once."""
        for place in self._places:
            # A second SIGTERM would cut off what the first has left it to finish.
            if place.process is not None and not place.asked_to_end:
                place.asked_to_end = True
                place.process.terminate()

    def stop(self) -> int:
        """Stop all children and wait for their end; the exit code is 0, or 1 if one had to be killed."""
        processes = {place.child.name: place.process for place in self._places if place.process is not None}
        for process in processes.values():
            process.terminate()
        # The second signal may have come too early to find every process.
        patience = self._stop_timeout if self._stop_requests < 2 else timedelta(0)
        deadline = time.monotonic() + patience.total_seconds()
        for name, process in processes.items():
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._killed = True
                logger.warning(
                    "child killed: it did not end in time",
                    child=name,
                    child_pid=process.pid,
                    stop_timeout_s=patience.total_seconds(),
                )
            kill_group(process)
            logger.info("child stopped", child=name, child_pid=process.pid, code=process.wait())
        for place in self._places:
            place.process = None
        killed, self._killed = self._killed, False
        return int(killed)

    def _launch(self, place: "_Place") -> None:
        place.started = time.monotonic()
        place.asked_to_end = False
        try:
            place.process = None
            place.process = _start(place.child)
        except OSError as error:  # no memory for a fork, or a new version is just being installed
            self._plan_restart(place)
            logger.warning(
                "child cannot be started",
                child=place.child.name,
                reason=str(error),
                retry_in_s=place.delay.total_seconds(),
            )
        else:
            logger.info("child started", child=place.child.name, child_pid=place.process.pid)

    def _plan_restart(self, place: "_Place") -> None:
        now = time.monotonic()
        was_healthy = now - place.started >= self._healthy_after.total_seconds()
        doubled = timedelta(0) if was_healthy else 2 * place.delay
        place.delay = min(max(self._restart_delay, doubled), self._max_restart_delay)
        place.start_at = now + place.delay.total_seconds()

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Take SIGTERM, SIGINT and SIGCHLD for as long as it lasts; each makes the socket readable."""
        wakeup, waker = socket.socketpair()
        with wakeup, waker:
            wakeup.setblocking(False)
            waker.setblocking(False)
            fd_before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            handlers_before = {
                signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_stop_request),
                signal.SIGINT: signal.signal(signal.SIGINT, self._on_stop_request),
                signal.SIGCHLD: signal.signal(signal.SIGCHLD, _do_nothing),
            }
            try:
                yield wakeup
            finally:
                for number, handler in handlers_before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(fd_before)
                self._stop_requests = 0

    def _on_stop_request(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requests += 1
        if self._stop_requests == 1:
            return
        # Nothing is logged here: the signal may have come while the log was being written.
        for place in self._places:
            if place.process is not None and place.process.poll() is None:
                self._killed = True
                kill_group(place.process)


@dataclass
class _Place:
    """Where one child runs, or waits to be started again; instants are of the monotonic clock."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay: timedelta = timedelta(0)
    start_at: float = 0.0
    asked_to_end: bool = False


def _start(child: Child) -> subprocess.Popen[bytes]:
    if child.log is None:
        return start_child(child.command, env=child.env)
    with child.log.open("ab") as log:
        return start_child(child.command, env=child.env, output=log)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal that is only there to wake: one without a handler wakes nobody."""


def _wait(wakeup: socket.socket, longest: timedelta) -> None:
    readable, _, _ = select.select([wakeup], [], [], longest.total_seconds())
    if readable:
        wakeup.recv(4096)
