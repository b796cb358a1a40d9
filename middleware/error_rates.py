"""How calls come out, per task and in all, in slots of ten seconds that every process can read.

Counted here, and carried to Redis with the limiter's next exchange, within a second: so counting
costs no round trip of its own. Read with `store.limits.outcomes`.
"""

import dramatiq

from tq.models import Envelope, ExecutionResult, TaskType
from tq.runtime import Runtime


class ErrorRates(dramatiq.Middleware):
    """Counts every call that was made, by how it came out."""

    def __init__(self, runtime: Runtime) -> None:
        self._limiter = runtime.limiter
        runtime.observers.append(self._count)

    def _count(self, envelope: Envelope, _task: TaskType, result: ExecutionResult) -> None:
        self._limiter.count(envelope, result)
