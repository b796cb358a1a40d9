"""`tq bench all`: every bench at its full size, one after the other, as `make bench` runs them."""

from collections.abc import Callable, Mapping
from datetime import timedelta

from loguru import logger

from tq.bench.fanout import Crowd, bench_fanout
from tq.bench.latency import Trickle, bench_latency
from tq.bench.load import EXECUTE, SLOW, bench_load
from tq.bench.memory import bench_memory
from tq.bench.profiled import Slices, bench_profile
from tq.bench.scrape import bench_scrape
from tq.bench.soak import Soak, bench_soak
from tq.bench.ticks import Timetable, bench_tick
from tq.bench.whole import Whole, bench_run
from tq.errors import TaskQueueError

Report = dict[str, object]


def every_bench(*, users: int, repeat: int, soak: timedelta) -> Mapping[str, Callable[[], Report]]:
    """What each measures by its name, in the order in which they are run; users are those of a large run."""
    return {
        "fanout": lambda: bench_fanout(Crowd(users), repeat=repeat),
        "execute": lambda: bench_load(EXECUTE, repeat=repeat),
        "slow": lambda: bench_load(SLOW, repeat=repeat),
        "latency": lambda: bench_latency(Trickle(), repeat=repeat),
        "memory": lambda: bench_memory(users),
        "tick": lambda: bench_tick(Timetable(), repeat=repeat),
        "scrape": lambda: bench_scrape(repeat=repeat),
        "profile": lambda: bench_profile(Slices()),
        "run": lambda: bench_run(Whole(users), repeat=repeat),
        "soak": lambda: bench_soak(Soak(lasts=soak)),
    }


def run_all(benches: Mapping[str, Callable[[], Report]], *, on_end: Callable[[], None]) -> Report:
    """The figures of each by its name, and the machine once for all; of one that failed, why.

    What comes after a bench that failed is measured all the same: it has taken too long to be thrown away.
    """
    machine: object = None
    found: Report = {}
    for name, bench in benches.items():
        try:
            figures = bench()
        except TaskQueueError as error:
            logger.error("bench failed", bench=name, reason=str(error))
            found[name] = {"error": str(error)}
        else:
            machine = figures.pop("machine")
            found[name] = figures
        on_end()
    return {"machine": machine, **found}


def has_failed(report: Report) -> bool:
    """Whether a bench has failed, or found somebody unaccounted for."""
    every = [figures for figures in report.values() if isinstance(figures, dict)]
    return any("error" in figures or figures.get("unaccounted") for figures in every)
