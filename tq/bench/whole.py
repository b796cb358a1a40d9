"""`tq bench run`: a whole run of Python code that does nothing, from its start to the last job's end.

What is left is the price of the system itself: distribution, queue, limiter, ledger, results. The stock
way beside it works off a queue that is full beforehand, of an actor that does nothing.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from time import monotonic

from tq.bench.load import MICROSECONDS, Meter, unaccounted
from tq.bench.machine import describe_machine
from tq.bench.measures import Figures, beside, over_repetitions, steady_progress
from tq.bench.memory import sizes_by_family
from tq.bench.workbench import (
    PROCESSES,
    RATE_LIMIT,
    SAME_PATH,
    TASK,
    THREADS,
    WARM_UP,
    Workbench,
    carry_out,
    enrol,
    workbench,
)
from tq.errors import TaskQueueError
from tq.runtime import Runtime

STOCK_QUEUE = "dramatiq:default.msgs"


@dataclass(frozen=True)
class Whole:
    """A run of so many users; the stock way gets its own number of jobs, and 0 leaves it out."""

    users: int = 1_000_000
    stock_jobs: int = 20_000
    processes: int = PROCESSES


def bench_run(whole: Whole, *, repeat: int, on_step: Callable[[], None] = lambda: None) -> dict[str, object]:
    """The medians over so many repetitions, ours and the stock way taking turns.

    Raises:
        TaskQueueError: a process cannot be started, or does not get on.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([_task()])
        enrol(runtime, whole.users)
        repetitions = []
        for _ in range(repeat):
            ours = _ours(bench, runtime, whole)
            on_step()
            stock = _stock(bench, whole.stock_jobs) if whole.stock_jobs else {}
            on_step()
            repetitions.append(beside(ours, stock))
        return {
            **over_repetitions(repetitions),
            "users": whole.users,
            "processes": whole.processes,
            "threads": THREADS,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _task() -> dict[str, object]:
    return {
        "id": TASK,
        "interval": {"type": "monthly", "day": 1},
        "window": 0,
        "rate_limit": RATE_LIMIT,
        "executor": "tq.bench.noop:do_nothing",
    }


def _ours(bench: Workbench, runtime: Runtime, whole: Whole) -> Figures:
    bench.forget(f"{bench.settings.namespace}:results:*")  # so that each repetition stores its first ones
    with bench.workers(processes=whole.processes) as workers:
        carry_out(runtime, workers, named=min(WARM_UP, whole.users))
        meter, before = Meter(bench), workers.use
        run = carry_out(runtime, workers)
        after, used = workers.use, meter.used()
    if run.ended_at is None:
        raise TaskQueueError(f"the run {run.id} is {run.status} and has no end")
    took_s = (run.ended_at - run.claimed_at).total_seconds()
    return {
        "jobs_per_second": whole.users / took_s,
        "run_s": took_s,
        "rss_mb": after.peak_rss_mb,
        "redis_round_trips_per_job": used.round_trips / whole.users,
        "cpu_us_per_job": (after.cpu_s - before.cpu_s) / whole.users * MICROSECONDS,
        "redis_cpu_us_per_job": used.redis_cpu_s / whole.users * MICROSECONDS,
        "cpu_stolen_share": used.stolen_share,
        "redis_bytes_per_result": sizes_by_family(bench)["results"] / whole.users,
        "unaccounted": unaccounted(run, whole.users),
    }


def _stock(bench: Workbench, jobs: int) -> Figures:
    bench.stock_sender("--jobs", str(jobs), "--actor", "do_nothing")
    done: list[tuple[float, int]] = []

    def all_done() -> bool:
        left = int(bench.client.hlen(STOCK_QUEUE))
        done.append((monotonic(), jobs - left))
        return left == 0

    with bench.stock_workers(SAME_PATH) as workers:
        workers.wait_for(all_done, "the stock worker to work", progress=lambda: done[-1:] and done[-1][1])
    return {"stock_jobs_per_second": steady_progress(done, total=jobs)}
