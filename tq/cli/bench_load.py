"""`tq bench execute`, `slow`, …: the figures by which a deployment is sized, each beside the stock way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tq.cli.bench import bench, chosen, ends_as_by_ctrl_c, progress_of
from tq.cli.output import AsJson, print_json, print_table, shown
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
    traces: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="The part of the jobs that is traced, such as 0.01; else none is."
        ),
    ] = None,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Carry out jobs whose endpoint answers at once, beside a stock Dramatiq worker with httpx."""
    from tq.bench.load import EXECUTE

    load = replace(_sized(EXECUTE, jobs, stock_jobs, processes), traces=traces)
    _bench_load("execute", load, repeat, as_json=as_json)


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
    tell("latency", figures, as_json=as_json)


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
    tell("fanout", figures, as_json=as_json)


@bench.command("run")
def bench_run(
    users: Users = 1_000_000,
    stock_jobs: Annotated[
        int, typer.Option("--stock-jobs", min=0, help="Jobs that the stock way does; 0 leaves it out.")
    ] = 20_000,
    processes: ProcessCount = 2,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Carry out a whole run of Python code that does nothing, beside a stock Dramatiq worker."""
    from tq.bench.whole import Whole
    from tq.bench.whole import bench_run as measure

    with _measuring("run", steps=2 * repeat) as on_step:
        figures = measure(Whole(users, stock_jobs, processes), repeat=repeat, on_step=on_step)
    tell("run", figures, as_json=as_json)


@bench.command("memory")
def bench_memory(users: Users = 1_000_000, as_json: AsJson = False) -> None:
    """Tell what users, a run and its queued jobs cost in Redis' memory."""
    from tq.bench.memory import STAGES
    from tq.bench.memory import bench_memory as measure

    with _measuring("memory", steps=STAGES) as on_step:
        figures = measure(users, on_step=on_step)
    tell("memory", figures, as_json=as_json)


@bench.command("tick")
def bench_tick(
    tasks: Annotated[int, typer.Option(min=1, help="Task types.")] = 300,
    cohorts: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Cohorts of each task that fall due together; several times for several."),
    ] = None,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Find and claim what has fallen due: how long a tick takes, and its longest script."""
    from tq.bench.ticks import Timetable
    from tq.bench.ticks import bench_tick as measure

    timetable = Timetable(tasks, tuple(cohorts or Timetable.cohorts))
    with _measuring("tick", steps=repeat * len(timetable.cohorts)) as on_step:
        figures = measure(timetable, repeat=repeat, on_step=on_step)
    tell("tick", figures, as_json=as_json)


@bench.command("scrape")
def bench_scrape(
    tasks: Annotated[int, typer.Option(min=1, help="Task types.")] = 300,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Scrape all metrics there may be: how long that takes, and the longest script."""
    from tq.bench.scrape import bench_scrape as measure

    with _measuring("scrape", steps=repeat) as on_step:
        figures = measure(tasks, repeat=repeat, on_step=on_step)
    tell("scrape", figures, as_json=as_json)


@bench.command("profile")
def bench_profile(
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of slices, with a profile and without.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.5, max=300, help="How long a slice lasts.")] = 5.0,
    users: Users = 10_000,
    processes: ProcessCount = 2,
    as_json: AsJson = False,
) -> None:
    """Take CPU profiles of busy workers: how much of their throughput they keep meanwhile."""
    from tq.bench.profiled import Slices
    from tq.bench.profiled import bench_profile as measure

    with _measuring("profile", steps=2 * pairs) as on_slice:
        figures = measure(Slices(pairs, seconds, users, processes), on_slice=on_slice)
    tell("profile", figures, as_json=as_json)


@bench.command("soak")
def bench_soak(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long it lasts.")] = 30.0,
    per_second: Annotated[float, typer.Option(min=1.0, help="Jobs a second.")] = 500.0,
    as_json: AsJson = False,
) -> None:
    """Work steadily for long: whether memory or open files grow, and nobody is missed."""
    from tq.bench.soak import Soak
    from tq.bench.soak import bench_soak as measure

    soak = Soak(per_second, timedelta(minutes=minutes))
    with _measuring("soak", steps=ceil(soak.lasts.total_seconds() / soak.sample_every_s)) as on_sample:
        figures = measure(soak, on_sample=on_sample)
    tell("soak", figures, as_json=as_json)


@bench.command("all")
def bench_all(
    users: Users = 1_000_000,
    soak_minutes: Annotated[float, typer.Option(min=0.05, help="How long the soak lasts.")] = 30.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this bench; give it several times for several.")
    ] = None,
    repeat: Repeat = 3,
    as_json: AsJson = False,
) -> None:
    """Run all of these benches, one after the other; the soak alone takes as long as it is to last."""
    from tq.bench.everything import every_bench, has_failed, run_all

    benches = every_bench(users=users, repeat=repeat, soak=timedelta(minutes=soak_minutes))
    chosen_benches = {name: benches[name] for name in chosen("--only", only, benches)}
    with _measuring("all", steps=len(chosen_benches)) as on_end:
        report = run_all(chosen_benches, on_end=on_end)
    if as_json:
        print_json(report)
    else:
        for name in chosen_benches:
            figures = cast("dict[str, object]", report[name])  # as `run_all` has put it there
            print_table((name, "median", "range"), list(_rows(figures)))
    if has_failed(report):
        raise typer.Exit(1)


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
    tell(name, figures, as_json=as_json)


def tell(name: str, figures: Mapping[str, object], *, as_json: bool) -> None:
    """Prints the figures.

    Raises:
        typer.Exit: with 1, if jobs are unaccounted for.
    """
    if as_json:
        print_json({"bench": name, **figures})
    else:
        rows = list(_rows(figures))
        print_table((name, "median", "range"), rows)
    if figures.get("unaccounted"):
        raise typer.Exit(1)


def _rows(figures: Mapping[str, object]) -> Iterator[tuple[str, str, str | None]]:
    """A row for each figure, also for those that are a group; with its range, if there is one."""
    ranges = figures.get("ranges")
    for name, value in figures.items():
        if isinstance(value, dict):
            if name not in NOT_FIGURES:
                yield from ((f"{name}: {part}", _number(number), None) for part, number in value.items())
        else:
            yield name, _number(value), _range(ranges, name)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else shown(value)


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
    ends_as_by_ctrl_c()
    with progress_of(name, steps) as on_step:
        yield on_step
