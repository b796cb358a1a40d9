"""How many threads are at work: few for quick jobs, one for each slow one, whatever was learnt before."""

import pytest

from tq.staffing import Staffing

ROUND_S = 0.005
QUICK_S, SLOW_S = 0.0005, 0.2


@pytest.fixture
def staffing() -> Staffing:
    return Staffing(ROUND_S)


def learn(staffing: Staffing, took_s: float) -> None:
    """One thread after the other works jobs that take so long, until nothing new is learnt."""
    for _ in range(200):
        staffing.begin()
        staffing.end(took_s)


def test_who_knows_nothing_yet_wakes_one_thread(staffing: Staffing) -> None:
    assert staffing.wanted(100, left=0, stuck=0, now=1.0) == 1


def test_as_many_threads_are_woken_for_quick_jobs_as_do_them_within_a_round(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)

    assert staffing.wanted(32, left=0, stuck=0, now=1.0) == 4


def test_each_slow_job_gets_a_thread_of_its_own(staffing: Staffing) -> None:
    learn(staffing, SLOW_S)

    assert staffing.wanted(32, left=0, stuck=0, now=1.0) == 32


def test_nobody_is_woken_for_what_those_at_work_will_come_to(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)
    for _ in range(3):
        staffing.begin()

    assert staffing.wanted(30, left=0, stuck=0, now=1.0) == 0
    assert staffing.wanted(31, left=0, stuck=0, now=1.0) == 1


@pytest.mark.parametrize(
    ("took_s", "at_work", "woken"), [(QUICK_S, 0, 2), (QUICK_S, 1, 1), (QUICK_S, 2, 0), (0.00002, 1, 0)]
)
def test_a_job_does_not_wait_for_the_end_of_the_only_call(
    staffing: Staffing, took_s: float, at_work: int, woken: int
) -> None:
    learn(staffing, took_s)
    for _ in range(at_work):
        staffing.begin()

    assert staffing.wanted(2, left=0, stuck=0, now=1.0) == woken


def test_threads_that_are_stuck_in_slow_jobs_are_not_waited_for(staffing: Staffing) -> None:
    learn(staffing, SLOW_S)
    for _ in range(40):
        staffing.begin()

    assert staffing.wanted(32, left=0, stuck=0, now=1.0) == 31


@pytest.mark.parametrize(("stuck", "woken"), [(4, 20), (3, 20), (2, 0), (0, 0)])
def test_jobs_that_nobody_comes_for_get_a_thread_each_if_those_at_work_are_stuck(
    staffing: Staffing, stuck: int, woken: int
) -> None:
    learn(staffing, QUICK_S)
    for _ in range(4):
        staffing.begin()
    staffing.wanted(0, left=0, stuck=0, now=1.0)

    assert staffing.wanted(20, left=20, stuck=stuck, now=1.0 + 2 * ROUND_S) == woken


def test_jobs_are_not_left_before_a_round_has_passed(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)
    for _ in range(4):
        staffing.begin()
    staffing.wanted(0, left=0, stuck=0, now=1.0)

    assert staffing.wanted(20, left=20, stuck=0, now=1.0 + ROUND_S / 2) == 0


def test_that_many_threads_wait_for_each_other_is_not_taken_for_slow_jobs(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)
    for _ in range(50):
        staffing.begin()
    for _ in range(48):
        staffing.end(40 * QUICK_S)
    staffing.end(QUICK_S)
    staffing.end(QUICK_S)

    assert staffing.wanted(32, left=0, stuck=0, now=1.0) == 4


def test_what_was_no_call_is_not_taken_for_a_quick_one(staffing: Staffing) -> None:
    learn(staffing, SLOW_S)
    staffing.begin()
    staffing.end(None)

    assert staffing.wanted(32, left=0, stuck=0, now=1.0) == 32


def test_a_thread_rests_if_the_others_can_do_twice_what_is_ready(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)
    for _ in range(2):
        staffing.begin()

    assert staffing.is_enough(9)
    assert not staffing.is_enough(11)


def test_the_last_but_one_never_rests(staffing: Staffing) -> None:
    learn(staffing, QUICK_S)
    staffing.begin()

    assert not staffing.is_enough(0)


def test_no_thread_rests_where_jobs_are_slow(staffing: Staffing) -> None:
    learn(staffing, SLOW_S)
    for _ in range(39):
        staffing.begin()

    assert not staffing.is_enough(1)
