"""The ledger as a worker process asks and tells it: many jobs at a time, in one thread.

This is a group commit. Whether jobs may begin is asked for some of them ahead, so that a thread finds
the next one ready; how they ended is written, with the acknowledgement of their messages, for all that
have ended meanwhile. Both go in one round trip. While little happens it goes at once; while much
happens, some milliseconds after the one before.

What has been handed in is written before the process ends, or else its messages come again.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from loguru import logger

from tq.errors import StoreError
from tq.limiter import Limiter
from tq.models import Envelope, Permission
from tq.store.ledger import End, Ledger, Retry

# Ends wait for others for so long, and longer where more than one came in that time: every round costs as much
# as some jobs. Nobody waits for an end, and a job for which a thread is free is not kept by this.
GATHER_S = 0.005
LONG_GATHER_S = 0.02
MANY = 2
MOST_IN_GROUP = 128  # a script of a few milliseconds
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_SLEEP_S = 5.0
# What a process that ends waits for its last ends to be written.
LAST_WRITE_S = 3.0


class Waiting(Protocol):
    """Jobs that wait for their thread. Whoever calls these holds the limiter's lock."""

    def take_next(self) -> list[Envelope]:
        """Takes out the jobs that are to begin now, each with its slot."""
        ...

    def hand_out(self, jobs: Sequence[Envelope]) -> object:
        """These may begin."""
        ...

    def prod(self) -> bool:
        """Wakes threads for jobs that nobody comes for; whether some are left, to be looked after again soon."""
        ...

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """How these ended is stored."""
        ...

    @property
    def is_starving(self) -> bool:
        """Whether a thread waits while a job could begin."""
        ...

    @property
    def is_hungry(self) -> bool:
        """Whether a thread waits while a job waits for its slot."""
        ...


class Bookkeeper:
    """Between a process' threads and the ledger. Until it is started, nobody writes but who calls."""

    def __init__(self, ledger: Ledger, limiter: Limiter) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._lock = limiter.lock
        self._gathering = threading.Condition(self._lock)
        self._endings: list[End | Retry] = []
        self._thread: threading.Thread | None = None
        self._is_closing = False  # nothing begins any more
        self._is_ending = False
        self._is_gathering = False
        self._pause_s = FIRST_PAUSE_S  # after which Redis is asked again

    # Life

    def start(self, waiting: Waiting, *, on_settled: Callable[[Sequence[Envelope]], None]) -> None:
        """Begins to keep the ledger for jobs that wait; `on_settled` hears whose messages are acknowledged."""
        self._is_closing = self._is_ending = False
        self._thread = threading.Thread(
            target=self._run, args=(waiting, on_settled), name="bookkeeper", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Has no more jobs begin."""
        with self._lock:
            self._is_closing = True

    def stop(self) -> None:
        """Writes what has been handed in, as long as Redis takes it, and ends."""
        if self._thread is None:
            return
        with self._lock:
            self._is_closing = self._is_ending = True
            self._gathering.notify_all()
            self._limiter.pass_on()
        self._thread.join(timeout=LAST_WRITE_S)
        if self._thread.is_alive():
            logger.warning("ends not stored; their jobs will be carried out again", jobs=len(self._endings))
        self._thread = None

    @property
    def is_running(self) -> bool:
        """Whether groups are kept: in a worker, from its boot to its end."""
        return self._thread is not None and not self._is_ending

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin. Whoever asks holds the lock."""
        return self.is_running and not self._is_closing

    # Threads

    def record(self, ending: End | Retry) -> bool:
        """Has an ending written soon; False if nobody is there to do it, and the caller must."""
        with self._lock:
            if not self.is_running:
                return False
            ending.envelope.is_recorded = True
            self._endings.append(ending)
            if len(self._endings) >= MOST_IN_GROUP:
                self._gathering.notify()
            self._limiter.pass_on()
            return True

    def hurry(self) -> None:
        """A thread waits, or a job for it: no time to gather, if both do. Whoever calls this holds the lock."""
        if self._is_gathering:
            self._gathering.notify()

    # The thread that writes

    def _run(self, waiting: Waiting, on_settled: Callable[[Sequence[Envelope]], None]) -> None:
        try:
            self._keep(waiting, on_settled)
        finally:
            if not self._is_ending:
                # Without it no job would ever begin: better a new process.
                logger.critical("bookkeeper ended unexpectedly; the process ends, to be started anew")
                os.kill(os.getpid(), signal.SIGTERM)

    def _keep(self, waiting: Waiting, on_settled: Callable[[Sequence[Envelope]], None]) -> None:
        jobs: list[Envelope] = []
        with self._lock:
            while self._endings or not self._is_ending:
                if not jobs and not self._is_closing:
                    jobs = waiting.take_next()
                endings = self._endings[:MOST_IN_GROUP]
                if not jobs and not endings:
                    self._limiter.sleep(GATHER_S if waiting.prod() else LONGEST_SLEEP_S)
                    continue
                began = time.monotonic()
                written = self._written(endings, jobs)
                if written is None:
                    self._gathering.wait(self._pause_s)
                    self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                    continue
                self._pause_s = FIRST_PAUSE_S
                del self._endings[: len(endings)]
                ended = [ending.envelope for ending in endings]
                waiting.settled(ended)
                for job, permission in zip(jobs, written, strict=True):
                    job.permission = permission
                waiting.hand_out(jobs)
                jobs = []
                on_settled(ended)
                self._gather(waiting, began + (LONG_GATHER_S if len(endings) >= MANY else GATHER_S))

    def _written(self, endings: Sequence[End | Retry], jobs: Sequence[Envelope]) -> list[Permission] | None:
        """What the ledger says of the jobs, once it has the endings; None if it did not take them."""
        self._lock.release()
        try:
            return self._ledger.settle(endings, jobs)
        except StoreError as error:
            logger.warning("ledger not reached, trying again", ends=len(endings), reason=str(error))
            return None
        finally:
            self._lock.acquire()

    def _gather(self, waiting: Waiting, until: float) -> None:
        """Lets some more ends come together."""
        while not self._is_ending and len(self._endings) < MOST_IN_GROUP and not waiting.is_starving:
            left = until - time.monotonic()
            if left <= 0:
                break
            if waiting.is_hungry:
                self._limiter.sleep(left)  # which hears of slots
                continue
            self._is_gathering = True
            self._gathering.wait(left)
            self._is_gathering = False
