"""`tq bench scrape`: how long one scrape of all metrics takes, with every series that 300 tasks may have.

The time is that of the process that is scraped. What a scrape keeps from everybody else is Redis, for as long as
its longest script or command takes, and once per scrape for as long as all of them.
"""

from collections.abc import Callable
from contextlib import closing
from statistics import median
from time import monotonic

from tq import metrics
from tq.bench.load import Meter
from tq.bench.machine import describe_machine
from tq.bench.measures import Figures, over_repetitions
from tq.bench.ticks import MILLISECONDS, longest_script_us, note_slow_scripts
from tq.bench.workbench import Workbench, workbench
from tq.metrics import FAMILIES, exposed
from tq.models import JobStatus, RunKind
from tq.runtime import Runtime
from tq.telemetry.observations import ATTEMPTS, BOUNDS, DELAY, DURATION, LATENESS, WAIT

SCRAPES = 21
SECONDS = 1234.56789  # of a histogram together
REASONS = ("overlap", "paused", "disabled", "missed")
# How attempts can come out: the class of the answer, and what follows.
ENDINGS = (
    *((status, "done") for status in ("2xx", "executor")),
    *((status, "retry") for status in ("4xx", "429", "5xx", "timeout", "connection", "executor")),
    *(
        (status, "dead")
        for status in ("3xx", "4xx", "429", "5xx", "timeout", "connection", "executor", "blocked")
    ),
)


def bench_scrape(
    tasks: int = 300, *, repeat: int, on_step: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """The medians over so many repetitions of some scrapes each.

    Raises:
        TaskQueueError: Redis cannot be started.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([_task(number) for number in range(tasks)])
        note_slow_scripts(bench)
        runtime.definitions.publish(runtime.store.planning.look(limit=0))
        for number in range(tasks):
            _fill(runtime, _name(number))
        repetitions = []
        for _ in range(repeat):
            repetitions.append(_measured(bench, runtime))
            on_step()
        return {
            **over_repetitions(repetitions),
            "tasks": tasks,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _name(number: int) -> str:
    return f"task-{number}"


def _task(number: int) -> dict[str, object]:
    return {
        "id": _name(number),
        "interval": {"type": "hourly"},
        "rate_limit": 50,
        "config": {"endpoint": "http://127.0.0.1:1/never-called"},
    }


def _fill(runtime: Runtime, task: str) -> None:
    """A task whose runs were scheduled and asked for, and to which everything has happened that may."""
    store = runtime.store
    counted = ("runs", "expected", "retries", *JobStatus, *(f"skipped:{reason}" for reason in REASONS))
    totals = [f"{task}|{kind}|{what}" for kind in (RunKind.SCHEDULE, RunKind.MANUAL) for what in counted]
    store.connection.call("HSET", store.keys("totals"), *[text for total in totals for text in (total, 1)])
    seen = {f"{ATTEMPTS}|{status}|{decision}": [1.0] for status, decision in ENDINGS}
    for metric in (DURATION, LATENESS, DELAY, WAIT):
        seen[metric] = [*[1.0] * (len(BOUNDS[metric]) + 1), SECONDS]
    store.totals.add({task: seen})


def _measured(bench: Workbench, runtime: Runtime) -> Figures:
    meter = metrics.Meter(runtime)
    text = exposed(meter.read())  # the first one finds out what later ones know
    bench.client.slowlog_reset()
    use = Meter(bench)
    took = []
    for _ in range(SCRAPES):
        started_at = monotonic()
        text = exposed(meter.read())
        took.append((monotonic() - started_at) * MILLISECONDS)
    used = use.used()
    return {
        "scrape_ms": median(took),
        "longest_scrape_ms": max(took),
        "redis_cpu_ms_per_scrape": used.redis_cpu_s / SCRAPES * MILLISECONDS,
        "longest_script_ms": longest_script_us(bench) / 1000,
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "bytes": len(text),
        "metrics": len(FAMILIES),
    }
