"""What `tq dev` does: the main job at work on this machine, from an empty folder to finished jobs."""

import os
import signal
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tq.cli.app import open_runtime
from tq.cli.output import error_console
from tq.cli.runs import end_told
from tq.clock import Stopwatch
from tq.dev.population import PULSE, populate
from tq.dev.source_watch import SourceWatch
from tq.dev.system import NAMESPACE, DevSystem, running_system
from tq.errors import StoreUnavailable, TaskQueueError
from tq.limits import EVERY_TASK, limit_everything, limit_of
from tq.models import Run, RunId, RunStatus, TaskId
from tq.models.rates import format_rate
from tq.pipeline import forecast, start_run
from tq.runtime import Runtime
from tq.settings import Settings, load_settings
from tq.telemetry import configure_logs

REFRESH_S = 0.25
SPOKEN_EVERY = timedelta(seconds=5)
RUNS_SHOWN = 8
SHOWN = ("expected", "success", "failed", "open", "retries", "expired", "skipped")
console = error_console()


def run_demo(
    *,
    users: int,
    once: bool,
    json_output: bool,
    tasks: Path | None,
    task: str | None,
    processes: int,
    threads: int,
    folder: Path,
) -> None:
    """Run everything here: Redis, workers, scheduler, a demo endpoint, and a run of many users."""
    configure_logs(load_settings().model_copy(update={"log_level": "WARNING"}), component="dev")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as cleanly as Ctrl-C
    with running_system(folder=folder, tasks_file=tasks, processes=processes, threads=threads) as system:
        os.environ.update(system.environment)
        settings = Settings(
            redis_url=system.redis_url,
            namespace=NAMESPACE,
            tasks_file=Path(system.environment["TQ_TASKS_FILE"]),
            allow_private_endpoints=True,
        )
        runtime = open_runtime(settings)
        try:
            task_id = _chosen(runtime, task)
            enabled = populate(runtime.store, task_id, users, pulse=PULSE in runtime.registry.current.tasks)
            console.print(f"{enabled:,} users have {task_id} enabled; logs are in {folder / 'logs'}")
            console.print(f"health: {system.web_url}/health, and what is going on: {system.web_url}/stats")
            console.print(f"in another terminal: source {folder / 'env'}, and then tq runs list, tq --help")
            system.reset_endpoint()
            watch = Stopwatch()
            run = start_run(runtime, task_id)
            # Code that changes while a run is measured is not taken up.
            with nullcontext() if once else SourceWatch(Path()) as sources:
                _show(runtime, system, run, sources)
            if once:
                figures = _figures(runtime.store.runs.get(run.id), system, watch.elapsed)
                _report(figures, enabled, json_output=json_output)
        finally:
            runtime.close()


def _chosen(runtime: Runtime, task: str | None) -> TaskId:
    registry = runtime.registry.current
    return registry.get(task).id if task else next(iter(registry.tasks))


def _show(runtime: Runtime, system: DevSystem, run: Run, sources: SourceWatch | None) -> None:
    """Shows the run until it has ended; where code is watched, for as long as Ctrl-C does not come."""
    keep_going = sources is not None
    said = ""
    spoken = Stopwatch()
    picture: Live | None = None
    if console.is_terminal:
        picture = Live(console=console, refresh_per_second=8, transient=False)
        picture.start()
    try:
        while True:
            if sources is not None and sources.take_change():
                system.supervisor.restart()
            system.supervisor.poll()
            run = _patiently(runtime, run.id)
            if picture is not None:
                picture.update(_picture(runtime, run))
            elif spoken.elapsed >= SPOKEN_EVERY:
                spoken = Stopwatch()
                before, said = said, _sentence(run)
                if said != before:
                    pace = f"; {_pace(runtime, run.task_id)}" if run.status is RunStatus.RUNNING else ""
                    console.print(said + pace)
            if run.status is not RunStatus.RUNNING and not keep_going:
                return
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        console.print("stopping")
        if not keep_going:
            raise
    finally:
        if picture is not None:
            picture.stop()


def _patiently(runtime: Runtime, run_id: RunId) -> Run:
    """The run, also while Redis restarts."""
    for _ in range(20):
        try:
            return runtime.store.runs.get(run_id)
        except StoreUnavailable:
            time.sleep(REFRESH_S)
    return runtime.store.runs.get(run_id)


def _picture(runtime: Runtime, run: Run) -> Group:
    # Who is enabled after the run was fanned out is none of its business.
    enabled = run.counts.expected if run.fanned_out else runtime.store.preferences.count(run.task_id)
    progress = Table.grid(padding=(0, 2))
    progress.add_row(
        ProgressBar(total=max(1, enabled), completed=run.counts.ended, width=50),
        f"{run.counts.ended:,} of {enabled:,} jobs of {run.task_id} have ended",
    )
    expected = forecast(runtime, run)
    if expected is not None:
        progress.add_row("", end_told(expected))
    if run.status is RunStatus.RUNNING:
        progress.add_row("", _pace(runtime, run.task_id))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run")
    table.add_column("status")
    for name in SHOWN:
        table.add_column(name, justify="right")
    latest = runtime.store.runs.latest(limit=RUNS_SHOWN)
    for one in [run, *(other for other in latest if other.id != run.id)]:
        table.add_row(one.id, one.status.value, *(f"{getattr(one.counts, name):,}" for name in SHOWN))
    hint = "Ctrl-C stops everything; data is kept" if run.status is not RunStatus.RUNNING else ""
    return Group(progress, "", table, "", hint)


def _pace(runtime: Runtime, task_id: TaskId) -> str:
    """What the limiter lets through now, and why."""
    task = runtime.registry.current.tasks.get(task_id)
    if task is None:
        return "limit: none, the task is not declared any more"
    limits = {task_id: limit_of(task, runtime.settings), EVERY_TASK: limit_everything(runtime.settings)}
    standing = runtime.store.limits.standings(limits)[task_id]
    rate = "no calls" if standing.held else f"{format_rate(standing.rate)} of {format_rate(standing.ceiling)}"
    return f"limit: {rate}, {standing.why}"


def _sentence(run: Run) -> str:
    counts = run.counts
    return (
        f"{run.id}: {counts.success:,} succeeded, {counts.failed:,} failed, {counts.open:,} open, "
        f"{counts.retries:,} retries"
    )


def _figures(run: Run, system: DevSystem, elapsed: timedelta) -> dict[str, Any]:
    counts = run.counts
    seconds = elapsed.total_seconds()
    return {
        "run_id": run.id,
        "expected": counts.expected,
        "success": counts.success,
        "failed": counts.failed,
        "expired": counts.expired,
        "cancelled": counts.cancelled,
        "skipped": counts.skipped,
        "unaccounted": counts.unaccounted + counts.open,
        "duplicates": system.endpoint_stats()["duplicates"],
        "seconds": round(seconds, 3),
        "jobs_per_second": round(counts.ended / seconds, 1),
    }


def _report(figures: dict[str, Any], enabled: int, *, json_output: bool) -> None:
    if json_output:
        sys.stdout.write(orjson.dumps(figures).decode() + "\n")
    else:
        for name, value in figures.items():
            console.print(f"{name.replace('_', ' '):>16}  {value}")
    wrong = [name for name in ("unaccounted", "duplicates") if figures[name]]
    if figures["expected"] != enabled:
        wrong.append("expected")
    if wrong:
        raise TaskQueueError(
            f"{enabled} users were enabled, but {', '.join(wrong)} is not as it should be: {figures}"
        )
