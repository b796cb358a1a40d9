"""What every worker process does beside its jobs: release what has come due, recover what was lost.

A loop of half a second in one thread. Redis away is not an error here: the loop tries again, and
says so once.
"""

import threading
from collections.abc import Callable
from datetime import timedelta

import dramatiq
import redis
from loguru import logger

from tq.clock import Stopwatch
from tq.errors import InvalidDefinition, StoreError
from tq.runtime import Runtime

RELEASE_EVERY_S = 0.5
# Dead processes and edits of the tasks file are looked for this often.
LOOK_EVERY = timedelta(seconds=3)


class Upkeep(dramatiq.Middleware):
    """Runs the loop from the worker's boot to its end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread: threading.Thread | None = None
        self._trouble = ""

    def after_worker_boot(self, broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Starts the loop."""
        self._runtime.stopping.clear()
        self._thread = threading.Thread(target=self._loop, args=(broker,), name="upkeep", daemon=True)
        self._thread.start()

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Ends the loop, and tells whoever waits for Redis that the process ends."""
        self._runtime.stopping.set()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Waits for the loop and ends the connections."""
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._runtime.close()

    def _loop(self, broker: dramatiq.Broker) -> None:
        since_look = Stopwatch()
        self._look(broker)
        while not self._runtime.stopping.wait(RELEASE_EVERY_S):
            if since_look.elapsed >= LOOK_EVERY:
                since_look = Stopwatch()
                self._look(broker)
            self._guarded(self._release)

    def _look(self, broker: dramatiq.Broker) -> None:
        self._guarded(self._refresh)
        recover = getattr(broker, "recover", None)
        if recover is not None:
            self._guarded(lambda: self._recover(recover))

    def _refresh(self) -> None:
        self._runtime.registry.refresh()

    def _release(self) -> None:
        self._runtime.store.agenda.release_due()

    @staticmethod
    def _recover(recover: Callable[[], int]) -> None:
        recovered = recover()
        if recovered:
            logger.warning("messages of dead processes put back", messages=recovered)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (StoreError, InvalidDefinition, redis.RedisError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("upkeep failed, trying again", reason=self._trouble)
        else:
            if step == self._release and self._trouble:
                self._trouble = ""
                logger.info("upkeep works again")
