"""The limiter's test track: each strategy through each scenario, in simulated time.

`adaptive` and `stepped` are the limiter that workers use: its agent, its script, a real Redis.
`original` is the limiter of the program that TaskQueue succeeds. A simulation depends on nothing but
its seed, so they run side by side.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tq.bench.figures import Figures, figures_of, over_seeds
from tq.bench.original import Original
from tq.bench.scenarios import BASE, CEILING, FLOOR, SCENARIOS
from tq.bench.workers import Workers
from tq.bench.world import World
from tq.errors import TaskQueueError
from tq.limits import Limit
from tq.models import Batch, Envelope, Priority, RunId, Strategy
from tq.redis_server import RedisServer
from tq.store.connection import Connection
from tq.store.keys import Keys
from tq.store.limits import Limits
from tq.store.transport import QueuedMessage, QueuedMessages

ORIGINAL = "original"
LIMITS = {
    Strategy.ADAPTIVE.value: Limit(Strategy.ADAPTIVE, FLOOR, BASE, CEILING),
    Strategy.STEPPED.value: Limit(Strategy.STEPPED, BASE / 2, BASE, CEILING),
}
STRATEGIES = (*LIMITS, ORIGINAL)

Results = dict[str, dict[str, Figures]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulation."""

    strategy: str
    scenario: str
    seed: int

    def run(self, redis_url: str) -> Figures:
        """What came of it; depends on the trial alone."""
        scenario = SCENARIOS[self.scenario]
        world = World(scenario, self.seed)
        if self.strategy == ORIGINAL:
            Original(world)
            world.timeline.run(until=scenario.seconds)
        else:
            keys = Keys(f"{self.strategy}.{self.scenario}.{self.seed}")
            connection = Connection(redis_url, keys=keys, clock=world.timeline, transport=NoTransport())
            with closing(connection):
                Workers(world, Limits(connection), LIMITS[self.strategy])
                world.timeline.run(until=scenario.seconds)
        return figures_of(world.trace, scenario, oracle=scenario.oracle(world.arrivals))


def run_trials(
    strategies: Sequence[str],
    scenarios: Sequence[str],
    seeds: Sequence[int],
    *,
    on_end: Callable[[], None] = lambda: None,
) -> Results:
    """The figures by strategy and scenario, over all seeds; `on_end` is called at each simulation's end.

    Brings its own Redis. Call it from the main thread.

    Raises:
        TaskQueueError: Redis cannot be started, or a process of ours was killed.
    """
    trials = [
        Trial(strategy, scenario, seed) for scenario in scenarios for strategy in strategies for seed in seeds
    ]
    # The longest first, so that no processor is left with one of them at the end.
    trials.sort(key=lambda trial: -SCENARIOS[trial.scenario].seconds)
    with (
        tempfile.TemporaryDirectory(prefix="tq-bench-") as directory,
        RedisServer(Path(directory), persist=False) as server,
    ):
        figures = _run_all(trials, server.url, on_end)
    return {
        strategy: {
            scenario: over_seeds([figures[Trial(strategy, scenario, seed)] for seed in seeds])
            for scenario in scenarios
        }
        for strategy in strategies
    }


def _run_all(trials: Sequence[Trial], url: str, on_end: Callable[[], None]) -> Mapping[Trial, Figures]:
    figures: dict[Trial, Figures] = {}
    side_by_side = min(len(trials), os.cpu_count() or 1)
    if side_by_side == 1:
        for trial in trials:
            figures[trial] = trial.run(url)
            on_end()
        return figures
    # A fork of a process with threads or open connections would share what it must not.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(side_by_side, mp_context=context, initializer=_end_with_parent)
    try:
        running = {pool.submit(trial.run, url): trial for trial in trials}
        for done in as_completed(running):
            trial = running[done]
            figures[trial] = done.result()
            on_end()
    finally:
        pool.shutdown(cancel_futures=True)
    return figures


def _end_with_parent() -> None:
    # Ctrl-C reaches us too, and our parent says all that is to be said.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    # Killed, it cannot end us, and we would wait for work for ever.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class NoTransport:
    """The limiter's script sends no messages."""

    enqueue_lua = ""
    fetch_lua = ""
    holds_lua = ""
    workers_lua = ""
    acknowledge_lua = ""
    take_back_lua = ""
    backlog_lua = ""
    queues = ()
    queue_keys = ()

    def job_message(self, envelope: Envelope, priority: Priority) -> QueuedMessage:
        """Never asked for."""
        raise TaskQueueError(f"nothing is sent in a simulation, but {envelope} at {priority}")

    def job_messages(self, batch: Batch, priority: Priority) -> QueuedMessages:
        """Never asked for."""
        raise TaskQueueError(f"nothing is sent in a simulation, but {batch.pattern} at {priority}")

    def distribution_message(self, run_id: RunId, *, cause: str = "") -> QueuedMessage:  # noqa: ARG002 - the signature is Transport's
        """Never asked for."""
        raise TaskQueueError(f"nothing is sent in a simulation, but {run_id}")
