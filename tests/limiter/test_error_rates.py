"""How calls came out, per task and in all, over any recent time: a ring of ten-second slots in Redis."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.limiter.fleet import adaptive, virtual_store
from tq.bench.timeline import BEGIN_MS, Timeline
from tq.limits import EVERY_TASK, KINDS, Kind
from tq.models import TaskId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.limits import Ask, Request

A, B = TaskId("a"), TaskId("b")
LIMIT = adaptive(100)
HOUR_S = 3600
SLOT_S = 10


class Counts:
    """A store whose time goes on when it is told to, and what is counted in it."""

    def __init__(self, url: str) -> None:
        self.timeline = Timeline()
        self.store: Store = virtual_store(url, self.timeline)

    def count(self, task: TaskId, *counts: int) -> None:
        """Some calls have come out, as a process reports them."""
        ask = Ask(task, LIMIT, slots=0, weight=4, waiting=0, in_use=0, counts=list(counts))
        self.store.limits.exchange(Request("process", LIMIT, slots=0, tasks=[ask]))

    def over(self, scope: str, seconds: float) -> list[int]:
        """The counts by kind over the last seconds."""
        found = self.store.limits.outcomes([scope], over=timedelta(seconds=seconds))
        return list(found[scope].counts.values())

    def error_rate(self, task: TaskId) -> float:
        """The share that did not come out well in the last minute, as operators see it."""
        return self.store.limits.standings({task: LIMIT, EVERY_TASK: LIMIT})[task].error_rate


@pytest.fixture
def counts(redis_server: RedisServer) -> Counts:
    """Nothing is counted yet, and a slot of ten seconds begins."""
    return Counts(redis_server.url)


def test_calls_are_counted_by_kind_for_their_task_and_in_all(counts: Counts) -> None:
    counts.count(A, 5, 1, 0, 2, 0)
    counts.count(B, 1, 0, 3, 0, 1)

    assert KINDS == (Kind.OK, Kind.REJECTED, Kind.ERROR, Kind.OVERLOAD, Kind.THROTTLED)
    assert counts.over(A, 60) == [5, 1, 0, 2, 0]
    assert counts.over(B, 60) == [1, 0, 3, 0, 1]
    assert counts.over(EVERY_TASK, 60) == [6, 1, 3, 2, 1]


def test_an_error_rate_is_the_share_of_the_last_minute_that_did_not_come_out_well(counts: Counts) -> None:
    counts.count(A, 90, 1, 2, 3, 4)

    assert counts.error_rate(A) == pytest.approx(0.1)
    assert counts.error_rate(B) == 0


@pytest.mark.parametrize("passed", [0.0, 9.999, 10.0, 59.999, 60.0, 69.999])
def test_what_is_counted_stays_for_its_time_and_a_slot_at_most(counts: Counts, passed: float) -> None:
    counts.count(A, 1, 0, 0, 0, 0)
    counts.timeline.seconds += passed

    assert counts.over(A, 60) == [1, 0, 0, 0, 0]


def test_what_is_longer_ago_than_a_slot_beyond_its_time_is_out(counts: Counts) -> None:
    counts.count(A, 1, 0, 0, 0, 0)
    counts.timeline.seconds += 70

    assert counts.over(A, 60) == [0, 0, 0, 0, 0]


def test_an_hour_later_the_ring_is_clean(counts: Counts) -> None:
    counts.count(A, 7, 0, 1, 0, 0)

    counts.timeline.seconds += HOUR_S
    assert counts.over(A, 60) == [0, 0, 0, 0, 0]
    counts.count(A, 0, 0, 0, 0, 2)

    assert counts.over(A, 60) == [0, 0, 0, 0, 2]
    assert counts.over(A, HOUR_S) == [0, 0, 0, 0, 2]


def test_more_than_an_hour_is_not_asked_for(counts: Counts) -> None:
    with pytest.raises(ValueError, match="not kept"):
        counts.over(A, HOUR_S + 1)


happenings = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 3.0, 9.999, 10.0, 25.0, 61.0, 3599.0, 3600.0, 3601.0]),
        st.lists(st.integers(0, 5), min_size=5, max_size=5),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(happenings=happenings, seconds=st.sampled_from([1, 10, 15, 60, 600, 3590]))
def test_a_sum_is_that_of_the_slots_which_its_time_touches(
    redis_server: RedisServer, happenings: list[tuple[float, list[int]]], seconds: float
) -> None:
    counts = Counts(redis_server.url)
    told = []

    for passed, numbers in happenings:
        counts.timeline.seconds += passed
        counts.count(A, *numbers)
        told.append((int((BEGIN_MS / 1000 + counts.timeline.seconds) // SLOT_S), numbers))

    present = told[-1][0]
    touched = [numbers for slot, numbers in told if slot >= present - -(-seconds // SLOT_S)]
    assert counts.over(A, seconds) == [sum(kind) for kind in zip(*touched, strict=True)]
    counts.store.close()
