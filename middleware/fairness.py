"""The worker's queue, fair over priorities and tasks.

Dramatiq's own is strict: as long as something more urgent waits, nothing else is served.
"""

import queue
from typing import Any

import dramatiq

from tq.lanes import Lanes
from tq.models import Envelope

# With the default of twice the threads, a consumer that has its fill sleeps while threads go idle.
LEAST_PREFETCH = 64


class FairDispatch(dramatiq.Middleware):
    """Gives a worker the fair queue before any of its threads exists."""

    def before_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replaces the worker's queue."""
        worker.work_queue = FairQueue()
        worker.queue_prefetch = max(LEAST_PREFETCH, worker.queue_prefetch)


class FairQueue(queue.PriorityQueue[Any]):
    """A thread-safe queue of Dramatiq's work items, in the order of `Lanes`."""

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - the signature is queue.Queue's
        self._lanes: Lanes[Any] = Lanes()

    def _qsize(self) -> int:
        return len(self._lanes)

    def _put(self, item: Any) -> None:
        arguments = item.message.args
        task = arguments[0].task_id if arguments and isinstance(arguments[0], Envelope) else ""
        self._lanes.put(item, lane=item.message.queue_name, task=task)

    def _get(self) -> Any:
        return self._lanes.take()
