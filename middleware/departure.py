"""How a worker process takes its leave: what it has begun comes to its end or is cut off, all else goes back.

From SIGTERM on nothing is fetched. What was fetched and not begun goes back at once, so that others work
it while the calls that are under way here have their time. What has not ended by then is cut off with the
process: its message goes back as it was, so no attempt is spent, nobody hears of a failure, and nothing is
suspected.

Nothing can be raised in a thread that waits in a system call. So a call that is cut off knows nothing of it:
it just is no more.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from loguru import logger

from middleware.fairness import FairQueue
from tq.store.refusals import explained

# What is left to do when no call is under way any more takes less, unless Redis does not answer.
FAREWELLS_S = 7.0
# What a process that has cut off calls has for its last lines.
LAST_WORDS_S = 0.5


@runtime_checkable
class Leaving(Protocol):
    """A broker that can put back what its process will not work any more."""

    def stop_fetching(self, messages: Sequence[MessageProxy]) -> None:
        """Fetches no more, and has these and all that was fetched and not handed out go back."""
        ...

    def leave(self) -> int:
        """Puts back what was not acknowledged; returns how many messages that were."""
        ...


class Departure(dramatiq.Middleware):
    """Gives back what the worker does not come to, first when it is asked to end, then when it has ended."""

    def __init__(self) -> None:
        self._crew = Crew([])

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Gives back what was not begun, and has all threads waited for together."""
        if isinstance(broker, Leaving) and isinstance(worker.work_queue, FairQueue):
            broker.stop_fetching([item.message for item in worker.work_queue.drop()])
        self._crew = Crew(worker.workers)
        worker.workers = [self._crew]  # type: ignore[list-item] # all that is done with them from now on it can do

    def after_worker_shutdown(self, broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Gives back what was not finished in time."""
        if not isinstance(broker, Leaving):
            return
        cut_off = self._crew.at_work
        try:
            broker.leave()
        except redis.RedisError as error:
            reason = str(explained(error))
            logger.warning("what was fetched comes back when the process is found dead", reason=reason)
        if cut_off:
            logger.warning("calls cut off; their jobs will be carried out again", jobs=cut_off)
            # Threads that a job's function has started would keep the process from ending.
            _end_in(LAST_WORDS_S)


class Crew:
    """A worker's threads as one.

    Waiting for one after the other, Dramatiq takes the time since it began off what is left each time, and
    so cuts the last ones off long before the time is over.
    """

    def __init__(self, threads: Sequence[Any]) -> None:
        self._threads = threads

    @property
    def at_work(self) -> int:
        """How many have not ended."""
        return sum(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Has each end when its job has."""
        for thread in self._threads:
            thread.stop()

    def join(self, timeout: float) -> None:
        """Waits until all have ended, for so many seconds at most; not much later the process ends at the latest."""
        _end_in(timeout + FAREWELLS_S)
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def _end_in(seconds: float) -> None:
    """Ends the process if it has not ended by then, and only if it is a worker process of Dramatiq's."""
    if multiprocessing.parent_process() is not None:
        end = threading.Timer(seconds, os._exit, (0,))
        end.daemon = True
        end.start()
