"""`tq bench fanout`: how fast one process puts the jobs of a large run into the queue, and in how much memory.

The run goes through distribution as any does, page by page, with cursor and ledger, but for its
backpressure: there is room for everybody. A process of its own does it, which has loaded what a worker
has. The stock way beside it is one `actor.send` for each job.

Run as a module, this is that process: it distributes the run that it is told, and notes its rate.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time, sleep

from tq.bench.load import MICROSECONDS, Meter
from tq.bench.machine import describe_machine, use_of
from tq.bench.measures import Figures, beside, over_repetitions
from tq.bench.workbench import TASK, Workbench, enrol, http_task, started, workbench
from tq.errors import TaskQueueError
from tq.models import Run, RunId
from tq.pipeline import distribute, start_run
from tq.runtime import Runtime
from tq.settings import load_settings

LOOK_EVERY_S = 0.2
# When so much of the run is distributed, the process has loaded all that it needs: whatever its memory grows
# by from then on, it grows by with the number of users.
LOADED = 0.25


@dataclass(frozen=True)
class Crowd:
    """So many users; the stock way gets its own number of jobs, and 0 leaves it out."""

    users: int = 1_000_000
    stock_jobs: int = 20_000


def bench_fanout(
    crowd: Crowd, *, repeat: int, on_step: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """The medians over so many repetitions, ours and the stock way taking turns.

    Raises:
        TaskQueueError: a process cannot be started, or fails.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([http_task(bench)])
        enrol(runtime, crowd.users)
        repetitions = []
        for _ in range(repeat):
            ours = _ours(bench, runtime, crowd.users)
            on_step()
            stock = _stock(bench, crowd.stock_jobs) if crowd.stock_jobs else {}
            on_step()
            repetitions.append(beside(ours, stock))
        return {
            **over_repetitions(repetitions),
            "users": crowd.users,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _ours(bench: Workbench, runtime: Runtime, users: int) -> Figures:
    run = start_run(runtime, TASK)
    meter = Meter(bench)
    noted = bench.folder / "fanout.json"
    command = [sys.executable, "-m", "tq.bench.fanout", run.id, str(noted)]
    memory: list[float] = []
    with started([command], bench.folder / "fanout.log", bench.environment) as processes:
        [child] = processes.children
        while child.poll() is None:
            if runtime.store.runs.get(run.id).counts.expected > LOADED * users:
                memory.append(processes.use.rss_mb)
            sleep(LOOK_EVERY_S)
        if child.returncode:
            raise TaskQueueError(f"distribution failed; the end of its log: {processes.log_tail}")
    used = meter.used()
    found: dict[str, float] = json.loads(noted.read_text())
    run = runtime.store.runs.get(run.id)
    _clear(bench, run)
    return {
        "jobs_per_second": found["jobs"] / found["took_s"],
        "rss_mb": found["peak_rss_mb"],
        "rss_growth_mb": memory[-1] - memory[0] if memory else 0.0,
        "redis_round_trips_per_job": used.round_trips / users,
        "cpu_us_per_job": found["cpu_s"] / users * MICROSECONDS,
        "redis_cpu_us_per_job": used.redis_cpu_s / users * MICROSECONDS,
        "cpu_stolen_share": used.stolen_share,
        "unaccounted": users - run.counts.expected + run.counts.unaccounted,
    }


def _stock(bench: Workbench, jobs: int) -> Figures:
    sent = json.loads(bench.stock_sender("--jobs", str(jobs)))
    bench.forget("dramatiq:*")
    return {"stock_jobs_per_second": float(sent["jobs_per_second"])}


def _clear(bench: Workbench, run: Run) -> None:
    """Makes room for the next repetition: forgets the run and all that is queued."""
    bench.forget(f"{bench.settings.namespace}:queue:*")
    bench.forget(f"{bench.settings.namespace}:*:{run.id}*")


def main(run_id: str, noted: Path) -> None:
    """Distributes a run to its end, and notes how that went."""
    runtime: Runtime = importlib.import_module(load_settings().actors).runtime
    started_at, cpu_s = monotonic(), process_time()
    jobs = distribute(runtime, RunId(run_id), room=sys.maxsize)
    took_s = monotonic() - started_at
    peak_rss_mb = use_of([os.getpgrp()]).peak_rss_mb
    noted.write_text(
        json.dumps(
            {"jobs": jobs, "took_s": took_s, "cpu_s": process_time() - cpu_s, "peak_rss_mb": peak_rss_mb}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
