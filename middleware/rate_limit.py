"""The limiter around each job's work: the last gate before a call, and its eyes after it.

Jobs come through `FairQueue`, which gives each its slot. What comes without one, or has been held up
since, waits here for a moment and then goes back: it keeps its attempt, and its thread is free.
"""

from datetime import timedelta

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.middleware import SkipMessage

from tq.models import Envelope, ExecutionResult, TaskType
from tq.runtime import Runtime

# Long enough for a question to Redis, too short to keep a thread from other work.
LAST_WAIT_S = 0.25


class RateLimit(dramatiq.Middleware):
    """Lets a call begin when the limiter has a slot for it, and tells the limiter how it came out."""

    def __init__(self, runtime: Runtime) -> None:
        self._limiter = runtime.limiter
        runtime.observers.append(self._learn)

    def before_process_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Stops a job that has no slot; it is put off, not lost.

        Raises:
            SkipMessage: which is what stops a message; any other exception would let it pass.
        """
        envelope = _envelope(message)
        if envelope is None:
            return
        wait_s = self._limiter.enter(envelope, patience_s=LAST_WAIT_S)
        if wait_s > 0:
            message.put_off_for = timedelta(seconds=wait_s)  # type: ignore[attr-defined] # the broker's consumer reads it
            raise SkipMessage(f"no slot within {LAST_WAIT_S} s")

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """The job's thread is free again."""
        self._end(message)

    def after_skip_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Likewise, for after a skip no other hook runs."""
        self._end(message)

    def _learn(self, envelope: Envelope, task: TaskType, result: ExecutionResult) -> None:
        self._limiter.learn(envelope, result, most_hold=task.retry_after_max)

    def _end(self, message: MessageProxy) -> None:
        envelope = _envelope(message)
        if envelope is not None:
            self._limiter.end(envelope)


def _envelope(message: MessageProxy) -> Envelope | None:
    return message.args[0] if message.args and isinstance(message.args[0], Envelope) else None
