"""`tq bench`: what the system does under loads that nobody has at hand."""

import signal
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tq.cli.app import app
from tq.cli.output import AsJson, error_console, print_json, print_table
from tq.errors import InvalidInput
from tq.settings import load_settings

if TYPE_CHECKING:
    from tq.bench.limiter import Results

COLUMNS = (
    "strategy",
    "scenario",
    "goodput",
    "waste",
    "redis/request",
    "back-off s",
    "recovery s",
    "peak 1 s",
    "small tasks p99 s",
)
LONGEST_NUMBER = 9  # digits of a seed

bench = typer.Typer(help="Measure the system against what it promises.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("limiter")
def bench_limiter(
    seeds: Annotated[
        str, typer.Option(metavar="N,N…", help="Each scenario is simulated once for each of these numbers.")
    ] = "1,2,3",
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this scenario; give it several times for several.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Only this strategy; give it several times for several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate an endpoint's troubles around the real limiter; brings its own Redis, takes a minute or two.

    Goodput is the share of what could have succeeded, waste the failed calls for each success. Goodput,
    waste, Redis commands and waits are means over the seeds; back-off, recovery and peak are the worst.
    """
    from tq.bench.limiter import STRATEGIES, run_trials
    from tq.bench.scenarios import SCENARIOS
    from tq.telemetry import configure_logs

    configure_logs(load_settings().model_copy(update={"log_level": "WARNING"}), component="bench")
    strategies = chosen("--strategy", strategy, STRATEGIES)
    scenarios = chosen("--scenario", scenario, SCENARIOS)
    numbers = _seeds(seeds)
    ends_as_by_ctrl_c()
    with progress_of("simulating", len(strategies) * len(scenarios) * len(numbers)) as one_more:
        results = run_trials(strategies, scenarios, numbers, on_end=one_more)
    if as_json:
        print_json(
            {
                name: {each: asdict(figures) for each, figures in found.items()}
                for name, found in results.items()
            }
        )
    else:
        _show(results)


def _show(results: "Results") -> None:
    rows: list[tuple[object, ...]] = []
    for strategy, scenarios in results.items():
        for scenario, found in scenarios.items():
            p99 = found.small_task_p99_wait_s
            rows.append(
                (
                    strategy,
                    scenario,
                    f"{found.goodput:.1%}",
                    f"{found.waste:.4f}",
                    f"{found.redis_per_request:.3f}",
                    _text(found.backoff_s),
                    _text(found.recovery_s),
                    str(found.peak_1s),
                    None if p99 is None else f"{p99:.1f}",
                )
            )
        every = list(scenarios.values())
        rows.append(
            (
                strategy,
                "mean",
                f"{statistics.fmean(each.goodput for each in every):.1%}",
                f"{statistics.fmean(each.waste for each in every):.4f}",
                f"{statistics.fmean(each.redis_per_request for each in every):.3f}",
                *[None] * 4,
            )
        )
    print_table(COLUMNS, rows)


def _text(seconds: int | None) -> str | None:
    return None if seconds is None else str(seconds)


def chosen(option: str, asked: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """What was asked for, once each; all that there are if nothing was."""
    for name in asked or ():
        if name not in known:
            raise InvalidInput(f"{option}: there is no {name!r}; known are {', '.join(known)}")
    return list(dict.fromkeys(asked or known))


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= LONGEST_NUMBER for word in words):
        raise InvalidInput(f"--seeds: {text!r} is not a list of whole numbers; write for example 1,2,3")
    return list(dict.fromkeys(int(word) for word in words))


def ends_as_by_ctrl_c() -> None:
    """Has SIGTERM end this process as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def progress_of(what: str, steps: int) -> Iterator[Callable[[], None]]:
    """A bar for whoever watches; what it yields is called for each step that has ended."""
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=steps)
        yield lambda: progress.advance(task)
