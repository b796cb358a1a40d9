"""`tq bench execute` and `tq bench slow`: how many jobs workers carry out, and what one of them costs.

A run for everybody goes as any run does: workers distribute it while they work it. Before it some calls
warm the workers up. The stock way beside it calls the same endpoint from a queue that is full beforehand.

Both rates count calls as they arrive at the endpoint, in the window in which all processes are at work.
CPU and round trips are those of the whole run, from its start until the last job's end is stored, with
its distribution.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from tq.bench.machine import Use, cpus, describe_machine, use_of
from tq.bench.measures import Figures, beside, over_repetitions, steady_rate
from tq.bench.workbench import (
    PROCESSES,
    SAME_PATH,
    THREADS,
    WARM_UP,
    Workbench,
    carry_out,
    enrol,
    http_task,
    workbench,
)
from tq.models import Run
from tq.runtime import Runtime

MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Load:
    """How much is to be done, by how many processes; the stock way gets its own number of jobs, and 0 leaves it out."""

    jobs: int
    stock_jobs: int
    delay: timedelta = timedelta(0)
    processes: int = PROCESSES
    threads: int = THREADS
    traces: float | None = None  # the part of all jobs that is traced; None: traces are off


# So many that a repetition takes some seconds on two cores, at what each way is capable of.
EXECUTE = Load(jobs=30_000, stock_jobs=10_000)
SLOW = Load(jobs=12_000, stock_jobs=400, delay=timedelta(milliseconds=200))

OnStep = Callable[[], None]


def bench_load(load: Load, *, repeat: int, on_step: OnStep = lambda: None) -> dict[str, object]:
    """The medians over so many repetitions, ours and the stock way taking turns; `on_step` is called for each.

    Raises:
        TaskQueueError: a process cannot be started, or does not get on.
    """
    with workbench(delay=load.delay) as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([http_task(bench)])
        enrol(runtime, load.jobs)
        repetitions = []
        for _ in range(repeat):
            ours = _ours(bench, runtime, load)
            on_step()
            stock = _stock(bench, load.stock_jobs) if load.stock_jobs else {}
            on_step()
            repetitions.append(beside(ours, stock))
        return {
            **over_repetitions(repetitions),
            "jobs": load.jobs,
            "processes": load.processes,
            "threads": load.threads,
            "traces": load.traces,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _ours(bench: Workbench, runtime: Runtime, load: Load) -> Figures:
    with ExitStack() as stack:
        environment = {}
        if load.traces is not None:
            environment = _traced(stack.enter_context(bench.another_endpoint()).url, load.traces)
        workers = stack.enter_context(
            bench.workers(processes=load.processes, threads=load.threads, environment=environment)
        )
        carry_out(runtime, workers, named=min(WARM_UP, load.jobs))
        bench.endpoint.take_calls()
        meter = Meter(bench)
        before, since = workers.use, monotonic()
        run = carry_out(runtime, workers)
        took_s = monotonic() - since
        after, used = workers.use, meter.used()
    calls = bench.endpoint.take_calls()
    return {
        "jobs_per_second": steady_rate([call.arrived_at for call in calls]),
        "rss_mb": after.peak_rss_mb,
        "redis_round_trips_per_job": used.round_trips / load.jobs,
        "cpu_us_per_job": (after.cpu_s - before.cpu_s) / load.jobs * MICROSECONDS,
        "redis_cpu_us_per_job": used.redis_cpu_s / load.jobs * MICROSECONDS,
        "endpoint_cpu_us_per_job": used.endpoint_cpu_s / load.jobs * MICROSECONDS,
        "endpoint_cpu_share": used.endpoint_cpu_s / took_s,
        "cpu_stolen_share": used.stolen_share,
        "run_s": took_s,
        "unaccounted": unaccounted(run, load.jobs),
    }


def _traced(collector_url: str, ratio: float) -> dict[str, str]:
    """What has workers trace that part of their jobs, each decided by itself."""
    return {
        "OTEL_SDK_DISABLED": "false",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(ratio),
    }


def _stock(bench: Workbench, jobs: int) -> Figures:
    bench.stock_sender("--jobs", str(jobs))
    arrived: list[float] = []

    def arrived_so_far() -> int:
        arrived.extend(call.arrived_at for call in bench.endpoint.take_calls())
        return len(arrived)

    with bench.stock_workers(SAME_PATH) as workers:
        workers.wait_for(lambda: arrived_so_far() > 0, "the stock worker to start")
        before, at_first = workers.use, len(arrived)
        workers.wait_for(
            lambda: arrived_so_far() >= jobs, "the stock worker to call", progress=lambda: len(arrived)
        )
        after = workers.use
    counted = max(1, jobs - at_first)
    return {
        "stock_jobs_per_second": steady_rate(arrived),
        "stock_cpu_us_per_job": (after.cpu_s - before.cpu_s) / counted * MICROSECONDS,
        "stock_rss_mb": after.peak_rss_mb,
    }


def unaccounted(run: Run, expected: int) -> int:
    """How many of the jobs that there should be have not ended as a success, by the run's own ledger."""
    counts = run.counts
    return max(expected, counts.expected) - counts.success


@dataclass(frozen=True, slots=True)
class Used:
    """What everything but the workers has used."""

    round_trips: int
    redis_cpu_s: float
    endpoint_cpu_s: float
    stolen_share: float  # of the CPU time that everybody here wanted


class Meter:
    """Measures from when it is made."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._redis, self._endpoint = self._uses()
        self._cpus = cpus()
        self._round_trips = bench.round_trips()

    def used(self) -> Used:
        """What was used since."""
        redis, endpoint = self._uses()
        return Used(
            self._bench.round_trips() - self._round_trips,
            redis.cpu_s - self._redis.cpu_s,
            endpoint.cpu_s - self._endpoint.cpu_s,
            cpus().stolen_since(self._cpus),
        )

    def _uses(self) -> tuple[Use, Use]:
        return use_of([self._bench.redis_server.pid]), self._bench.endpoint.processes.use
