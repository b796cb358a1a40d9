"""Every log line of a message's work carries its ids: task, user, run, job, attempt."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy
from loguru import logger

from tq.models import Envelope


class LogContext(dramatiq.Middleware):
    """Binds a message's ids while it is worked on."""

    def __init__(self) -> None:
        self._local = threading.local()

    def before_process_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Binds the ids."""
        context: AbstractContextManager[None] = logger.contextualize(**_ids(message))
        context.__enter__()
        self._local.context = context

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        _message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """Lets go of them."""
        self._leave()

    def after_skip_message(self, _broker: dramatiq.Broker, _message: MessageProxy) -> None:
        """Lets go of them, for after a skip no other hook runs."""
        self._leave()

    def _leave(self) -> None:
        context = getattr(self._local, "context", None)
        if context is not None:
            self._local.context = None
            context.__exit__(None, None, None)


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
