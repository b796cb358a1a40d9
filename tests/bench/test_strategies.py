"""Each strategy is simulated as it is: the project's own with its agent and script, the original as it was."""

from collections.abc import Callable
from contextlib import closing

import pytest

from tq.bench.downstream import Mood, Phase, Quota
from tq.bench.figures import figures_of, peak
from tq.bench.limiter import LIMITS, NoTransport, run_trials
from tq.bench.original import Original
from tq.bench.scenarios import SCENARIOS, Arrival, Scenario
from tq.bench.workers import Workers
from tq.bench.world import Trace, World
from tq.models import TaskId
from tq.settings import Settings
from tq.store.connection import Connection
from tq.store.keys import Keys
from tq.store.limits import Limits

TASK = TaskId("task-1")
HUGE = 10_000.0  # calls per second; no limiter reaches it

Simulate = Callable[..., Trace]


@pytest.fixture
def simulate(settings: Settings) -> Simulate:
    """Lives through a scenario with the project's own limiter."""

    def run(scenario: Scenario, *, strategy: str = "adaptive", seed: int = 1) -> Trace:
        world = World(scenario, seed)
        connection = Connection(
            settings.redis_url, keys=Keys(settings.namespace), clock=world.timeline, transport=NoTransport()
        )
        with closing(connection):
            Workers(world, Limits(connection), LIMITS[strategy])
            world.timeline.run(until=scenario.seconds)
        return world.trace

    return run


def original(scenario: Scenario) -> Trace:
    world = World(scenario, seed=1)
    Original(world)
    world.timeline.run(until=scenario.seconds)
    return world.trace


@pytest.mark.parametrize("strategy", LIMITS)
def test_an_endpoint_that_bears_more_than_the_ceiling_gets_the_ceiling_evenly(
    simulate: Simulate, strategy: str
) -> None:
    trace = simulate(Scenario("", "", 60, (Phase(0, HUGE),)), strategy=strategy)

    last = [at for at in trace.sent if at >= 50]
    assert 190 <= len(last) / 10 <= 200
    assert peak(trace.sent) <= 1.05 * 200 + 2
    assert trace.failed == 0


def test_no_process_calls_with_more_threads_than_it_has(simulate: Simulate) -> None:
    trace = simulate(Scenario("", "", 10, (Phase(0, 0, Mood.SILENT),)))

    # A silent endpoint keeps a thread for three seconds.
    assert 0 < peak(trace.sent, seconds=3.0) <= 8 * 16


def test_every_job_is_done_once_though_the_endpoint_was_away(simulate: Simulate) -> None:
    scenario = Scenario(
        "",
        "",
        60,
        (Phase(0, HUGE), Phase(1, 0, Mood.DOWN), Phase(10, HUGE)),
        endless=(),
        arrive=lambda *_: [Arrival(at, TASK, 100) for at in (0.5, 1.5, 5.0)],
    )

    trace = simulate(scenario)

    assert len(trace.succeeded) == 300
    assert trace.failed > 0


def test_when_one_process_is_told_to_wait_all_stop_and_begin_again_when_the_wait_is_over(
    simulate: Simulate,
) -> None:
    scenario = Scenario(
        "",
        "",
        90,
        (Phase(0, HUGE),),
        quota=Quota(calls=100, seconds=30),
        endless=(),
        arrive=lambda *_: [Arrival(1.0, TASK, 150)],
    )

    trace = simulate(scenario)

    first_refused = trace.sent[100]
    assert first_refused < 5
    assert not [at for at in trace.sent if first_refused + 0.05 < at < 30]
    assert [at for at in trace.sent if 30 <= at < 31]
    assert len(trace.succeeded) == 150


def test_the_original_collapses_where_a_good_limiter_does_not(simulate: Simulate) -> None:
    steady = SCENARIOS["steady160"]
    oracle = steady.oracle([])

    bad = figures_of(original(steady), steady, oracle=oracle)
    good = figures_of(simulate(steady), steady, oracle=oracle)

    # As a simulation by others had it, too: 45 % at 0.24.
    assert bad.goodput == pytest.approx(0.45, abs=0.01)
    assert bad.waste == pytest.approx(0.24, abs=0.01)
    assert bad.redis_per_request == pytest.approx(7.8, abs=0.1)
    assert bad.peak_1s > 212
    assert good.goodput > 0.9
    assert good.waste < 0.01
    assert good.redis_per_request < 0.12
    assert good.peak_1s <= 212


def test_the_original_never_backs_off() -> None:
    step = SCENARIOS["step"]

    bad = figures_of(original(step), step, oracle=step.oracle([]))

    assert bad.backoff_s == 300
    assert bad.waste > 0.5


def test_a_seed_gives_the_same_figures_whatever_else_is_simulated() -> None:
    together = run_trials(["adaptive", "original"], ["batches"], [1, 2])

    for strategy in ("adaptive", "original"):
        assert run_trials([strategy], ["batches"], [2, 1])[strategy] == together[strategy]


def test_another_seed_gives_other_figures() -> None:
    one, other = (run_trials(["adaptive"], ["batches"], [seed]) for seed in (1, 2))

    assert one != other


def test_every_simulation_is_told_of_when_it_has_ended() -> None:
    ended = list[int]()

    run_trials(["original"], ["batches", "fair"], [1, 2], on_end=lambda: ended.append(1))

    assert len(ended) == 4
