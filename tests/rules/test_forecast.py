"""When a run is expected to end: as late as what is due, and what is still to come, takes at the rate."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tq.forecast import FARTHEST, expected_end
from tq.models import Share
from tq.slots import LAST_PLACE, SLOT, last_place_due
from tq.testing import utc

NOW = utc("2026-11-24T09:00")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def share(
    *, starts_in: timedelta = timedelta(0), spread: timedelta = timedelta(0), cursor: int = -1
) -> Share:
    """A share of a run; nobody has been reached yet, unless a cursor is named."""
    start_at = NOW + starts_in
    return Share(
        cohort="*|default",
        start_at=start_at,
        spread=spread,
        deadline_at=NOW + timedelta(days=1),
        cursor=cursor,
        done=cursor == LAST_PLACE,
    )


def in_time(*shares: tuple[Share, float], open_jobs: int = 0, rate: float) -> timedelta:
    """How long from now on a run of these shares takes."""
    ends_at = expected_end(
        [one for one, _ in shares], [left for _, left in shares], open_jobs=open_jobs, rate=rate, now=NOW
    )
    return ends_at - NOW


def test_what_is_due_takes_as_long_as_the_rate_makes_it() -> None:
    assert in_time((share(), 600), open_jobs=300, rate=10) == 90 * SECOND


def test_a_run_that_is_fanned_out_ends_with_its_open_jobs() -> None:
    assert in_time((share(cursor=LAST_PLACE), 0), open_jobs=50, rate=5) == 10 * SECOND


def test_a_window_is_not_cut_short_however_fast_calls_are() -> None:
    assert in_time((share(spread=30 * MINUTE), 600), rate=1000) == 30 * MINUTE


def test_a_window_that_is_too_short_for_its_members_is_overrun() -> None:
    assert in_time((share(spread=MINUTE), 1200), rate=10) == 2 * MINUTE


def test_work_that_comes_up_late_ends_late_whatever_was_idle_before() -> None:
    early, late = share(), share(starts_in=60 * MINUTE)

    assert in_time((early, 60), (late, 600), rate=10) == 61 * MINUTE


def test_what_is_left_of_the_first_share_delays_the_second() -> None:
    first, second = share(), share(starts_in=MINUTE)

    assert in_time((first, 1200), (second, 600), rate=10) == 3 * MINUTE


def test_a_rate_next_to_nothing_gives_a_date_that_can_be_written() -> None:
    assert in_time((share(), 1e9), rate=0.01) == FARTHEST


@given(
    data=st.data(),
    rate=st.floats(2, 50),
    open_jobs=st.integers(0, 500),
    shapes=st.lists(
        st.tuples(st.integers(-600, 600), st.integers(0, 900), st.integers(0, 2000)), min_size=1, max_size=4
    ),
)
def test_a_run_ends_when_a_queue_that_is_served_at_the_rate_runs_dry(
    data: st.DataObject, rate: float, open_jobs: int, shapes: list[tuple[int, int, int]]
) -> None:
    shares = []
    for starts_in, spread, members in shapes:
        one = share(starts_in=starts_in * SECOND, spread=spread * SECOND)
        reached = data.draw(st.integers(-1, last_place_due(NOW - one.start_at, one.spread)))
        shares.append((one.model_copy(update={"cursor": min(reached, LAST_PLACE - 1)}), float(members)))

    expected = in_time(*shares, open_jobs=open_jobs, rate=rate)

    # Second by second: who has come up and is not served waits in a queue.
    queued, second = float(open_jobs), 0
    seen = [0.0] * len(shares)
    last_slot = max(one.start_at + one.spread for one, _ in shares)
    while second == 0 or queued > 1e-6 or NOW + second * SECOND <= last_slot:
        for number, (one, left) in enumerate(shares):
            reached = max(one.cursor, last_place_due(NOW + second * SECOND - one.start_at, one.spread))
            came_up = left * (reached - one.cursor) / (LAST_PLACE - one.cursor)
            queued, seen[number] = queued + came_up - seen[number], came_up
        queued = max(0.0, queued - rate)
        second += 1
    # Slots come all at once, and are counted as if they came evenly.
    assert abs(expected - second * SECOND) <= SLOT + 2 * SECOND
