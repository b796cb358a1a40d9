"""`tq dev`: the main job at work on this machine. How it is done stands in `tq.cli.demo`."""

from pathlib import Path
from typing import Annotated

import typer

from tq.cli.app import app
from tq.errors import InvalidInput


@app.command()
def dev(
    users: Annotated[
        int, typer.Option(min=1, max=5_000_000, help="How many users have the task enabled.")
    ] = 1000,
    once: Annotated[bool, typer.Option("--once", help="End when the run has ended.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="With --once: print the figures as JSON, last.")
    ] = False,
    tasks: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Your own tasks file instead of the demo's."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Which of its tasks to run; else the first.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads per worker process.")] = 32,
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept between starts.")] = Path(
        ".tq-dev"
    ),
) -> None:
    """Run everything here: Redis, workers, scheduler, a demo endpoint, and a run of many users."""
    if json_output and not once:
        raise InvalidInput("--json: the figures are those of a run that has ended; add --once")
    # Takes a quarter of a second, which no other command and no --help should wait for.
    from tq.cli.demo import run_demo

    run_demo(
        users=users,
        once=once,
        json_output=json_output,
        tasks=tasks,
        task=task,
        processes=processes,
        threads=threads,
        folder=folder,
    )
