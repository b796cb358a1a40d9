"""How a worker process and a scheduler process are started."""

import sys
from collections.abc import Sequence
from datetime import timedelta

from tq.clock import duration_ms

# The actors come first, so that all of periodiq's lines are written as they configure it.
START_PERIODIQ = (
    "import importlib, sys; importlib.import_module(sys.argv[1]); import periodiq; periodiq.entrypoint()"
)


def worker_command(
    actors: str,
    *,
    threads: int,
    shutdown_timeout: timedelta,
    queues: Sequence[str] = (),
) -> list[str]:
    """Dramatiq's command with one worker process, which a supervisor restarts alone."""
    command = [sys.executable, "-m", "dramatiq", actors, "--processes", "1", "--threads", str(threads)]
    command += ["--skip-logging", "--worker-shutdown-timeout", str(duration_ms(shutdown_timeout))]
    if queues:
        command += ["--queues", *queues]
    return command


def scheduler_command(actors: str) -> list[str]:
    """periodiq's command. It cannot be run as a module, and its script may not be on PATH."""
    return [sys.executable, "-c", START_PERIODIQ, actors]
