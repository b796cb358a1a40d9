"""Durations and windows: what may be written, what it means, and what is said of anything else."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq.models import Window, format_duration, parse_duration
from tq.models.durations import DURATION_RULE, LONGEST

MILLISECONDS = st.integers(0, LONGEST // timedelta(milliseconds=1))


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("300ms", timedelta(milliseconds=300)),
        ("1m500ms", timedelta(seconds=60.5)),
        (".5s", timedelta(milliseconds=500)),
        ("2d", timedelta(days=2)),
        ("1d12h", timedelta(hours=36)),
        (" 5m ", timedelta(minutes=5)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("5", timedelta(seconds=5)),
        ("2.5", timedelta(seconds=2.5)),
        (5, timedelta(seconds=5)),
        (0.25, timedelta(milliseconds=250)),
        (timedelta(minutes=5), timedelta(minutes=5)),
        ("3660d", LONGEST),
    ],
)
def test_a_duration_is_read_as_people_and_go_write_it(written: object, duration: timedelta) -> None:
    assert parse_duration(written) == duration


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "m",
        "5 m",
        "1h 30m",
        "-1s",
        "+1s",
        "1y",
        "5M",
        "1e3",
        "1us",
        "5m!",
        "nan",
        "3661d",
        "9" * 400,
        "9" * 400 + "d",
        -1,
        float("nan"),
        float("inf"),
        True,
        None,
        ["5m"],
        timedelta(seconds=-1),
        LONGEST + timedelta(milliseconds=1),
    ],
    ids=lambda written: repr(written)[:20],
)
def test_what_is_not_a_duration_is_quoted_with_what_can_be_written(written: object) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        parse_duration(written)

    assert str(refusal.value) == f"{written!r} is not a duration; write {DURATION_RULE}"


@settings(max_examples=200, deadline=None)
@given(MILLISECONDS)
def test_a_formatted_duration_reads_back_as_itself(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)

    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=60), "1m"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(days=2), "2d"),
        (timedelta(days=1, hours=1, minutes=1, seconds=1, milliseconds=1), "1d1h1m1s1ms"),
    ],
)
def test_a_duration_is_formatted_without_units_that_are_nothing(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("30m", "30m"),
        ("90m", "1h30m"),
        (300, "5m"),
        (0, "0s"),
        ("0", "0s"),
        ("50%", "50%"),
        (" 50 % ", "50%"),
        ("12.5%", "12.5%"),
        ("0%", "0%"),
        ("100%", "100%"),
    ],
)
def test_a_window_is_a_duration_or_a_share_and_reads_back_as_itself(written: object, text: str) -> None:
    window = Window.parse(written)

    assert str(window) == text
    assert Window.parse(text) == window
    assert Window.parse(window) is window


@pytest.mark.parametrize("written", ["", "abc", "-5%", "%", "1/2", "-1s", "50%%", True, None])
def test_what_is_not_a_window_is_quoted_with_what_can_be_written(written: object) -> None:
    with pytest.raises(ValueError, match="is not a window") as refusal:
        Window.parse(written)

    assert str(refusal.value) == (
        f"{written!r} is not a window; write a duration ({DURATION_RULE}) or a share such as 50%"
    )


@pytest.mark.parametrize("written", ["101%", "100.5%", "1000%"])
def test_a_window_is_at_most_the_whole_interval(written: str) -> None:
    with pytest.raises(ValueError, match="is more than the whole interval; write at most 100%") as refusal:
        Window.parse(written)

    assert repr(written) in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "until_next", "spread"),
    [
        ("30m", timedelta(hours=24), timedelta(minutes=30)),
        ("30m", timedelta(minutes=10), timedelta(minutes=10)),
        ("0", timedelta(hours=1), timedelta(0)),
        ("50%", timedelta(hours=1), timedelta(minutes=30)),
        ("100%", timedelta(minutes=1), timedelta(minutes=1)),
        ("0%", timedelta(hours=1), timedelta(0)),
    ],
)
def test_a_window_never_reaches_beyond_the_next_occurrence(
    written: str, until_next: timedelta, spread: timedelta
) -> None:
    assert Window.parse(written).within(until_next) == spread


@settings(max_examples=100, deadline=None)
@given(MILLISECONDS.map(lambda ms: timedelta(milliseconds=ms)) | st.integers(0, 100).map("{}%".format))
def test_windows_that_are_written_alike_are_equal_and_hash_alike(written: object) -> None:
    one, other = Window.parse(written), Window.parse(written)

    assert one == other
    assert hash(one) == hash(other)
    assert Window.parse(str(one)) == one
