"""Every log line of a message's work carries its ids: task, user, run, job, attempt."""

from functools import partial
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy

from tq.models import Envelope
from tq.telemetry import set_work


class LogContext(dramatiq.Middleware):
    """Names a message's ids while it is worked on."""

    def before_process_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Lines of this thread carry the ids from now on."""
        set_work(partial(_ids, message))

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        _message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """They do no more."""
        set_work(None)

    def after_skip_message(self, _broker: dramatiq.Broker, _message: MessageProxy) -> None:
        """Likewise, for after a skip no other hook runs."""
        set_work(None)


def _ids(message: MessageProxy) -> dict[str, object]:
    argument = message.args[0] if message.args else None
    if isinstance(argument, Envelope):
        return {
            "task_id": argument.task_id,
            "user_id": argument.user_id,
            "run_id": argument.run_id,
            "job_id": argument.job_id,
            "attempt": argument.attempt,
        }
    return {"actor": message.actor_name, **({"run_id": argument} if isinstance(argument, str) else {})}
