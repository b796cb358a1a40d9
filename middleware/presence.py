"""A scheduler shows itself with every tick that it sends.

So one that is shown is one that ticks, whoever keeps it running; and while Redis is away, showing
itself costs it nothing, because a tick that could not be sent is not followed by it. Its health file says
that it still wakes up, which it does without Redis, too.
"""

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

    def before_enqueue(
        self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """Touches the health file of a scheduler, whether Redis takes its tick or not."""
        if BY_SCHEDULE in message.options:
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
