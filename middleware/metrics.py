"""What each attempt and each tick took, and how attempts came out, for whoever watches.

Noted as it happens; the upkeep loop brings it to Redis every few seconds, in one script for all that was seen.
"""

import threading
import time

import dramatiq
from dramatiq.broker import MessageProxy

from tq.runtime import Runtime
from tq.telemetry.observations import TICK

TICK_ACTOR = "tick"


class Metrics(dramatiq.Middleware):
    """Notes how long ticks take; attempts are noted where they are judged."""

    def __init__(self, runtime: Runtime) -> None:
        self._observations = runtime.observations
        self._own = threading.local()

    def before_process_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """A tick begins."""
        if message.actor_name == TICK_ACTOR:
            self._own.began = time.monotonic()

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,
    ) -> None:
        """A tick has ended; one that failed claims nothing and says nothing of how long ticks take."""
        if message.actor_name == TICK_ACTOR and exception is None:
            self._observations.time(TICK, "", time.monotonic() - self._own.began)
