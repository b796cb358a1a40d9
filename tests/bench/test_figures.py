"""Figures are what their names say, on traces that are made by hand."""

from dataclasses import replace
from random import Random

import pytest

from tq.bench.downstream import Mood, Phase
from tq.bench.figures import Figures, figures_of, over_seeds, peak
from tq.bench.scenarios import SCENARIOS, Scenario
from tq.bench.world import Trace

STEP = Scenario("step", "", 100, (Phase(0, 100), Phase(50, 20), Phase(80, 100)))


def evenly(per_second: float, since: float, until: float) -> list[float]:
    """Instants in the middle of equal steps, so that none lies on the edge of a second."""
    count = round(per_second * (until - since))
    return [since + (number + 0.5) / per_second for number in range(count)]


def figures(trace: Trace, scenario: Scenario = STEP, *, oracle: float = 1000) -> Figures:
    return figures_of(trace, scenario, oracle=oracle)


def test_goodput_waste_and_commands_are_ratios() -> None:
    trace = Trace(sent=evenly(10, 0, 100), succeeded=evenly(8, 0, 100), failed=200, redis_commands=250)

    found = figures(trace)

    assert (found.goodput, found.waste, found.redis_per_request) == (0.8, 0.25, 0.25)


def test_where_nothing_was_done_nothing_is_divided_by() -> None:
    assert figures(Trace()) == Figures(0.0, 0.0, 0.0, 1, 1, 0, None)


def test_backing_off_takes_until_three_seconds_in_a_row_fit_what_is_left() -> None:
    # 25/s is a quarter above the 20 that are left; two calm seconds in between are not enough.
    sent = [
        *evenly(100, 0, 54),
        *evenly(20, 54, 56),
        *evenly(100, 56, 58),
        *evenly(25, 58, 100),
    ]

    assert figures(Trace(sent=sent)).backoff_s == 9


def test_of_what_is_down_altogether_five_calls_a_second_may_be_asked() -> None:
    down = replace(STEP, phases=(Phase(0, 100), Phase(50, 100, Mood.DOWN), Phase(80, 100)))
    sent = [*evenly(100, 0, 60), *evenly(6, 60, 70), *evenly(5, 70, 100)]

    assert figures(Trace(sent=sent), down).backoff_s == 21


def test_whoever_never_backs_off_takes_as_long_as_the_trouble_lasts() -> None:
    assert figures(Trace(sent=evenly(100, 0, 100))).backoff_s == 30


def test_recovery_takes_until_five_seconds_in_a_row_have_nine_tenths_of_what_was_before() -> None:
    succeeded = [*evenly(100, 0, 50), *evenly(20, 50, 84), *evenly(90, 84, 100)]

    assert figures(Trace(succeeded=succeeded)).recovery_s == 5


def test_what_was_before_is_the_last_45_seconds_before_the_trouble() -> None:
    succeeded = [*evenly(100, 5, 50), *evenly(60, 80, 90), *evenly(89, 90, 100)]

    assert figures(Trace(succeeded=succeeded)).recovery_s == 20


def test_without_trouble_there_is_nothing_to_back_off_from() -> None:
    found = figures(Trace(sent=[1.0], succeeded=[1.1]), SCENARIOS["steady160"])

    assert (found.backoff_s, found.recovery_s) == (None, None)


@pytest.mark.parametrize(
    ("times", "most"),
    [
        ([], 0),
        ([5.0], 1),
        ([0.0, 0.5, 1.0, 1.5], 2),  # a second ends before the instant that is a second later
        ([0.9, 0.95, 1.0, 1.05, 1.89, 3.0], 5),  # it may begin anywhere
        ([number / 200 for number in range(2000)], 200),
        ([0.1 + number * 0.005 for number in range(2000)], 200),  # whatever floats make of it
    ],
)
def test_the_peak_is_the_most_within_any_second(times: list[float], most: int) -> None:
    assert peak(times) == most


def test_waits_count_for_small_tasks_beside_an_endless_one() -> None:
    waits = [float(number) for number in range(1, 201)]

    assert figures(Trace(waits=waits), SCENARIOS["fair"]).small_task_p99_wait_s == 198.0
    assert figures(Trace(waits=waits), SCENARIOS["batches"]).small_task_p99_wait_s is None


def test_over_seeds_promises_are_judged_by_the_worst_and_the_rest_by_the_mean() -> None:
    one = Figures(0.9, 0.01, 0.1, backoff_s=2, recovery_s=20, peak_1s=190, small_task_p99_wait_s=1.0)
    other = Figures(1.0, 0.03, 0.2, backoff_s=5, recovery_s=10, peak_1s=201, small_task_p99_wait_s=2.0)

    assert over_seeds([one, other]) == Figures(0.95, 0.02, 0.15, 5, 20, 201, 1.5)


def test_over_seeds_what_does_not_apply_stays_so() -> None:
    steady = Figures(0.9, 0.01, 0.1, None, None, 190, None)

    assert over_seeds([steady, steady]) == steady


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("steady160", 160 * 300),
        ("step", 120 * 300 + 24 * 300),
        ("outage", 120 * 270),
        ("hang", 120 * 270),
        ("brownout", 120 * 240 + 40 * 240),
        ("quota429", 800 * 30),
        ("bg2pct", 160 * 300 * 0.98),
        ("badtask", 160 * 300),
        ("batches", 300 * 35),
        ("fair", 120 * 200),
    ],
)
def test_the_oracle_does_what_capacity_and_jobs_allow(name: str, possible: float) -> None:
    scenario = SCENARIOS[name]

    assert scenario.oracle(scenario.arrivals(Random(1))) == pytest.approx(possible)


def test_the_oracle_keeps_to_the_ceiling() -> None:
    generous = replace(STEP, phases=(Phase(0, 1000),))

    assert generous.oracle([]) == 200 * 100
