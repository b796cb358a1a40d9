"""`tq web`: what the system tells over HTTP, from a process of its own that carries out no jobs.

It starts whether Redis is there or not: that it is not is what it has to tell. It ends within seconds of being
asked to, whatever waits for an answer then.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import closing
from types import FrameType
from typing import TYPE_CHECKING

from loguru import logger

from tq.api_address import listen, url_of
from tq.cli.app import app, open_runtime
from tq.settings import load_settings, without_password

if TYPE_CHECKING:
    from fastapi import FastAPI

# For answers that are under way, and then for those threads that still wait for Redis.
ANSWERS_S = 2
LAST_WORDS_S = 5.0


@app.command("web")
def run_web() -> None:
    """Serve health, statistics and metrics over HTTP, at TQ_API_HOST and TQ_API_PORT, and tell who is to be alerted."""
    from tq.telemetry import configure_logs
    from tq.web import make_app

    settings = load_settings()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with closing(open_runtime(settings)) as runtime:
        configure_logs(settings, component="web")
        made = make_app(runtime)
        with listen(settings) as listener:
            logger.info(
                "web process serves",
                url=url_of(settings.api_host, listener.getsockname()[1]),
                token=bool(settings.api_token),
                redis=without_password(settings.redis_url),
                namespace=settings.namespace,
            )
            _serve(made, listener)


def _serve(made: "FastAPI", listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Ends in time: a thread that waits for Redis would keep the process as long as that."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                end = threading.Timer(LAST_WORDS_S, os._exit, (0,))
                end.daemon = True
                end.start()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        made,
        # Both are by our own hand: see tq/telemetry/logs.py and tq/web/requests.py.
        log_config=None,
        access_log=False,
        server_header=False,
        # Whatever may be installed beside us, these are what is tested.
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=ANSWERS_S,
    )
    Server(config).run(sockets=[listener])


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends a process that is asked to end before it serves, and after."""
    sys.exit(0)
