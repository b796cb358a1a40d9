"""A process that answers what is asked for debugging shows at which port it does.

Only there if TQ_DEBUG_ENDPOINTS is set. The server begins in the process that works, since its thread
survives no fork: in a worker when that boots, in a scheduler before the first tick that it sends, which is
as it starts.
"""

from typing import Any

import dramatiq
from loguru import logger

from middleware.presence import BY_SCHEDULE
from tq.debugging import DebugServer
from tq.runtime import Runtime


class Debugging(dramatiq.Middleware):
    """Runs the server from the beginning of the process' work to its end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._server: DebugServer | None = None

    def before_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Opens it in a worker."""
        self._open()

    def before_enqueue(
        self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """Opens it in a scheduler, which is about to send a tick."""
        if BY_SCHEDULE in message.options:
            self._open()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Closes it, last of all, so that a process that takes long to end can be asked why."""
        server, self._server = self._server, None
        if server is not None:
            self._runtime.facts.pop("debug_port", None)
            server.close()

    def _open(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = DebugServer()
        except OSError as error:
            logger.warning("no port for debugging; the process goes on without", reason=str(error))
            return
        self._runtime.facts["debug_port"] = self._server.port
        logger.info("answers what is asked for debugging", port=self._server.port)
