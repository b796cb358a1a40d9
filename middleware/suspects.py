"""Jobs that may have killed the process that had them before, worked with no other call beside them.

What a dead process had begun comes back through a queue of its own (Dramatiq's issue 213: else it
would come back again and again, and take its neighbours with it). A suspect waits until this process
makes no call, and all other calls wait for it. So if it kills once more, it alone was begun, and the ledger,
which counts suspects as they begin, knows whom to blame. Between two of them others get their turn.
"""

import threading
from collections.abc import Callable
from datetime import timedelta

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.middleware import SkipMessage

from tq.models import SUSPECTS, Envelope


class Suspects(dramatiq.Middleware):
    """Lets suspects pass one at a time and alone, and other jobs together."""

    def __init__(self) -> None:
        self._passage = threading.Condition()
        self._waiting = 0  # suspects, which no other job may overtake
        self._inside: set[int] = set()
        self._is_suspect_inside = False
        self._is_closing = False

    def after_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Opens the passage."""
        self._is_closing = False

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Sends back who waits: nobody begins a call any more."""
        with self._passage:
            self._is_closing = True
            self._passage.notify_all()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Waits until the job may run beside what runs; marks who holds it, and a suspect as one.

        Raises:
            SkipMessage: if the worker ends meanwhile; the job goes back.
        """
        if not message.args or not isinstance(message.args[0], Envelope):
            return
        message.args[0].holder, message.args[0].queue = getattr(broker, "broker_id", ""), message.queue_name
        with self._passage:
            if message.queue_name == SUSPECTS:
                message.args[0].is_suspect = True
                self._waiting += 1
                try:
                    self._wait(message, lambda: not self._inside)
                finally:
                    self._waiting -= 1
                self._is_suspect_inside = True
            else:
                self._wait(message, lambda: not self._is_suspect_inside and not self._waiting)
            self._inside.add(id(message))

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """Lets others pass."""
        self._leave(message)

    def after_skip_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Likewise, for after a skip no other hook runs."""
        self._leave(message)

    def _wait(self, message: MessageProxy, may_pass: Callable[[], bool]) -> None:
        if may_pass():
            return
        self._passage.wait_for(lambda: self._is_closing or may_pass())
        if self._is_closing:
            message.put_off_for = timedelta(0)  # type: ignore[attr-defined] # the broker's consumer reads it
            raise SkipMessage("the worker ends")

    def _leave(self, message: MessageProxy) -> None:
        with self._passage:
            if id(message) in self._inside:
                self._inside.remove(id(message))
                self._is_suspect_inside = False
                self._passage.notify_all()
