"""A scheduler shows itself with every tick that it sends.

So one that is shown is one that ticks, whoever keeps it running; and while Redis is away, showing
itself costs it nothing, because a tick that could not be sent is not followed by it. Its health file says
that it still wakes up, which it does without Redis, too, and goes away when it is asked to end.
"""

import atexit
import signal
import sys
import threading
from typing import Any

import dramatiq
from loguru import logger

from tq.errors import StoreError
from tq.health_file import HealthFile
from tq.runtime import Runtime
from tq.store.heartbeats import SCHEDULER, Presence

BY_SCHEDULE = "scheduled_at"  # what periodiq notes on the messages that it sends


class SchedulerPresence(dramatiq.Middleware):
    """Shows the process that sends what is periodic."""

    def __init__(self, runtime: Runtime) -> None:
        self._presence = Presence(runtime.store.heartbeats, SCHEDULER, runtime.facts)
        self._health = HealthFile(runtime.settings.health_file)
        self._has_file = False

    def before_enqueue(
        self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """Touches the health file of a scheduler, whether Redis takes its tick or not."""
        if BY_SCHEDULE not in message.options:
            return
        if not self._has_file:
            self._has_file = True
            end_in_order()
            atexit.register(self._health.remove)
        self._health.touch()

    def after_enqueue(
        self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """Shows this process, if it is a scheduler that has just sent a tick."""
        if BY_SCHEDULE not in message.options:
            return
        try:
            self._presence.show()
        except StoreError as error:
            logger.warning("scheduler not shown; the next tick shows it", reason=str(error))


def end_in_order() -> None:
    """Has a scheduler that is asked to end do so as programs do that were not asked: what is left to do is done."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
