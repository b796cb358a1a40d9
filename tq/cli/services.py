"""`tq worker` and `tq scheduler`: Dramatiq's and periodiq's own commands, kept running.

Each worker process is a command of its own, because when one of Dramatiq's processes dies, its
command ends all others. Both services wait for Redis before they start anything, and end on SIGTERM
or Ctrl-C at any time.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from loguru import logger

from tq.cli.app import app, load_actors, open_runtime
from tq.cli.arguments import duration_of
from tq.clock import Stopwatch
from tq.errors import InvalidInput, StoreUnavailable
from tq.health_file import FRESH, FRESH_SCHEDULER, Ward
from tq.models import format_duration
from tq.services import scheduler_command, worker_command
from tq.settings import Settings, load_settings, without_password
from tq.supervisor import Child, Supervisor

if TYPE_CHECKING:
    from tq.runtime import Runtime

LOOK_EVERY_S = 1.0
TOLD_EVERY = timedelta(seconds=10)
# By default as long as a call may take by default, so that none is cut off.
SHUTDOWN_TIMEOUT = timedelta(seconds=30)
# What a worker has after its last job, to put back what it fetched and close its connections; it ends by
# itself when that is over (see middleware/departure.py).
LEAVE_TAKING = timedelta(seconds=10)
SCHEDULER_STOP_TIMEOUT = timedelta(seconds=5)


@app.command("worker")
def run_workers(
    processes: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Worker processes; by default one per CPU.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=10_000, help="Calls at a time in each process.")] = 8,
    queues: Annotated[
        list[str] | None,
        typer.Option(help="Only this queue; give it several times for several. By default all."),
    ] = None,
    shutdown_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long calls may go on after SIGTERM.")
    ] = format_duration(SHUTDOWN_TIMEOUT),
) -> None:
    """Run worker processes, each restarted alone when it ends."""
    patience = duration_of("--shutdown-timeout", shutdown_timeout, least=timedelta(0))
    settings = load_settings()
    _check_queues(settings, queues or [])
    command = worker_command(settings.actors, threads=threads, shutdown_timeout=patience, queues=queues or [])
    _allow_open_files()
    count = processes or os.cpu_count() or 1
    commands = {f"worker-{number}": command for number in range(1, count + 1)}
    _serve(settings, "worker", commands, stop_timeout=patience + LEAVE_TAKING, fresh=FRESH)


@app.command("scheduler")
def run_scheduler() -> None:
    """Run the clock that starts what has fallen due; one is enough, several do no harm."""
    settings = load_settings()
    commands = {"scheduler": scheduler_command(settings.actors)}
    _serve(settings, "scheduler", commands, stop_timeout=SCHEDULER_STOP_TIMEOUT, fresh=FRESH_SCHEDULER)


def _check_queues(settings: Settings, names: Sequence[str]) -> None:
    # Dramatiq takes any name, and would wait for ever at a queue that nobody writes to.
    known = load_actors(settings).broker.get_declared_queues() if names else ()
    for name in names:
        if name not in known:
            raise InvalidInput(f"--queues: {name!r} is not a queue; known are {', '.join(sorted(known))}")


def _serve(
    settings: Settings,
    component: str,
    commands: Mapping[str, Sequence[str]],
    *,
    stop_timeout: timedelta,
    fresh: timedelta,
) -> None:
    """Keeps commands running, each under its name; `fresh` is how old their health files may be."""
    from tq.telemetry import configure_logs

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    ward = Ward(settings.health_file, commands, fresh=fresh)
    children = [Child(name, command, env=ward.environment_of(name)) for name, command in commands.items()]
    with ward:
        with closing(open_runtime(settings)) as runtime:
            configure_logs(settings, component=component)
            declared = len(runtime.registry.current.tasks)
            _wait_for_redis(runtime, ward)
        logger.info(
            "service starts",
            children=len(children),
            tasks=declared,
            redis=without_password(settings.redis_url),
            namespace=settings.namespace,
        )
        code = Supervisor(children, stop_timeout=stop_timeout).run(meanwhile=ward.look)
    raise typer.Exit(code)


def _allow_open_files() -> None:
    """Lets worker processes open as many files as the system allows at all: a call takes up to three."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where there is no limit, some systems mean a number all the same
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _wait_for_redis(runtime: "Runtime", ward: Ward) -> None:
    """Returns when Redis answers; an answer that waiting cannot change, such as a refused login, is an error."""
    since_told: Stopwatch | None = None
    while True:
        ward.touch()
        try:
            runtime.store.ping()
        except StoreUnavailable as error:
            if since_told is None or since_told.elapsed >= TOLD_EVERY:
                since_told = Stopwatch()
                logger.warning("waiting for Redis", reason=str(error))
            time.sleep(LOOK_EVERY_S)
        else:
            return


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends a service that is asked to end while nothing of it runs yet."""
    sys.exit(0)
