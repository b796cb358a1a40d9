"""In which order waiting jobs are taken: fair over lanes and over tasks, and none is lost or doubled."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.lanes import WEIGHTS, Lanes

HIGH, NORMAL, LOW = WEIGHTS
CONTROL = "control"
ROUND = sum(WEIGHTS.values())


@dataclass(frozen=True)
class Item:
    """What waits, and the number under which it came."""

    number: int
    lane: str
    task: str


# An item that comes to a lane and a task, or None: one is taken.
Events = list[tuple[str, str] | None]
arrivals = st.tuples(st.sampled_from([HIGH, NORMAL, LOW]), st.sampled_from(["a", "b", "c"]))
histories = st.lists(st.none() | arrivals, max_size=200)
histories_with_control = st.lists(st.none() | arrivals | st.just((CONTROL, "")), max_size=200)


class Replay:
    """Lanes that live through a history; `waiting` is what came and was not taken, in its order."""

    def __init__(self) -> None:
        self.lanes: Lanes[Item] = Lanes()
        self.waiting: list[Item] = []
        self._numbers = count()

    def put(self, lane: str, task: str) -> None:
        item = Item(next(self._numbers), lane, task)
        self.lanes.put(item, lane=lane, task=task)
        self.waiting.append(item)

    def take(self) -> Item:
        item = self.lanes.take()
        self.waiting.remove(item)
        return item

    def through(self, events: Events) -> list[tuple[list[Item], Item]]:
        """Each item that was taken, with all that waited at the time."""
        taken = []
        for event in events:
            if event is not None:
                self.put(*event)
            elif self.waiting:
                before = list(self.waiting)
                taken.append((before, self.take()))
        return taken


# --- Lanes -------------------------------------------------------------------------------------------


def taken_while_all_wait(replay: Replay, number: int) -> list[str]:
    """The lanes of so many items, taken while each lane has some."""
    for _ in range(number):
        for lane in WEIGHTS:
            replay.put(lane, "a")
    return [replay.take().lane for _ in range(number)]


def test_while_all_wait_every_round_is_16_to_4_to_1_wherever_it_begins() -> None:
    taken = taken_while_all_wait(Replay(), 5 * ROUND)

    for start in range(4 * ROUND):
        assert Counter(taken[start : start + ROUND]) == WEIGHTS


@given(before=histories, number=st.integers(1, 3 * ROUND))
def test_while_all_wait_each_lane_has_its_share_whatever_came_before(before: Events, number: int) -> None:
    replay = Replay()
    replay.through(before)

    taken = Counter(taken_while_all_wait(replay, number))

    for lane, weight in WEIGHTS.items():
        assert abs(taken[lane] - number * weight / ROUND) < 2


def test_the_turns_of_a_lane_are_spread_over_the_round() -> None:
    taken = taken_while_all_wait(Replay(), 10 * ROUND)

    turns = [place for place, lane in enumerate(taken) if lane == NORMAL]
    assert {later - earlier for earlier, later in pairwise(turns)} <= {4, 5, 6, 7}


@given(events=histories)
def test_no_lane_that_waits_is_passed_over_for_two_rounds(events: Events) -> None:
    passed_over = Counter[str]()

    for waiting, item in Replay().through(events):
        for lane in {other.lane for other in waiting} - {item.lane}:
            passed_over[lane] += 1
            assert passed_over[lane] <= 2 * ROUND / WEIGHTS[lane]
        passed_over[item.lane] = 0


@given(events=histories_with_control)
def test_what_waits_in_no_lane_goes_before_all_lanes(events: Events) -> None:
    for waiting, item in Replay().through(events):
        assert item.lane == CONTROL or all(other.lane != CONTROL for other in waiting)


def test_a_lane_alone_is_served_without_waiting_for_others() -> None:
    replay = Replay()
    for _ in range(100):
        replay.put(LOW, "a")

    assert [replay.take().lane for _ in range(100)] == [LOW] * 100


# --- Tasks -------------------------------------------------------------------------------------------


def test_tasks_take_turns_and_a_new_one_goes_last() -> None:
    replay = Replay()
    for task in "aaaabbc":
        replay.put(NORMAL, task)

    taken = [replay.take().task for _ in range(2)]
    replay.put(NORMAL, "d")
    taken += [replay.take().task for _ in range(6)]

    assert "".join(taken) == "abcabdaa"


@given(events=histories)
def test_no_task_has_a_second_turn_while_another_of_its_lane_waits_for_one(events: Events) -> None:
    # Per lane and task: which others have waited ever since its last turn.
    owed: dict[tuple[str, str], set[str]] = defaultdict(set)

    for waiting, item in Replay().through(events):
        assert not owed[item.lane, item.task]
        for (lane, _), others in owed.items():
            if lane == item.lane:
                others.discard(item.task)
        owed[item.lane, item.task] = {
            other.task for other in waiting if other.lane == item.lane and other.task != item.task
        }


@given(events=histories_with_control)
def test_the_jobs_of_one_task_are_taken_in_the_order_in_which_they_came(events: Events) -> None:
    for waiting, item in Replay().through(events):
        alike = [other for other in waiting if (other.lane, other.task) == (item.lane, item.task)]
        assert item == alike[0]


# --- Many at a time ----------------------------------------------------------------------------------


@given(
    before=histories,
    most=st.integers(0, 30),
    allowed=st.fixed_dictionaries({task: st.integers(0, 8) for task in "abc"}),
)
def test_many_at_a_time_are_those_that_would_be_taken_one_after_the_other(
    before: Events, most: int, allowed: dict[str, int]
) -> None:
    at_once, one_by_one = Replay(), Replay()
    at_once.through(before)
    one_by_one.through(before)
    left = dict(allowed)

    taken = at_once.lanes.take_jobs(most, allowed.__getitem__)

    for item in taken:
        assert one_by_one.lanes.take_job(left.__getitem__) == item
        left[item.task] -= 1
    if len(taken) < most:
        with pytest.raises(IndexError, match="nothing waits"):
            one_by_one.lanes.take_job(left.__getitem__)
    assert len(at_once.lanes) == len(one_by_one.lanes)


# --- None is lost or doubled -----------------------------------------------------------------------------


@given(events=histories_with_control)
def test_what_came_is_taken_once(events: Events) -> None:
    replay = Replay()

    taken = [item for _, item in replay.through(events)]
    assert len(replay.lanes) == len(replay.waiting)
    taken += [replay.take() for _ in range(len(replay.lanes))]

    arrived = sum(event is not None for event in events)
    assert sorted(item.number for item in taken) == list(range(arrived))
    assert len(replay.lanes) == 0


def test_there_is_nothing_to_take_where_nothing_waits() -> None:
    lanes: Lanes[str] = Lanes()
    lanes.put("one", lane=LOW)
    lanes.take()

    with pytest.raises(IndexError, match="nothing waits"):
        lanes.take()
