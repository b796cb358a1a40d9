"""`tq bench execute`, `slow`, …: the figures by which a deployment is sized, each beside the stock way."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tq.cli.bench import bench
from tq.cli.output import AsJson, error_console, print_json, print_table
from tq.settings import load_settings

if TYPE_CHECKING:
    from tq.bench.load import Load, OnStep

Repeat = Annotated[int, typer.Option(min=1, max=100, help="How often it is measured, for median and range.")]
Jobs = Annotated[
    int | None, typer.Option(min=10, help="Jobs of a repetition; by default some seconds' worth.")
]
StockJobs = Annotated[
    int | None, typer.Option("--stock-jobs", min=0, help="Jobs that the stock way is given; 0 leaves it out.")
]
ProcessCount = Annotated[int, typer.Option("--processes", min=1, max=64, help="Worker processes.")]
Users = Annotated[int, typer.Option(min=100, help="Users who have the task enabled.")]
NOT_FIGURES = ("ranges", "machine")


@bench.command("execute")
def bench_execute(
    jobs: Jobs = None,
    stock_jobs: StockJobs = None,
    processes: ProcessCount = 2,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Carry out jobs whose endpoint answers at once, beside a stock Dramatiq worker with httpx."""
    from tq.bench.load import EXECUTE

    _bench_load("execute", _sized(EXECUTE, jobs, stock_jobs, processes), repeat, as_json=as_json)


@bench.command("slow")
def bench_slow(
    jobs: Jobs = None,
    stock_jobs: StockJobs = None,
    processes: ProcessCount = 2,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Carry out jobs whose endpoint takes 200 ms, beside a stock Dramatiq worker with httpx."""
    from tq.bench.load import SLOW

    _bench_load("slow", _sized(SLOW, jobs, stock_jobs, processes), repeat, as_json=as_json)


@bench.command("latency")
def bench_latency(
    per_second: Annotated[float, typer.Option(min=1.0, help="Jobs a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long a repetition lasts.")] = 10.0,
    with_stock: Annotated[
        bool, typer.Option("--stock/--no-stock", help="Whether the stock way is beside it.")
    ] = True,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Put jobs into the queue one at a time: how soon each one's call begins, beside a stock Dramatiq worker."""
    from tq.bench.latency import Trickle
    from tq.bench.latency import bench_latency as measure

    with _measuring("latency", steps=2 * repeat) as on_step:
        figures = measure(Trickle(per_second, seconds, with_stock), repeat=repeat, on_step=on_step)
    _tell("latency", figures, as_json=as_json)


@bench.command("fanout")
def bench_fanout(
    users: Users = 1_000_000,
    stock_jobs: Annotated[
        int, typer.Option("--stock-jobs", min=0, help="Jobs that the stock way sends; 0 leaves it out.")
    ] = 20_000,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Put the jobs of a large run into the queue, beside stock Dramatiq's actor.send."""
    from tq.bench.fanout import Crowd
    from tq.bench.fanout import bench_fanout as measure

    with _measuring("fanout", steps=2 * repeat) as on_step:
        figures = measure(Crowd(users, stock_jobs), repeat=repeat, on_step=on_step)
    _tell("fanout", figures, as_json=as_json)


def _sized(load: "Load", jobs: int | None, stock_jobs: int | None, processes: int) -> "Load":
    return replace(
        load,
        jobs=load.jobs if jobs is None else jobs,
        stock_jobs=load.stock_jobs if stock_jobs is None else stock_jobs,
        processes=processes,
    )


def _bench_load(name: str, load: "Load", repeat: int, *, as_json: bool) -> None:
    from tq.bench.load import bench_load

    with _measuring(name, steps=2 * repeat) as on_step:
        figures = bench_load(load, repeat=repeat, on_step=on_step)
    _tell(name, figures, as_json=as_json)


def _tell(name: str, figures: Mapping[str, object], *, as_json: bool) -> None:
    """Prints the figures.

    Raises:
        typer.Exit: with 1, if jobs are unaccounted for.
    """
    if as_json:
        print_json({"bench": name, **figures})
    else:
        ranges = figures["ranges"]
        rows = [
            (figure, _number(value), _range(ranges, figure))
            for figure, value in figures.items()
            if figure not in NOT_FIGURES
        ]
        print_table((name, "median", "range"), rows)
    if figures.get("unaccounted"):
        raise typer.Exit(1)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _range(ranges: object, figure: str) -> str | None:
    found = ranges.get(figure) if isinstance(ranges, dict) else None
    return None if found is None else " - ".join(_number(value) for value in found)


@contextmanager
def _measuring(name: str, *, steps: int) -> Iterator["OnStep"]:
    """Keeps what is measured from printing, and shows whoever watches how far it is."""
    from tq.cli.app import load_actors
    from tq.telemetry import configure_logs

    settings = load_settings()
    load_actors(settings)  # configures the logs for a worker, so it comes first
    configure_logs(settings.model_copy(update={"log_level": "WARNING"}), component="bench")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as cleanly as Ctrl-C
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda: progress.advance(task)
