"""What every worker process does beside its jobs: release what has come due, recover what was lost,
give back what must wait, show that it lives.

A loop of half a second in one thread; of a few seconds while there is nothing to do. Redis away is not
an error here: the loop tries again, and says so once.
"""

import gc
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from loguru import logger

from middleware.fairness import FairQueue
from tq.clock import Stopwatch
from tq.errors import InvalidDefinition, StoreError
from tq.health_file import HealthFile
from tq.malloc import share_heaps
from tq.pipeline.mend import Mender
from tq.pipeline.observe import bring
from tq.runtime import Runtime
from tq.store.heartbeats import WORKER, Presence
from tq.store.refusals import explained

RELEASE_EVERY_S = 0.5
TICK = "tick"
# So many new objects are looked through for garbage at a time; hardly any of a job's is such that it has to be
# looked for, so Python's 700 cost a hundredth of all that workers do.
GARBAGE_AFTER = 10_000
# A process that has had no job for so long, and for which nothing stands on the agenda, is idle.
IDLE_AFTER_S = 5.0
# Dead processes and edits of the tasks file are looked for this often.
LOOK_EVERY = timedelta(seconds=3)


@runtime_checkable
class PuttingOff(Protocol):
    """A broker that can have fetched jobs come again later."""

    def put_off(self, messages: Sequence[tuple[MessageProxy, timedelta]]) -> None:
        """Has each come again after its delay."""
        ...


@runtime_checkable
class Recovering(Protocol):
    """A broker that can put back what dead processes had fetched."""

    @property
    def generation(self) -> int:
        """Rises when all that this process has fetched and not begun is not its own any more."""
        ...

    def recover(self) -> int:
        """Puts it back; returns how many messages that were."""
        ...

    def forget(self, messages: Sequence[MessageProxy]) -> None:
        """Lets go of these, and of whatever else was fetched and not begun."""
        ...


class Upkeep(dramatiq.Middleware):
    """Runs the loop from the worker's boot to its end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread: threading.Thread | None = None
        self._troubles: dict[str, str] = {}
        self._queue: object = None
        self._over = threading.Event()
        self.due = threading.Event()  # something on the agenda is due before the loop would look
        self._job_at = time.monotonic()
        self._left_on_agenda = 0
        self._is_idle = False
        self._looks = 0
        self._mender = Mender(runtime, uuid.uuid4().hex)
        self._presence = Presence(runtime.store.heartbeats, WORKER, runtime.facts)
        self._health = HealthFile(runtime.settings.health_file)

    def before_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Opens what the first job would have to wait for, once, before threads could open it twice.

        How memory is handed out and looked through is also to be settled before there are threads.
        """
        _ = self._runtime.executors, self._runtime.definitions
        gc.set_threshold(GARBAGE_AFTER)
        share_heaps()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Starts the loop."""
        self._queue = worker.work_queue
        self._runtime.stopping.clear()
        self._over.clear()
        self._thread = threading.Thread(target=self._loop, args=(broker,), name="upkeep", daemon=True)
        self._thread.start()

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        _message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """A job may have put something onto the agenda."""
        self._job_at = time.monotonic()
        if self._is_idle:
            self.due.set()

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Tells whoever waits for Redis that the process ends.

        The loop goes on: calls may be under way for longer than it takes to be taken for dead.
        """
        self._runtime.stopping.set()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Ends the loop and the connections."""
        self._over.set()
        self.due.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._runtime.close()

    def _loop(self, broker: dramatiq.Broker) -> None:
        try:
            self._keep_up(broker)
        finally:
            if not self._over.is_set():
                # Without the loop nothing that is due later would ever come: better a new process.
                logger.critical("upkeep ended unexpectedly; the process ends, to be started anew")
                os.kill(os.getpid(), signal.SIGTERM)

    def _keep_up(self, broker: dramatiq.Broker) -> None:
        since_look = Stopwatch()
        self._look(broker)
        while not self._over.is_set():
            self._guarded("agenda", self._release)
            self._put_off(broker)
            self._rest(LOOK_EVERY - since_look.elapsed)
            if since_look.elapsed >= LOOK_EVERY:
                since_look = Stopwatch()
                self._look(broker)
        self._guarded("observations", lambda: bring(self._runtime))
        self._guarded("farewell", self._presence.end)
        self._health.remove()

    def _rest(self, until_look: timedelta) -> None:
        """Lets time pass until there may be something to do."""
        # First, so that whoever ends a job from now on wakes us.
        self._is_idle = True
        has_jobs = isinstance(self._queue, FairQueue) and self._queue.qsize() > 0
        if has_jobs or self._left_on_agenda or time.monotonic() - self._job_at < IDLE_AFTER_S:
            self._is_idle = False
        pause_s = max(0.0, until_look.total_seconds()) if self._is_idle else RELEASE_EVERY_S
        self.due.wait(pause_s)
        self.due.clear()

    def _look(self, broker: dramatiq.Broker) -> None:
        self._guarded("definitions", lambda: self._refresh(broker))
        self._guarded("observations", lambda: bring(self._runtime))
        if isinstance(broker, Recovering):
            self._guarded("recovery", lambda: self._recover(broker))
            self._looks += 1
            # An idle process is to cost next to nothing: every other time it does only what cannot wait.
            if not self._is_idle or self._looks % 2:
                self._guarded("mending", self._mender.look)
                self._guarded("heartbeat", self._presence.show)

    def _refresh(self, broker: dramatiq.Broker) -> None:
        if self._runtime.registry.refresh() and TICK in broker.actors:
            # A tick claims what fell due before the edit, and puts the edit into force.
            broker.get_actor(TICK).send()

    def _put_off(self, broker: dramatiq.Broker) -> None:
        """Gives back what would wait here for long; until then it keeps other jobs from being fetched."""
        if isinstance(broker, PuttingOff) and isinstance(self._queue, FairQueue):
            withdrawn = self._queue.withdraw()
            if withdrawn:
                broker.put_off([(item.message, delay) for item, delay in withdrawn])
                self._queue.given_away(len(withdrawn))
                logger.debug("jobs put off", jobs=len(withdrawn))

    def _release(self) -> None:
        self._left_on_agenda = self._runtime.store.agenda.release().left

    def _recover(self, broker: "Recovering") -> None:
        before = broker.generation
        recovered = broker.recover()
        if broker.generation != before and isinstance(self._queue, FairQueue):
            broker.forget([item.message for item in self._queue.drop()])
        if recovered:
            logger.warning("messages of dead processes put back", messages=recovered)

    def _guarded(self, name: str, step: Callable[[], object]) -> None:
        """Takes a step; trouble that lasts is told once, and its end."""
        # Before each, because a silent Redis makes each take long, and is no fault of this process.
        self._health.touch()
        try:
            step()
        except (StoreError, InvalidDefinition, redis.RedisError) as error:
            reason = str(explained(error) if isinstance(error, redis.RedisError) else error)
            if self._troubles.get(name) != reason:
                self._troubles[name] = reason
                logger.error("upkeep failed, trying again", step=name, reason=reason)
        else:
            if self._troubles.pop(name, None) is not None:
                logger.info("upkeep works again", step=name)
