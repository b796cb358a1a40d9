"""The worker's queue, fair over priorities and tasks, that hands out a job only with a slot for it.

Dramatiq's own is strict: as long as something more urgent waits, nothing else is served. And a job
that had to wait for its slot in a thread would keep others from theirs.
"""

import queue
import random
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import dramatiq

from tq.lanes import Lanes
from tq.limiter import Limiter
from tq.models import SUSPECTS, Envelope, Priority, TaskId

# With the default of twice the threads, a consumer that has its fill sleeps while threads go idle.
LEAST_PREFETCH = 64
# What would wait here for longer goes back, and makes room for what need not.
HOLD_S = 10.0


class FairDispatch(dramatiq.Middleware):
    """Gives a worker the fair queue before any of its threads exists, and the limiter its life."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def before_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replaces the worker's queue."""
        worker.work_queue = FairQueue(self._limiter)
        worker.queue_prefetch = max(LEAST_PREFETCH, worker.queue_prefetch)
        self._limiter.start(worker.worker_threads)

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Reports what is left to report."""
        self._limiter.stop()


class FairQueue(queue.PriorityQueue[Any]):
    """A thread-safe queue of Dramatiq's work items, in the order of `Lanes`, at the limiter's pace."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__()
        self._limiter = limiter
        self._lanes: Lanes[Any] = Lanes()

    def qsize(self) -> int:
        """How many items wait."""
        with self._limiter.lock:
            return len(self._lanes)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002 - the signature is queue.Queue's
        """Has an item wait."""
        with self.mutex:
            self.unfinished_tasks += 1
        self._add(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The item whose turn it is; a job only if there is a slot for it, unless `block` is off.

        Raises:
            queue.Empty: if there was none in time.
        """
        limiter = self._limiter
        with limiter.lock:
            if not block:
                return self._take(gated=False)
            until = time.monotonic() + (float("inf") if timeout is None else timeout)
            while True:
                try:
                    item = self._take(gated=limiter.is_running)
                except queue.Empty:
                    left = until - time.monotonic()
                    if left <= 0:
                        raise
                    limiter.sleep(left)
                else:
                    limiter.pass_on()
                    return item

    def withdraw(self) -> list[tuple[Any, timedelta]]:
        """Takes out what would wait here for long, with the time after which it should come back."""
        withdrawn = []
        limiter = self._limiter
        with limiter.lock:
            for task, waiting in self._lanes.tasks().items():
                if not task:
                    continue
                keep, wait_s, pace = limiter.horizon(TaskId(task), HOLD_S)
                items = self._lanes.withdraw(task, waiting - keep)
                if items:
                    limiter.agent.leave(items[0].message.args[0].task_id, jobs=len(items))
                # They come back as they will be needed, and never all at once.
                for place, item in enumerate(reversed(items), start=keep):
                    delay_s = min(wait_s + place / pace, limiter.LONGEST_ABSENCE_S)
                    withdrawn.append((item, timedelta(seconds=delay_s * (0.75 + random.random() / 2))))
        return withdrawn

    def drop(self) -> list[Any]:
        """Takes out all that waits."""
        dropped = []
        with suppress(queue.Empty):
            while True:
                dropped.append(self.get(block=False))
                self.task_done()
        return dropped

    def given_away(self, items: int) -> None:
        """So many withdrawn items are somebody else's now."""
        for _ in range(items):
            self.task_done()

    def _add(self, item: Any) -> None:
        envelope = _envelope(item)
        limiter = self._limiter
        # Before the lock: to know a task's limit may take a question to Redis.
        limit, weight = limiter.limit_of(envelope) if envelope else (None, 0)
        with limiter.lock:
            self._lanes.put(item, lane=_lane(item), task=envelope.task_id if envelope else "")
            if envelope and limit:
                limiter.wait(envelope, limit, weight)
            else:
                limiter.pass_on()

    def _take(self, *, gated: bool) -> Any:
        try:
            item = self._lanes.take(self._may_begin) if gated else self._lanes.take()
        except IndexError:
            raise queue.Empty from None
        envelope = _envelope(item)
        if envelope and gated:
            self._limiter.begin(envelope)
        elif envelope:
            self._limiter.agent.leave(envelope.task_id)
        return item

    def _may_begin(self, task: str) -> bool:
        return self._limiter.has_slot(TaskId(task))


def _lane(item: Any) -> str:
    queue_name = item.message.queue_name
    return Priority.NORMAL.value if queue_name == SUSPECTS else queue_name


def _envelope(item: Any) -> Envelope | None:
    arguments = item.message.args
    return arguments[0] if arguments and isinstance(arguments[0], Envelope) else None
