"""How a worker process, a scheduler process and a web process are started."""

import sys
from collections.abc import Sequence
from datetime import timedelta

from tq.clock import duration_ms
from tq.models import SUSPECTS, Priority

PRIORITIES = frozenset(priority.value for priority in Priority)
# The actors come first, so that all of periodiq's lines are written as they configure it.
START_PERIODIQ = (
    "import importlib, sys; importlib.import_module(sys.argv[1]); import periodiq; periodiq.entrypoint()"
)

START_TQ = "import sys; from tq.cli import main; sys.exit(main())"


def worker_command(
    actors: str,
    *,
    threads: int,
    shutdown_timeout: timedelta,
    queues: Sequence[str] = (),
) -> list[str]:
    """Dramatiq's command with one worker process, which a supervisor restarts alone.

    Suspects of whatever queue have one of their own, so who takes jobs takes suspects, too.
    """
    command = [sys.executable, "-m", "dramatiq", actors, "--processes", "1", "--threads", str(threads)]
    command += ["--skip-logging", "--worker-shutdown-timeout", str(duration_ms(shutdown_timeout))]
    if queues:
        takes_jobs = not PRIORITIES.isdisjoint(queues)
        command += ["--queues", *queues, *([SUSPECTS] if takes_jobs and SUSPECTS not in queues else [])]
    return command


def web_command() -> list[str]:
    """`tq web`; likewise, its script may not be on PATH."""
    return [sys.executable, "-c", START_TQ, "web"]


def scheduler_command(actors: str) -> list[str]:
    """periodiq's command. It cannot be run as a module, and its script may not be on PATH."""
    return [sys.executable, "-c", START_PERIODIQ, actors]
