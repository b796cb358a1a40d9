"""`tq bench latency`: how long after a job was put into its queue its call arrives, while there is little to do.

Jobs of a run go into the queue one at a time, evenly, each in a step of its own as distribution makes
them; no worker distributes the run. The instant before that step and the arrival at the endpoint are on
one clock, the machine's monotonic one. The stock way beside it sends as many a second to its own worker.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

from tq.bench.endpoint import Call
from tq.bench.load import Meter, OnStep, unaccounted
from tq.bench.machine import describe_machine
from tq.bench.measures import Figures, over_repetitions, percentile
from tq.bench.workbench import (
    OWN_PATH,
    PROCESSES,
    TASK,
    THREADS,
    WARM_UP,
    Processes,
    Workbench,
    carry_out,
    ended,
    enrol,
    http_task,
    user_id,
    workbench,
)
from tq.models import Batch, Envelope, Overlap, Priority, Run, RunKind, manual_run_id
from tq.models.runs import EVERYBODY
from tq.runtime import Runtime
from tq.store.ledger import Step
from tq.store.planning import ShareClaim

MILLISECONDS = 1000
MEDIAN = "enqueue_to_start_p50_ms"
# Longer than any measurement: nobody but the bench distributes its run.
LATER = timedelta(hours=12)
SETTLING_S = 1.0  # of each measurement, in which whatever has rested wakes up; it does not count


@dataclass(frozen=True)
class Trickle:
    """So many jobs a second for so long; without the stock way if that is not wanted."""

    per_second: float = 200.0
    seconds: float = 10.0
    with_stock: bool = True

    @property
    def jobs(self) -> int:
        """How many that are."""
        return max(1, round(self.per_second * (SETTLING_S + self.seconds)))


def bench_latency(trickle: Trickle, *, repeat: int, on_step: OnStep = lambda: None) -> dict[str, object]:
    """The medians over so many repetitions, ours and the stock way taking turns.

    Raises:
        TaskQueueError: a process cannot be started, or does not get on.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([http_task(bench, OWN_PATH)])
        enrol(runtime, max(trickle.jobs, WARM_UP))
        repetitions = []
        for _ in range(repeat):
            ours = _ours(bench, runtime, trickle)
            on_step()
            stock = _stock(bench, trickle) if trickle.with_stock else {}
            on_step()
            repetitions.append({**ours, **stock, **_ratio(ours, stock)})
        return {
            **over_repetitions(repetitions),
            "processes": PROCESSES,
            "threads": THREADS,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _ours(bench: Workbench, runtime: Runtime, trickle: Trickle) -> Figures:
    with bench.workers() as workers:
        warmed_by = carry_out(runtime, workers, named=WARM_UP)
        run = _claimed(runtime, warmed_by)
        bench.endpoint.take_calls()
        meter, before = Meter(bench), workers.use
        sent_at = {f"/bench/{user_id(number)}": at for number, at in _trickled(runtime, run, trickle)}
        run = ended(runtime, workers, run.id)
        used, after = meter.used(), workers.use
    calls = bench.endpoint.take_calls()
    return {
        "jobs_per_second": _rate(list(sent_at.values())),
        **_percentiles("", sent_at, calls),
        "rss_mb": after.peak_rss_mb,
        "redis_round_trips_per_job": used.round_trips / trickle.jobs,
        "cpu_us_per_job": (after.cpu_s - before.cpu_s) / trickle.jobs * 1_000_000,
        "cpu_stolen_share": used.stolen_share,
        "unaccounted": unaccounted(run, trickle.jobs),
    }


def _ratio(ours: Figures, stock: Figures) -> Figures:
    """How many times as long the stock way takes, by the medians."""
    return {"ratio": stock[f"stock_{MEDIAN}"] / ours[MEDIAN]} if stock else {}


def _claimed(runtime: Runtime, like: Run) -> Run:
    """A run for everybody that no worker distributes, of the same definition as another."""
    now = runtime.store.now()
    run_id = manual_run_id(TASK, f"latency after {like.id}")
    runtime.store.planning.claim(
        run_id,
        task=runtime.definitions.get(like.definition),
        definition=like.definition,
        kind=RunKind.MANUAL,
        nominal_at=now,
        overlap=Overlap.ALLOW,
        shares=[ShareClaim(EVERYBODY, start_at=now, spread=timedelta(0), deadline_at=now + LATER)],
        distribution=runtime.transport.distribution_message(run_id),
        distribute_in=LATER,
    )
    return runtime.store.runs.get(run_id)


def _trickled(runtime: Runtime, run: Run, trickle: Trickle) -> Sequence[tuple[int, float]]:
    """Puts the jobs of a run into the queue, one at a time; returns each user's number and the instant before."""
    sent_at = []
    started = time.monotonic()
    for number in range(trickle.jobs):
        job = Envelope(
            task_id=run.task_id,
            user_id=user_id(number),
            run_id=run.id,
            kind=run.kind,
            definition=run.definition,
            scheduled_at=run.nominal_at,
            execute_after=run.nominal_at,
            share=0,
        )
        step = Step(
            share=0,
            cursor=number - 1,
            reached=number,
            done=number == trickle.jobs - 1,
            wake_at=run.deadline_at,
            batches=[Batch(job, [job.user_id])],
            departures="0",
        )
        time.sleep(max(0.0, started + number / trickle.per_second - time.monotonic()))
        sent_at.append((number, time.monotonic()))
        runtime.store.ledger.fan_out(run.id, step, Priority.NORMAL)
    return sent_at


def _stock(bench: Workbench, trickle: Trickle) -> Figures:
    with bench.stock_workers(OWN_PATH) as workers:
        bench.stock_sender("--jobs", str(WARM_UP))
        _arrived(bench, workers, WARM_UP)
        before = workers.use
        sent = json.loads(
            bench.stock_sender("--jobs", str(trickle.jobs), "--per-second", str(trickle.per_second))
        )
        calls = _arrived(bench, workers, trickle.jobs)
        after = workers.use
    sent_at = {f"/bench/{number:036d}": at for number, at in enumerate(sent["sent_at"])}
    return {
        "stock_jobs_per_second": _rate(sent["sent_at"]),
        **_percentiles("stock_", sent_at, calls),
        "stock_cpu_us_per_job": (after.cpu_s - before.cpu_s) / trickle.jobs * 1_000_000,
    }


def _arrived(bench: Workbench, workers: Processes, jobs: int) -> list[Call]:
    calls: list[Call] = []

    def all_arrived() -> bool:
        calls.extend(bench.endpoint.take_calls())
        return len(calls) >= jobs

    workers.wait_for(all_arrived, "the stock worker to call", progress=lambda: len(calls))
    return calls


def _percentiles(prefix: str, sent_at: Mapping[str, float], calls: Sequence[Call]) -> dict[str, float]:
    """What of the waits, in ms, is not exceeded; of jobs sent when all had settled."""
    settled = min(sent_at.values()) + SETTLING_S
    first_calls: dict[str, float] = {}
    for call in calls:
        first_calls.setdefault(call.path, call.arrived_at)
    waits = [
        (first_calls[path] - at) * MILLISECONDS
        for path, at in sent_at.items()
        if at >= settled and path in first_calls
    ]
    return {
        f"{prefix}enqueue_to_start_{name}_ms": percentile(waits, share)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }


def _rate(instants: Sequence[float]) -> float:
    """Per second, from the first to the last."""
    return (len(instants) - 1) / (instants[-1] - instants[0]) if len(instants) > 1 else 0.0
