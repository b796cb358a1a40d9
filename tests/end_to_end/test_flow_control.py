"""Flow control on real parts, in short: `tq worker`, Redis, and an endpoint that bears so much and no more.

The scenarios stand in flow_scenarios.py. They mostly let time pass, so some are under way at a time, each in
a process of its own: what one does must not delay another's clock.
At full length: python -m tests.end_to_end.flow_scenarios all
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import pytest

from tests.end_to_end import flow_scenarios as scenarios
from tests.end_to_end.flow_track import Report

AT_A_TIME = 4
# On a busy machine calls are held up for a moment now and then, and arrive in bunches.
PEAK_SLACK = 1.15
# In short, what a beginning or a change costs weighs more than at full length.
# The longest first, so that the last to end is a short one.
SHORT: dict[str, Callable[[Path], Report]] = {
    "step": partial(scenarios.step, high=35, low=25, rising=25, falling=10, used=0.65, refused=0.06),
    "bad_task": partial(scenarios.bad_task, settling=8, lasts=15, kept=0.8),
    "orders": partial(scenarios.orders, before=4, lasts=5),
    "huge": partial(scenarios.huge, users=50_000, lasts=8, paused=5, lively=10),
    "outage_refusing": partial(scenarios.outage_refusing, before=7, lasts=10, users=1200),
    "outage_hanging": partial(scenarios.outage_hanging, before=7, lasts=10, users=1200),
    "redis_restart": partial(scenarios.redis_restart, users=1500, before=4, away=3),
    "one_at_a_time": partial(scenarios.one_at_a_time, lasts=5),
    "two_tasks": partial(scenarios.two_tasks, settling=5, lasts=8, used=0.65),
    "retry_after": partial(scenarios.retry_after, before=4, closed=5, after=4),
    "slow_limit": partial(scenarios.slow_limit, lasts=12),
}


def end_with_the_tests() -> None:
    """Has a process, and with it all that it has started, end when the tests do, however they end."""
    tests = parent_process()

    def watch() -> None:
        if tests is not None:
            tests.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture(scope="module")
def under_way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Report]]]:
    """The scenarios of the tests that were chosen."""
    chosen = {
        item.callspec.params.get("report")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    with ProcessPoolExecutor(
        AT_A_TIME, mp_context=get_context("spawn"), initializer=end_with_the_tests
    ) as pool:
        yield {
            name: pool.submit(scenario, tmp_path_factory.mktemp(name))
            for name, scenario in SHORT.items()
            if name in chosen
        }
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def report(request: pytest.FixtureRequest, under_way: dict[str, Future[Report]]) -> Report:
    """What the scenario of the test has found."""
    return under_way[request.param].result()


def of(scenario: str) -> pytest.MarkDecorator:
    """Has a test look at a scenario's report."""
    return pytest.mark.parametrize("report", [scenario], indirect=True)


def assert_all_is_kept(report: Report) -> None:
    assert not report.missed(peak_slack=PEAK_SLACK), report.to_json()


@of("step")
def test_what_the_endpoint_can_take_is_used_and_hardly_exceeded_as_it_falls_and_rises(report: Report) -> None:
    assert_all_is_kept(report)


@of("bad_task")
def test_a_task_that_always_fails_takes_nothing_from_the_healthy_ones(report: Report) -> None:
    assert_all_is_kept(report)


@of("orders")
def test_what_an_operator_orders_is_in_force_within_two_seconds_and_after_a_restart(report: Report) -> None:
    assert_all_is_kept(report)


@of("huge")
def test_a_huge_run_queues_little_stops_when_it_is_paused_and_resumes_without_a_burst(report: Report) -> None:
    assert_all_is_kept(report)


@of("outage_refusing")
def test_an_outage_in_mid_run_costs_few_calls_and_nobody_an_end(report: Report) -> None:
    assert_all_is_kept(report)


@of("outage_hanging")
def test_an_endpoint_that_hangs_in_mid_run_costs_few_calls_and_nobody_an_end(report: Report) -> None:
    assert_all_is_kept(report)


@of("redis_restart")
def test_a_run_in_which_redis_crashes_ends_complete_and_never_bursts(report: Report) -> None:
    assert_all_is_kept(report)


@of("one_at_a_time")
def test_a_task_for_one_call_at_a_time_is_never_called_twice_even_when_a_worker_is_killed(
    report: Report,
) -> None:
    assert_all_is_kept(report)


@of("two_tasks")
def test_two_tasks_share_the_limit_of_all(report: Report) -> None:
    assert_all_is_kept(report)


@of("retry_after")
def test_after_a_429_no_process_calls_until_the_time_it_named(report: Report) -> None:
    assert_all_is_kept(report)


@of("slow_limit")
def test_a_call_every_other_second_is_kept_by_all_processes_together(report: Report) -> None:
    assert_all_is_kept(report)


def test_a_high_limit_is_not_what_bounds_the_workers(tmp_path: Path) -> None:
    # After all others, and alone: it keeps every core busy.
    assert_all_is_kept(scenarios.high_limit(tmp_path, users=5000))
