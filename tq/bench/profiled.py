"""`tq bench profile`: how much of their throughput workers keep while CPU profiles of all of them are taken.

Workers have more to do than they can at any time, and slices of some seconds with and without profiles take
turns, within the same few minutes of the same processes: a machine that becomes slower does so for both. In
every other pair the profiled slice comes first. A slice with profiles lasts from when they are asked for until
they have been delivered as flame graphs, so what it costs to draw them counts, too.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from time import monotonic, sleep

import httpx

from tq.bench.endpoint import HOST
from tq.bench.load import unaccounted
from tq.bench.machine import describe_machine
from tq.bench.measures import Figures, over_repetitions
from tq.bench.workbench import (
    LOOK_EVERY_S,
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
    workbench,
)
from tq.errors import TaskQueueError
from tq.models import RunId
from tq.pipeline import start_run
from tq.runtime import Runtime
from tq.store.heartbeats import WORKER

SETTLING_S = 0.5  # after the endpoint has told its calls, which keeps it from answering
DELIVERY_S = 30.0  # so long a profile may take beside its time


@dataclass(frozen=True)
class Slices:
    """So many pairs of slices, of so many seconds each, in runs for so many users each."""

    pairs: int = 8
    seconds: float = 5.0
    users: int = 10_000
    processes: int = PROCESSES
    threads: int = THREADS


def bench_profile(slices: Slices, *, on_slice: Callable[[], None] = lambda: None) -> dict[str, object]:
    """The medians over the pairs, and their ranges; `on_slice` is called for each slice.

    Raises:
        TaskQueueError: a process cannot be started, does not get on, or delivers no profile.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([http_task(bench)])
        enrol(runtime, slices.users)
        answering = {"TQ_DEBUG_ENDPOINTS": "true"}
        with bench.workers(
            processes=slices.processes, threads=slices.threads, environment=answering
        ) as workers:
            carry_out(runtime, workers, named=min(WARM_UP, slices.users))
            ports = _ports(runtime)
            if len(ports) != slices.processes:
                raise TaskQueueError(f"{len(ports)} of {slices.processes} workers can be asked for a profile")
            load = _Load(bench, runtime, workers, slices.users)
            pairs = [_pair(load, ports, slices, number, on_slice) for number in range(slices.pairs)]
            missing = load.end()
        return {
            **over_repetitions(pairs),
            "unaccounted": missing,
            "pairs": slices.pairs,
            "seconds": slices.seconds,
            "processes": slices.processes,
            "threads": slices.threads,
            "machine": describe_machine(bench.client),
        }


def _ports(runtime: Runtime) -> list[int]:
    """Where workers answer."""
    processes = runtime.store.vitals.signs().processes
    return [found.debug_port for found in processes if found.component == WORKER and found.debug_port]


def _pair(
    load: "_Load", ports: Sequence[int], slices: Slices, number: int, on_slice: Callable[[], None]
) -> Figures:
    rates = {}
    for is_profiled in (False, True) if number % 2 == 0 else (True, False):
        rates[is_profiled] = load.rate(slices.seconds, ports if is_profiled else ())
        on_slice()
    if not rates[False]:
        raise TaskQueueError("no call arrived in a slice without profiles; make slices longer")
    return {
        "kept": rates[True] / rates[False],
        "jobs_per_second": rates[False],
        "profiled_jobs_per_second": rates[True],
    }


class _Load:
    """Work that never ends: a run is started whenever half of the last one is done."""

    def __init__(self, bench: Workbench, runtime: Runtime, workers: Processes, users: int) -> None:
        self._bench = bench
        self._runtime = runtime
        self._workers = workers
        self._users = users
        self._runs: list[RunId] = []
        self._feed()

    def rate(self, seconds: float, profiled: Sequence[int]) -> float:
        """Calls that arrive per second in a slice, in which the processes at these ports are profiled."""
        self._pass(SETTLING_S)
        with ThreadPoolExecutor(max(1, len(profiled))) as pool:
            began = monotonic()
            profiles = [pool.submit(_profile, port, seconds) for port in profiled]
            self._pass(seconds)
            while not all(profile.done() for profile in profiles):
                self._pass(LOOK_EVERY_S)
            over = monotonic()
            for profile in profiles:
                profile.result()
        calls = self._bench.endpoint.take_calls()
        return sum(began <= call.arrived_at < over for call in calls) / (over - began)

    def end(self) -> int:
        """Has what was begun carried out; returns how many jobs are unaccounted for."""
        runs = [ended(self._runtime, self._workers, run_id) for run_id in self._runs]
        return sum(unaccounted(run, self._users) for run in runs)

    def _pass(self, seconds: float) -> None:
        """Lets time pass, in which there is always something to do."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self._workers.check()
            self._feed()
            sleep(min(left, LOOK_EVERY_S))

    def _feed(self) -> None:
        if not self._runs or self._runtime.store.runs.get(self._runs[-1]).counts.ended >= self._users / 2:
            self._runs.append(start_run(self._runtime, TASK).id)


def _profile(port: int, seconds: float) -> None:
    """Has a process' profile taken, and throws it away.

    Raises:
        TaskQueueError: if it is not delivered.
    """
    asked = {"seconds": f"{seconds:g}", "format": "svg"}
    url = f"http://{HOST}:{port}/debug/profile"
    try:
        httpx.get(url, params=asked, timeout=seconds + DELIVERY_S, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise TaskQueueError(f"a worker delivers no profile: {error}") from error
