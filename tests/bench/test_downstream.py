"""The simulated endpoint can take so much and no more, and is in trouble as scenarios say."""

from collections import Counter
from random import Random

import pytest

from tq.bench.downstream import Answer, Downstream, Mood, Phase, Quota, Reply
from tq.models import TaskId

TASK = TaskId("task-1")


def calls(downstream: Downstream, *, per_second: float, since: float = 0.0, until: float) -> list[Reply]:
    """The answers to calls that come evenly."""
    count = round((until - since) * per_second)
    return [downstream.call(since + number / per_second, TASK) for number in range(count)]


def answers(replies: list[Reply]) -> Counter[Answer]:
    return Counter(reply.answer for reply in replies)


def test_what_fits_the_capacity_is_served_in_a_tenth_of_a_second() -> None:
    downstream = Downstream([Phase(0, capacity=100)], Random(1))

    replies = calls(downstream, per_second=95, until=60)

    assert answers(replies) == {Answer.OK: 95 * 60}
    assert 0.08 < sum(reply.seconds for reply in replies) / len(replies) < 0.1


@pytest.mark.parametrize("capacity", [20, 100, 300])
def test_what_is_beyond_the_capacity_is_shed_at_once(capacity: int) -> None:
    downstream = Downstream([Phase(0, capacity)], Random(1))

    replies = calls(downstream, per_second=1.5 * capacity, until=60)

    counts = answers(replies)
    assert set(counts) == {Answer.OK, Answer.BUSY}
    # A refusal costs a tenth of a call: of 1.5 C calls, x are served where x + 0.1 (1.5 C - x) = C.
    assert counts[Answer.OK] / 60 == pytest.approx(0.85 / 0.9 * capacity, rel=0.02)
    assert max(reply.seconds for reply in replies if reply.answer is Answer.BUSY) < 0.02
    assert max(reply.seconds for reply in replies) < 0.5 + 0.3


def test_a_burst_after_a_pause_finds_half_a_second_of_room() -> None:
    downstream = Downstream([Phase(0, capacity=100)], Random(1))

    replies = [downstream.call(10.0, TASK) for _ in range(80)]

    assert answers(replies) == {Answer.OK: 50, Answer.BUSY: 30}


def test_a_brown_out_is_slow_before_it_says_no() -> None:
    downstream = Downstream([Phase(0, capacity=40, mood=Mood.BROWN)], Random(1))

    replies = calls(downstream, per_second=80, until=30)

    first_no = next(number for number, reply in enumerate(replies) if reply.answer is Answer.BUSY)
    assert max(reply.seconds for reply in replies[:first_no]) > 0.5
    assert answers(replies)[Answer.OK] / 30 == pytest.approx(40, rel=0.15)


def test_a_brown_out_that_is_pressed_on_lets_callers_time_out() -> None:
    downstream = Downstream([Phase(0, capacity=40, mood=Mood.BROWN)], Random(1))

    replies = calls(downstream, per_second=400, until=30)

    assert answers(replies)[Answer.TIMEOUT] > 0
    assert max(reply.seconds for reply in replies) == 3.0


@pytest.mark.parametrize(
    ("mood", "answer", "seconds"), [(Mood.DOWN, Answer.REFUSED, 0.02), (Mood.SILENT, Answer.TIMEOUT, 3.0)]
)
def test_phases_follow_one_another(mood: Mood, answer: Answer, seconds: float) -> None:
    downstream = Downstream([Phase(0, 100), Phase(10, 0, mood), Phase(20, 100)], Random(1))

    before = calls(downstream, per_second=200, until=10)
    during = calls(downstream, per_second=200, since=10, until=20)
    after = calls(downstream, per_second=95, since=20, until=30)

    assert answers(before)[Answer.BUSY] > 0
    assert during == [Reply(answer, seconds)] * 2000
    assert answers(after) == {Answer.OK: 950}


def test_a_quota_is_used_up_and_says_when_the_next_one_begins() -> None:
    downstream = Downstream([Phase(0, 1000)], Random(1), quota=Quota(calls=800, seconds=10))

    replies = calls(downstream, per_second=100, until=20)

    assert [reply.answer for reply in replies] == 2 * ([Answer.OK] * 800 + [Answer.THROTTLED] * 200)
    assert [replies[800].retry_after, replies[999].retry_after] == [2, 1]


def test_background_errors_are_half_of_each_kind_and_take_as_long_as_others() -> None:
    downstream = Downstream([Phase(0, 160)], Random(1), background_errors=0.1)

    replies = calls(downstream, per_second=100, until=200)

    counts = answers(replies)
    assert counts[Answer.ERROR] / 20_000 == pytest.approx(0.05, rel=0.1)
    assert counts[Answer.BUSY] / 20_000 == pytest.approx(0.05, rel=0.1)
    assert min(reply.seconds for reply in replies) > 0.02


def test_a_broken_task_fails_and_costs_as_much_as_others() -> None:
    broken = TaskId("broken")
    downstream = Downstream([Phase(0, 100)], Random(1), broken_task=broken)

    replies = [downstream.call(10.0, broken) for _ in range(25)] + [
        downstream.call(10.0, TASK) for _ in range(40)
    ]

    assert answers(replies) == {Answer.ERROR: 25, Answer.OK: 25, Answer.BUSY: 15}
