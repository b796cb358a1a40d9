"""`tq bench soak`: whether anything grows that should not, in hours of steady work.

A run is started every minute for as many users as make the rate that is asked for, while workers and a
scheduler run. Memory and open files are sampled, and a line is laid through each: its slope per hour, with
the standard error of that. The first quarter does not count: there results fill up to as many as are kept
of each user, and processes load what they need. Before all of it every thread makes a call beside all others.
Whoever works for the first time needs a connection, buffers and a stack, some 50 kB; else one more would whenever
more calls are held up than ever before, be it after hours. The counters of a run, about a kilobyte, are kept for
90 days, so a Redis grows by as much with each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep

from tq.bench.load import unaccounted
from tq.bench.machine import describe_machine
from tq.bench.measures import Number, rounded, slope_of
from tq.bench.memory import MEGABYTE
from tq.bench.workbench import (
    LOOK_EVERY_S,
    PROCESSES,
    SAME_PATH,
    TASK,
    THREADS,
    Processes,
    Workbench,
    carry_out,
    ended,
    enrol,
    http_task,
    workbench,
)
from tq.models import RunId, TaskId
from tq.pipeline import start_run

SAMPLE_EVERY = timedelta(seconds=10)
RUN_EVERY = timedelta(minutes=1)
# A short soak has as many samples and runs as it takes to see anything.
LEAST_SAMPLES, LEAST_RUNS = 12, 4
SETTLING = 0.25  # of all samples
# The limiter lets through a little more than comes, so that what waits at the beginning is worked off.
HEADROOM = 1.3
# Calls that last so long keep all threads busy at once; there are as many of them as it takes for each process to get enough.
HELD_UP = timedelta(seconds=2)
HELD_UP_CALLS = 2 * PROCESSES * THREADS
HELD_UP_TASK = TaskId("held_up")


@dataclass(frozen=True)
class Soak:
    """So many jobs a second for so long."""

    per_second: float = 500.0
    lasts: timedelta = timedelta(minutes=30)

    @property
    def sample_every_s(self) -> float:
        """From one sample to the next."""
        return min(SAMPLE_EVERY, self.lasts / LEAST_SAMPLES).total_seconds()

    @property
    def run_every_s(self) -> float:
        """From one run to the next."""
        return min(RUN_EVERY, self.lasts / LEAST_RUNS).total_seconds()

    @property
    def users(self) -> int:
        """How many users a run is for."""
        return max(1, round(self.per_second * self.run_every_s))


# What is sampled: of workers the largest process.
SAMPLED = ("rss_mb", "scheduler_rss_mb", "redis_mb", "open_files")
Sample = tuple[float, Mapping[str, float]]  # with its time, in seconds from the beginning


def bench_soak(soak: Soak, *, on_sample: Callable[[], None] = lambda: None) -> dict[str, object]:
    """What the soak has shown; `on_sample` is called at each sample.

    Raises:
        TaskQueueError: a process cannot be started, ends, or does not get on.
    """
    with (
        workbench() as bench,
        closing(bench.open_runtime()) as runtime,
        bench.another_endpoint(delay=HELD_UP) as slow,
    ):
        held_up = {**http_task(bench), "id": HELD_UP_TASK, "config": {"endpoint": slow.url + SAME_PATH}}
        bench.declare([{**http_task(bench), "rate_limit": soak.per_second * HEADROOM}, held_up])
        enrol(runtime, soak.users)
        enrol(runtime, HELD_UP_CALLS, HELD_UP_TASK)
        with bench.workers() as workers, bench.scheduler() as scheduler:
            carry_out(runtime, workers, task_id=HELD_UP_TASK)
            runs: list[RunId] = []
            samples: list[Sample] = []
            began_at = monotonic()
            while (at := monotonic() - began_at) < soak.lasts.total_seconds():
                if at >= len(runs) * soak.run_every_s:
                    runs.append(start_run(runtime, TASK).id)
                if at >= len(samples) * soak.sample_every_s:
                    samples.append((at, _sample(bench, workers, scheduler)))
                    on_sample()
                workers.check()
                scheduler.check()
                sleep(LOOK_EVERY_S)
            over = [ended(runtime, workers, run_id) for run_id in runs]
            took_s = monotonic() - began_at
        jobs = sum(run.counts.success for run in over)
        return {
            "jobs_per_second": rounded(jobs / took_s),
            "unaccounted": sum(unaccounted(run, soak.users) for run in over),
            **_changes(samples),
            "jobs": jobs,
            "runs": len(runs),
            "samples": len(samples),
            "processes": PROCESSES,
            "threads": THREADS,
            "machine": describe_machine(bench.client),
        }


def _sample(bench: Workbench, workers: Processes, scheduler: Processes) -> dict[str, float]:
    bench.endpoint.take_calls()  # or they would pile up there
    use = workers.use
    return {
        "rss_mb": use.rss_mb,
        "scheduler_rss_mb": scheduler.use.rss_mb,
        "redis_mb": bench.redis_memory() / MEGABYTE,
        "open_files": use.open_files,
    }


def _changes(samples: Sequence[Sample]) -> dict[str, Number | bool]:
    """Of all that is sampled its largest value, and how it changes when all has settled."""
    settled = samples[int(len(samples) * SETTLING) :]
    told: dict[str, Number | bool] = {}
    for name in SAMPLED:
        slope = slope_of([(at, sample[name]) for at, sample in settled])
        told[name] = rounded(max(sample[name] for _, sample in samples))
        told[f"{name}_slope_per_hour"] = rounded(slope.per_hour)
        told[f"{name}_slope_noise"] = rounded(slope.noise)
        told[f"{name}_is_flat"] = slope.is_flat
    return told
