"""Intervals as they are declared: what is refused and how, how they are written down, when they are equal."""

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tq.models import FixedTime, Interval, IntervalType
from tq.models.interval import MAX_VALUE, WEEKDAYS

DATED = [IntervalType.DAILY, IntervalType.WEEKLY, IntervalType.MONTHLY]


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    """Any valid interval; drawn from little, so that two of them are often equal."""
    kind = draw(st.sampled_from(IntervalType))
    zone = draw(st.sampled_from(["UTC", "user", "Europe/Berlin"]))
    if kind is IntervalType.CRON:
        expression = draw(st.sampled_from(["0 9 * * *", "*/5 * * * *", "0 9 * * mon-fri"]))
        return Interval.cron(expression, timezone=zone)
    at = draw(st.none() | st.sampled_from(["00:00", "09:00"])) if kind in DATED else None
    weekday = draw(st.none() | st.sampled_from(["mon", "sun"])) if kind is IntervalType.WEEKLY else None
    day = draw(st.none() | st.sampled_from([1, 31, "last"])) if kind is IntervalType.MONTHLY else None
    return Interval.model_validate(
        {
            "type": kind,
            "value": draw(st.sampled_from([1, 2, MAX_VALUE])),
            "timezone": zone,
            "at_time": at,
            "weekday": weekday,
            "day": day,
            "anchor": draw(st.none() | st.just(date(2026, 1, 1))),
        }
    )


@pytest.mark.parametrize(
    ("declared", "found", "remedy"),
    [
        ({"type": "dialy"}, "'dialy'", "'minutely', 'hourly', 'daily', 'weekly', 'monthly' or 'cron'"),
        ({"type": "daily", "value": 0}, "0", "greater than or equal to 1"),
        ({"type": "daily", "value": 12_001}, "12001", "less than or equal to 12000"),
        ({"type": "daily", "every": 2}, "every", "not permitted"),
        ({"type": "daily", "timezone": "Europe/Berln"}, "'Europe/Berln'", "did you mean Europe/Berlin?"),
        ({"type": "daily", "timezone": "europe/berlin"}, "'europe/berlin'", "did you mean Europe/Berlin?"),
        ({"type": "daily", "timezone": "??"}, "'??'", "write an IANA name such as Europe/Berlin"),
        ({"type": "daily", "at_time": "25:00"}, "'25:00'", 'write "HH:MM", for example "09:00"'),
        ({"type": "daily", "at_time": "9"}, "'9'", 'write "HH:MM", for example "09:00"'),
        ({"type": "daily", "at_time": {"hour": 24}}, "24", "less than or equal to 23"),
        ({"type": "daily", "at_time": {"hour": 9, "minute": 60}}, "60", "less than or equal to 59"),
        (
            {"type": "weekly", "weekday": "moonday"},
            "'moonday'",
            "write one of mon, tue, wed, thu, fri, sat, sun",
        ),
        ({"type": "monthly", "day": 0}, "0", "write 1 to 31, or last"),
        ({"type": "monthly", "day": 32}, "32", "write 1 to 31, or last"),
        ({"type": "monthly", "day": "first"}, "'first'", "'last'"),
        (
            {"type": "cron", "expression": "* * * *"},
            "'* * * *'",
            "write five fields: minute hour day month weekday",
        ),
        (
            {"type": "cron", "expression": "0 * * * * *"},
            "'0 * * * * *'",
            "write five fields: minute hour day month weekday",
        ),
        ({"type": "cron", "expression": "@daily"}, "'@daily'", "write five fields"),
        ({"type": "cron", "expression": "61 * * * *"}, "'61 * * * *'", "minute"),
        ({"type": "cron", "expression": "0 0 31 2 *"}, "'0 0 31 2 *'", "day-of-month"),
        ({"type": "cron"}, "needs an expression", 'for example "0 9 * * mon-fri"'),
        ({"type": "cron", "expression": "0 9 * * *", "value": 2}, "value: 2", "drop value"),
        ({"type": "hourly", "at_time": "09:00"}, "at_time", "daily or monthly or weekly, not with hourly"),
        ({"type": "daily", "weekday": "mon"}, "weekday", "goes with weekly, not with daily"),
        ({"type": "weekly", "day": 3}, "day", "goes with monthly, not with weekly"),
        ({"type": "daily", "expression": "0 9 * * *"}, "expression", "goes with cron, not with daily"),
        ({"type": "cron", "expression": "0 9 * * *", "anchor": "2026-01-01"}, "anchor", "not with cron"),
    ],
    ids=str,
)
def test_a_declaration_that_cannot_be_used_is_quoted_with_what_can_be_written(
    declared: dict[str, object], found: str, remedy: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        Interval.model_validate(declared)

    assert found in str(refusal.value)
    assert remedy in str(refusal.value)


@pytest.mark.parametrize(
    ("declared", "meant"),
    [
        ({"type": "daily", "at_time": "9:05"}, Interval.daily(at="09:05")),
        ({"type": "daily", "at_time": {"hour": 9, "minute": 5}}, Interval.daily(at="09:05")),
        ({"type": "daily", "at_time": {"hour": 9}}, Interval.daily(at="09:00")),
        ({"type": "weekly", "at_time": "00:00", "weekday": "Wednesday"}, Interval.weekly("wed")),
        ({"type": "weekly", "at_time": "00:00", "weekday": " SUN "}, Interval.weekly("sun")),
        ({"type": "monthly", "at_time": "00:00", "day": "last"}, Interval.monthly("last")),
        ({"type": "hourly", "value": 6, "anchor": "2026-01-01"}, Interval.hourly(6, anchor=date(2026, 1, 1))),
        ({"type": "cron", "expression": "  0  9 * * * "}, Interval.cron("0 9 * * *")),
    ],
    ids=str,
)
def test_what_is_meant_alike_may_be_written_differently(declared: dict[str, object], meant: Interval) -> None:
    assert Interval.model_validate(declared) == meant


@settings(max_examples=200, deadline=None)
@given(intervals())
def test_an_interval_reads_back_as_itself(interval: Interval) -> None:
    assert Interval.from_json(interval.to_json()) == interval


def spelt_out(interval: Interval) -> Interval:
    """The same interval with its defaults written down."""
    defaults: dict[str, object] = {}
    if interval.type in DATED:
        defaults["at_time"] = interval.at_time or FixedTime(hour=0)
    if interval.type is IntervalType.WEEKLY:
        defaults["weekday"] = interval.weekday or "mon"
    if interval.type is IntervalType.MONTHLY:
        defaults["day"] = interval.day or 1
    return interval.model_copy(update=defaults)


@settings(max_examples=400, deadline=None)
@given(intervals(), intervals())
def test_the_canonical_text_is_equal_exactly_for_intervals_that_mean_the_same(
    one: Interval, other: Interval
) -> None:
    assert (one.canonical == other.canonical) == (spelt_out(one) == spelt_out(other))


@settings(max_examples=200, deadline=None)
@given(
    intervals().filter(lambda interval: interval.type is not IntervalType.CRON),
    st.sampled_from(["value", "timezone", "anchor"]),
)
def test_intervals_that_differ_in_one_thing_differ_in_their_canonical_text(one: Interval, thing: str) -> None:
    changed = {"value": one.value + 1, "timezone": "Asia/Tokyo", "anchor": date(2026, 1, 2)}

    other = one.model_copy(update={thing: changed[thing]})

    assert other.canonical != one.canonical


@settings(max_examples=200, deadline=None)
@given(intervals())
def test_a_canonical_text_reads_back_as_the_interval_with_its_defaults_written_down(
    interval: Interval,
) -> None:
    assert Interval.from_canonical(interval.canonical) == spelt_out(interval)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval.minutely(5), "minutely/5@UTC"),
        (Interval.hourly(6, anchor=date(2026, 1, 1)), "hourly/6/from 2026-01-01@UTC"),
        (Interval.daily(at="09:00", timezone="user"), "daily/1/09:00@user"),
        (Interval(type=IntervalType.DAILY), "daily/1/00:00@UTC"),
        (Interval.weekly("fri", every=2, timezone="Europe/Berlin"), "weekly/2/fri/00:00@Europe/Berlin"),
        (Interval.monthly("last", at="12:30"), "monthly/1/last/12:30@UTC"),
        (Interval.cron("*/5 * * * *"), "cron/*/5 * * * *@UTC"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_canonical_text_names_a_cohort_and_so_never_changes(interval: Interval, text: str) -> None:
    assert interval.canonical == text


def test_only_an_interval_in_each_users_zone_takes_on_a_zone() -> None:
    of_each_user = Interval.daily(at="09:00", timezone="user")
    of_berlin = Interval.daily(at="09:00", timezone="Europe/Berlin")

    assert of_each_user.uses_user_zone
    assert of_each_user.in_zone("Europe/Berlin") == of_berlin
    assert of_berlin.in_zone("Asia/Tokyo") == of_berlin


def test_an_interval_cannot_be_changed() -> None:
    interval = Interval.daily()

    with pytest.raises(ValidationError, match="frozen"):
        interval.value = 2  # type: ignore[misc]  # that the checker refuses it too is the point


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval.minutely(), "every minute"),
        (Interval.hourly(6), "every 6 hours"),
        (Interval.daily(at="09:00", timezone="user"), "every day at 09:00 in each user's time zone"),
        (Interval.weekly("fri", every=2), "every 2 weeks on fri at 00:00 (UTC)"),
        (Interval(type=IntervalType.WEEKLY), "every week on mon at 00:00 (UTC)"),
        (Interval.monthly("last", at="12:30"), "every month on the last day at 12:30 (UTC)"),
        (Interval(type=IntervalType.MONTHLY), "every month on day 1 at 00:00 (UTC)"),
        (Interval.cron("0 9 * * mon-fri", timezone="Asia/Tokyo"), "cron 0 9 * * mon-fri (Asia/Tokyo)"),
    ],
    ids=lambda value: value.canonical if isinstance(value, Interval) else "",
)
def test_an_interval_says_itself_in_words(interval: Interval, text: str) -> None:
    assert str(interval) == text


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_reads_back_as_itself(hour: int, minute: int) -> None:
    at = FixedTime(hour=hour, minute=minute)

    assert FixedTime.parse(str(at)) == at


@pytest.mark.parametrize("written", ["", "24:00", "09:60", "9", "09:00:00", "nine", "-1:00", "0900"])
def test_what_is_not_a_time_of_day_is_quoted_with_what_can_be_written(written: str) -> None:
    with pytest.raises(ValueError, match='write "HH:MM"') as refusal:
        FixedTime.parse(written)

    assert repr(written) in str(refusal.value)


def test_weeks_begin_on_monday() -> None:
    assert WEEKDAYS[0] == "mon"
    assert len(set(WEEKDAYS)) == 7
