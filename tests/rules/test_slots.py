"""Where in a run's window a user is served: the same minute every day, evenly spread, never in a burst."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.models import TaskId, UserId
from tq.slots import (
    LAST_PLACE,
    PLACES,
    PUNCTUAL,
    SLOT,
    last_place_due,
    next_slot,
    place_of,
    position_of,
    slot_offset,
    slots_of,
    spread_of,
    stretches,
)
from tq.testing.clock import utc

ZERO = timedelta(0)
MILLISECOND = timedelta(milliseconds=1)
HALF_AN_HOUR = timedelta(minutes=30)
NINE = utc("2026-11-24T09:00")

places = st.integers(0, LAST_PLACE)
spreads = st.integers(0, 7 * 86_400_000).map(lambda ms: timedelta(milliseconds=ms)) | st.sampled_from(
    [ZERO, MILLISECOND, SLOT, SLOT + MILLISECOND, HALF_AN_HOUR, timedelta(days=31)]
)
elapsed_times = st.integers(-60_000, 8 * 86_400_000).map(lambda ms: timedelta(milliseconds=ms))


def digest_place(number: int) -> int:
    """The place of one of many users."""
    return place_of(TaskId("email_digest"), UserId(f"user_{number}"))


# --- Places ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_id", "user_id", "place"),
    [
        ("email_digest", "ada", 687746222),
        ("email_digest", "bob", 1503342476),
        ("hourly_sync", "ada", 583558679),
        ("hourly_sync", "user_1", 1661758817),
        ("weekly_report", "user_100000", 18654011),
        ("a", "b", 1298085617),
        ("a:b", "c", 1097400808),
        ("a", "b:c", 2147126472),
        ("t" * 100, "u" * 100, 262150769),
        ("A-1.x", "grace@example.com", 472839279),
    ],
)
def test_a_users_place_never_changes_between_releases(task_id: str, user_id: str, place: int) -> None:
    assert place_of(TaskId(task_id), UserId(user_id)) == place


def test_a_users_place_differs_from_task_to_task() -> None:
    tasks = [TaskId(f"task_{number}") for number in range(100)]

    assert len({place_of(task, UserId("ada")) for task in tasks}) == 100


def test_a_hundred_thousand_users_fill_180_slots_evenly() -> None:
    users, slots = 100_000, 180
    filled = Counter(slot_offset(digest_place(number), HALF_AN_HOUR) // SLOT for number in range(users))

    # Chi-square with 179 degrees of freedom: by chance it is above 250 once in 2,500 times.
    expected = users / slots
    assert set(filled) == set(range(slots))
    assert sum((count - expected) ** 2 / expected for count in filled.values()) < 250


# --- Slots -------------------------------------------------------------------------------------------


@given(place=places, spread=spreads)
def test_a_slot_begins_within_the_spread_at_a_multiple_of_ten_seconds(place: int, spread: timedelta) -> None:
    offset = slot_offset(place, spread)

    assert offset % SLOT == ZERO
    assert ZERO <= offset <= max(ZERO, spread - MILLISECOND)


@given(one=places, other=places, spread=spreads)
def test_whoever_has_an_earlier_place_is_never_served_in_a_later_slot(
    one: int, other: int, spread: timedelta
) -> None:
    first, second = sorted([one, other])

    assert slot_offset(first, spread) <= slot_offset(second, spread)


def test_the_first_place_is_served_at_once_and_the_last_in_the_last_slot() -> None:
    assert slot_offset(0, HALF_AN_HOUR) == ZERO
    assert slot_offset(LAST_PLACE, HALF_AN_HOUR) == HALF_AN_HOUR - SLOT
    assert slot_offset(LAST_PLACE, ZERO) == ZERO


@given(elapsed=elapsed_times, spread=spreads)
def test_the_last_place_due_is_the_greatest_whose_slot_has_begun(
    elapsed: timedelta, spread: timedelta
) -> None:
    last = last_place_due(elapsed, spread)

    assert -1 <= last <= LAST_PLACE
    assert last == -1 or slot_offset(last, spread) <= elapsed
    assert last == LAST_PLACE or slot_offset(last + 1, spread) > elapsed


@pytest.mark.parametrize("spread_ms", [1, 9_999, 10_000, 10_001, 59_999, 600_000, 1_800_000, 1_800_001])
def test_at_the_edge_of_every_slot_the_places_due_are_those_that_a_search_finds(spread_ms: int) -> None:
    spread = timedelta(milliseconds=spread_ms)

    for slot in range(spread_ms // 10_000 + 2):
        for edge in (-MILLISECOND, ZERO, MILLISECOND):
            elapsed = slot * SLOT + edge
            # Halving: the number of places whose slot has begun.
            begun, not_begun = 0, PLACES
            while begun < not_begun:
                middle = (begun + not_begun) // 2
                if slot_offset(middle, spread) <= elapsed:
                    begun = middle + 1
                else:
                    not_begun = middle
            assert last_place_due(elapsed, spread) == begun - 1


@given(elapsed=elapsed_times, later=elapsed_times, spread=spreads)
def test_what_has_come_due_stays_due(elapsed: timedelta, later: timedelta, spread: timedelta) -> None:
    first, second = sorted([elapsed, later])

    assert last_place_due(first, spread) <= last_place_due(second, spread)


@given(elapsed=elapsed_times, spread=spreads)
def test_nothing_new_comes_due_before_the_next_slot(elapsed: timedelta, spread: timedelta) -> None:
    following = next_slot(elapsed)

    assert following > elapsed
    assert following % SLOT == ZERO
    assert last_place_due(following - MILLISECOND, spread) == last_place_due(elapsed, spread)


def test_before_the_start_the_next_slot_is_the_first() -> None:
    assert next_slot(-MILLISECOND) == next_slot(timedelta(days=-1)) == ZERO


# --- Orders that begin elsewhere -----------------------------------------------------------------------


@given(place=places)
def test_in_the_usual_order_a_place_is_its_own_position(place: int) -> None:
    assert position_of(place, 0) == place


@given(first=places, place=places)
def test_an_order_goes_round_from_its_first_place_to_the_one_before(first: int, place: int) -> None:
    following = (place + 1) % PLACES

    assert position_of(first, first) == 0
    assert 0 <= position_of(place, first) <= LAST_PLACE
    assert position_of(following, first) == (position_of(place, first) + 1) % PLACES


@given(first=places, cuts=st.lists(places, max_size=6), some=st.lists(places, min_size=1, max_size=20))
def test_wherever_an_order_begins_and_its_steps_end_every_place_is_passed_once(
    first: int, cuts: list[int], some: list[int]
) -> None:
    ends = [*sorted(cuts), LAST_PLACE]
    passed = [
        stretch
        for after, upto in zip([-1, *ends], ends, strict=False)
        for stretch in stretches(first, after=after, upto=upto)
    ]

    assert sum(end - before for before, end in passed) == PLACES
    assert all(-1 <= before < end <= LAST_PLACE for before, end in passed)
    assert all(sum(before < place <= end for before, end in passed) == 1 for place in [first, *some])


@given(first=places, after=st.integers(-1, LAST_PLACE), upto=places)
def test_the_places_between_two_positions_are_at_most_two_stretches_in_their_order(
    first: int, after: int, upto: int
) -> None:
    found = list(stretches(first, after=after, upto=upto))

    ends = [(position_of(before + 1, first), position_of(end, first)) for before, end in found]
    assert len(found) <= 2
    assert all(begin <= end for begin, end in ends)
    if after < upto:
        assert (ends[0][0], ends[-1][1]) == (after + 1, upto)
        assert all(one[1] + 1 == following[0] for one, following in pairwise(ends))
    else:
        assert found == []


@given(first=places, some=st.lists(places, min_size=2, max_size=20), spread=spreads)
def test_slots_come_in_the_order_of_positions(first: int, some: list[int], spread: timedelta) -> None:
    positions = sorted(position_of(place, first) for place in some)

    slots = slots_of(positions, spread)

    assert slots == sorted(slots)
    assert slots_of([position_of(first, first)], spread) == [0]


# --- Late runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lateness", [ZERO, timedelta(seconds=59), PUNCTUAL])
def test_a_punctual_run_keeps_everybodys_minute(lateness: timedelta) -> None:
    spread = spread_of(window=HALF_AN_HOUR, nominal_at=NINE, claimed_at=NINE + lateness)

    assert spread == (NINE, HALF_AN_HOUR)


@pytest.mark.parametrize(
    ("lateness", "spread"),
    [
        (PUNCTUAL + MILLISECOND, HALF_AN_HOUR - PUNCTUAL - MILLISECOND),
        (timedelta(minutes=10), timedelta(minutes=20)),
        (timedelta(minutes=22.5), timedelta(minutes=7.5)),
        (timedelta(minutes=25), timedelta(minutes=7.5)),
        (timedelta(days=3), timedelta(minutes=7.5)),
    ],
)
def test_a_late_run_begins_when_it_is_claimed_and_takes_the_rest_but_at_least_a_quarter(
    lateness: timedelta, spread: timedelta
) -> None:
    claimed_at = NINE + lateness

    assert spread_of(window=HALF_AN_HOUR, nominal_at=NINE, claimed_at=claimed_at) == (claimed_at, spread)


@pytest.mark.parametrize("lateness", [ZERO, timedelta(hours=1)])
def test_a_run_without_a_window_has_no_spread(lateness: timedelta) -> None:
    claimed_at = NINE + lateness

    _, spread = spread_of(window=ZERO, nominal_at=NINE, claimed_at=claimed_at)

    assert spread == ZERO
    assert last_place_due(ZERO, spread) == LAST_PLACE
