"""Occurrences: the documented table, the nights on which clocks change, and the rules for every zone.

The rules are checked against a model that knows neither grids nor cronsim: it asks of each local date,
or of each minute, whether the interval falls on it.
"""

from calendar import monthrange
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq.clock import EPOCH
from tq.models import FixedTime, Interval, IntervalType
from tq.models.interval import WEEKDAYS
from tq.schedule import latest_between, next_after, occurrences

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NEVER = Interval.cron("0 0 */15 * mon#2")  # the 1st, 16th or 31st, and the second Monday: 8th to 14th


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fired(interval: Interval, after: str, until: str) -> list[datetime]:
    return list(occurrences(interval, after=utc(after), until=utc(until)))


# --- The table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "instant", "expected"),
    [
        (Interval.minutely(), "2026-01-01T10:30", "2026-01-01T10:31"),
        (Interval.minutely(), "2026-01-01T10:30:59.999999", "2026-01-01T10:31"),
        (Interval.minutely(15), "2026-01-01T10:30", "2026-01-01T10:45"),
        (Interval.minutely(7), "1970-01-01T00:08", "1970-01-01T00:14"),
        (Interval.minutely(7), "1969-12-31T23:50", "1969-12-31T23:53"),
        (Interval.minutely(7, anchor=date(2026, 1, 1)), "2026-01-01T00:08", "2026-01-01T00:14"),
        (Interval.minutely(7, anchor=date(2026, 1, 1)), "2025-12-31T23:50", "2025-12-31T23:53"),
        (Interval.hourly(), "2026-01-01T10:30", "2026-01-01T11:00"),
        (Interval.hourly(), "2026-01-01T11:00", "2026-01-01T12:00"),
        (Interval.hourly(6), "2026-01-01T10:30", "2026-01-01T12:00"),
        (Interval.hourly(5), "1970-01-02T00:00", "1970-01-02T01:00"),
        (Interval.daily(at="09:00"), "2026-01-01T10:00", "2026-01-02T09:00"),
        (Interval.daily(at="09:00"), "2026-01-01T09:00", "2026-01-02T09:00"),
        (Interval.daily(at="09:00"), "2026-01-01T08:59:59.999999", "2026-01-01T09:00"),
        (Interval(type=IntervalType.DAILY), "2026-01-01T10:00", "2026-01-02T00:00"),
        (Interval.daily(2), "1970-01-01T00:00", "1970-01-03T00:00"),
        (Interval.daily(2), "1969-12-30T12:00", "1970-01-01T00:00"),
        (Interval.daily(3, anchor=date(2026, 1, 10)), "2026-01-01T00:00", "2026-01-04T00:00"),
        (Interval.daily(3, anchor=date(2026, 1, 10)), "2026-01-10T00:00", "2026-01-13T00:00"),
        (Interval.daily(at="09:00", timezone="Asia/Kolkata"), "2026-01-01T03:30", "2026-01-02T03:30"),
        (Interval(type=IntervalType.WEEKLY), "2026-01-01T00:00", "2026-01-05T00:00"),
        (Interval.weekly("wed", at="08:00"), "2026-01-05T00:00", "2026-01-07T08:00"),
        (Interval.weekly("wed", at="08:00"), "2026-01-07T08:00", "2026-01-14T08:00"),
        (Interval.weekly("sun", every=2), "1970-01-05T00:00", "1970-01-11T00:00"),
        (Interval.weekly("sun", every=2), "1970-01-11T00:00", "1970-01-25T00:00"),
        (Interval.weekly("fri", every=2, anchor=date(2026, 1, 8)), "2026-01-01T00:00", "2026-01-09T00:00"),
        (Interval.weekly("fri", every=2, anchor=date(2026, 1, 8)), "2025-12-20T00:00", "2025-12-26T00:00"),
        (Interval.weekly("fri", every=2, anchor=date(2026, 1, 11)), "2026-01-01T00:00", "2026-01-09T00:00"),
        (Interval(type=IntervalType.MONTHLY), "2026-01-01T00:00", "2026-02-01T00:00"),
        (Interval.monthly(15, at="06:30"), "2026-01-15T06:29", "2026-01-15T06:30"),
        (Interval.monthly(31), "2026-01-31T00:00", "2026-02-28T00:00"),
        (Interval.monthly(30), "2028-02-01T00:00", "2028-02-29T00:00"),
        (Interval.monthly(29), "2026-02-01T00:00", "2026-02-28T00:00"),
        (Interval.monthly("last"), "2026-04-01T00:00", "2026-04-30T00:00"),
        (Interval.monthly(every=3), "2026-01-02T00:00", "2026-04-01T00:00"),
        (Interval.monthly(every=3, anchor=date(2026, 2, 17)), "2026-01-15T00:00", "2026-02-01T00:00"),
        (Interval.monthly(every=3, anchor=date(2026, 2, 17)), "2025-10-15T00:00", "2025-11-01T00:00"),
        (Interval.cron("0 9 * * mon-fri"), "2026-01-02T10:00", "2026-01-05T09:00"),
        (Interval.cron("*/15 * * * *"), "2026-01-01T10:30", "2026-01-01T10:45"),
        (Interval.cron("0 0 29 2 *"), "2026-01-01T00:00", "2028-02-29T00:00"),
        (Interval.cron("0 0 L * *"), "2026-02-01T00:00", "2026-02-28T00:00"),
        (Interval.cron("0 9 * * *", timezone="Asia/Tokyo"), "2026-01-01T00:00", "2026-01-02T00:00"),
    ],
    ids=lambda value: value.canonical if isinstance(value, Interval) else value,
)
def test_the_next_occurrence_is_the_first_on_the_grid_that_is_strictly_later(
    interval: Interval, instant: str, expected: str
) -> None:
    assert next_after(interval, utc(instant)) == utc(expected)


def test_an_anchored_hourly_grid_passes_through_midnight_in_its_zone() -> None:
    every_five = Interval(
        type=IntervalType.HOURLY, value=5, anchor=date(2026, 1, 1), timezone="Europe/Berlin"
    )

    instants = fired(every_five, "2025-12-31T12:00", "2026-01-01T05:00")

    assert instants == [
        utc("2025-12-31T13:00"),
        utc("2025-12-31T18:00"),
        utc("2025-12-31T23:00"),
        utc("2026-01-01T04:00"),
    ]


def test_monthly_on_the_31st_falls_on_the_last_day_of_shorter_months() -> None:
    on_the_31st = Interval.monthly(31, at="12:00", timezone="Europe/Berlin")

    instants = fired(on_the_31st, "2026-12-31T22:59", "2027-12-31T22:59")

    days = [instant.astimezone(ZoneInfo("Europe/Berlin")).day for instant in instants]
    assert days == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def test_cron_takes_either_a_day_of_month_or_a_day_of_week() -> None:
    friday_or_13th = Interval.cron("0 0 13 * fri")

    days = [instant.day for instant in fired(friday_or_13th, "2026-01-01T00:00", "2026-01-20T00:00")]

    assert days == [2, 9, 13, 16]


def test_occurrences_leave_out_the_earlier_bound_and_take_in_the_later() -> None:
    hourly = Interval.hourly()

    instants = fired(hourly, "2026-01-01T10:00", "2026-01-01T12:00")

    assert instants == [utc("2026-01-01T11:00"), utc("2026-01-01T12:00")]


def test_nothing_falls_between_bounds_that_are_closer_than_the_grid() -> None:
    daily = Interval.daily(at="09:00")
    nine, next_nine = utc("2026-01-01T09:00"), utc("2026-01-02T09:00")

    just_before = next_nine - timedelta(microseconds=1)

    assert list(occurrences(daily, after=nine, until=just_before)) == []
    assert latest_between(daily, after=nine, until=just_before) is None
    assert latest_between(daily, after=nine, until=next_nine) == next_nine


@pytest.mark.parametrize(
    "interval",
    [
        Interval.minutely(),
        Interval.hourly(),
        Interval.daily(),
        Interval.weekly("thu"),
        Interval.monthly(),
        Interval.cron("* * * * *"),
    ],
    ids=str,
)
def test_the_latest_occurrence_is_found_however_long_ago_the_search_begins(interval: Interval) -> None:
    begin, until = utc("0101-01-01"), utc("2026-01-01")

    latest = latest_between(interval, after=begin, until=until)

    assert latest == until


# --- What has no occurrence ------------------------------------------------------------------------


def test_a_cron_expression_that_never_matches_is_an_error_that_quotes_it() -> None:
    with pytest.raises(ValueError, match=r"'0 0 \*/15 \* mon#2' never matches; let its day of month"):
        next_after(NEVER, utc("2026-01-01"))


def test_a_cron_expression_that_never_matches_has_no_occurrence_in_any_span() -> None:
    bounds = {"after": utc("2026-01-01"), "until": utc("2030-01-01")}

    assert list(occurrences(NEVER, **bounds)) == []
    assert latest_between(NEVER, **bounds) is None


@pytest.mark.parametrize("kind", [kind for kind in IntervalType if kind is not IntervalType.CRON])
def test_an_interval_in_each_users_zone_must_be_resolved_first(kind: IntervalType) -> None:
    unresolved = Interval(type=kind, timezone="user")
    bounds = {"after": EPOCH, "until": EPOCH + DAY}

    with pytest.raises(ValueError, match=r"user.*resolve it first with interval\.in_zone\("):
        next_after(unresolved, EPOCH)
    with pytest.raises(ValueError, match=r"in_zone"):
        occurrences(unresolved, **bounds)
    with pytest.raises(ValueError, match=r"in_zone"):
        latest_between(unresolved, **bounds)
    assert next_after(unresolved.in_zone("UTC"), EPOCH) > EPOCH


# --- Nights on which clocks change -----------------------------------------------------------------

AT_HALF_PAST_TWO = [
    Interval.daily(at="02:30", timezone="Europe/Berlin"),
    Interval.cron("30 2 * * *", timezone="Europe/Berlin"),
]


@pytest.mark.parametrize("interval", AT_HALF_PAST_TWO, ids=str)
def test_half_past_two_fires_once_on_the_night_the_clocks_go_back(interval: Interval) -> None:
    instants = fired(interval, "2026-10-24T12:00", "2026-10-25T12:00")

    assert instants == [utc("2026-10-25T00:30")]


@pytest.mark.parametrize("interval", AT_HALF_PAST_TWO, ids=str)
def test_half_past_two_fires_an_hour_later_on_the_night_the_clocks_go_forward(interval: Interval) -> None:
    instants = fired(interval, "2027-03-27T12:00", "2027-03-28T12:00")

    assert instants == [utc("2027-03-28T01:30")]
    assert instants[0].astimezone(ZoneInfo("Europe/Berlin")).time() == time(3, 30)


@pytest.mark.parametrize("interval", AT_HALF_PAST_TWO, ids=str)
def test_the_second_half_past_two_is_not_due_even_when_asked_between_the_two(interval: Interval) -> None:
    between = utc("2026-10-25T00:45")

    assert next_after(interval, between) == utc("2026-10-26T01:30")
    assert latest_between(interval, after=between, until=utc("2026-10-25T12:00")) is None


@pytest.mark.parametrize("interval", AT_HALF_PAST_TWO, ids=str)
def test_the_latest_half_past_two_is_tonights_although_the_clock_shows_less_again(interval: Interval) -> None:
    ten_past_two_again = utc("2026-10-25T01:10")

    latest = latest_between(interval, after=utc("2026-10-20"), until=ten_past_two_again)

    assert latest == utc("2026-10-25T00:30")


@pytest.mark.parametrize("interval", AT_HALF_PAST_TWO, ids=str)
def test_a_shifted_occurrence_is_still_ahead_once_the_gap_has_passed(interval: Interval) -> None:
    clocks_went_forward = utc("2027-03-28T01:00")

    assert next_after(interval, clocks_went_forward) == utc("2027-03-28T01:30")
    assert latest_between(
        interval, after=clocks_went_forward, until=clocks_went_forward + HOUR
    ) == clocks_went_forward + timedelta(minutes=30)


def test_cron_on_elapsed_time_fires_in_both_passes_of_a_fold() -> None:
    every_hour_at_30 = Interval.cron("30 * * * *", timezone="Europe/Berlin")

    instants = fired(every_hour_at_30, "2026-10-24T23:00", "2026-10-25T03:00")

    assert instants == [
        utc("2026-10-24T23:30"),
        utc("2026-10-25T00:30"),
        utc("2026-10-25T01:30"),
        utc("2026-10-25T02:30"),
    ]


def test_cron_on_elapsed_time_ends_the_first_pass_before_it_begins_the_second() -> None:
    twice_in_the_hour = Interval.cron("0,30 2 * * *", timezone="Europe/Berlin")

    instants = fired(twice_in_the_hour, "2026-10-24T12:00", "2026-10-25T12:00")

    assert instants == [
        utc("2026-10-25T00:00"),
        utc("2026-10-25T00:30"),
        utc("2026-10-25T01:00"),
        utc("2026-10-25T01:30"),
    ]


@pytest.mark.parametrize("interval_minutes", [10, 30])
def test_cron_on_elapsed_time_is_the_same_wherever_in_a_fold_one_asks(interval_minutes: int) -> None:
    interval = Interval.cron(f"*/{interval_minutes} 2 * * *", timezone="Europe/Berlin")
    begin, end = utc("2026-10-25T00:00"), utc("2026-10-25T02:00")  # 02:00 to 03:00, twice
    due = [begin + count * MINUTE for count in range(0, 120, interval_minutes)]

    for asked in (begin + count * MINUTE for count in range(119 - interval_minutes)):
        assert next_after(interval, asked) == min(instant for instant in due if instant > asked)
        assert latest_between(interval, after=begin - DAY, until=asked) == max(
            instant for instant in due if instant <= asked
        )
    assert latest_between(interval, after=begin - DAY, until=end) == due[-1]


def test_cron_on_elapsed_time_skips_the_hour_that_a_gap_takes_away() -> None:
    every_hour_at_30 = Interval.cron("30 * * * *", timezone="Europe/Berlin")
    twice_in_the_hour = Interval.cron("0,30 2 * * *", timezone="Europe/Berlin")

    hourly = fired(every_hour_at_30, "2027-03-28T00:00", "2027-03-28T02:00")
    in_the_hour = fired(twice_in_the_hour, "2027-03-27T12:00", "2027-03-28T12:00")

    assert hourly == [utc("2027-03-28T00:30"), utc("2027-03-28T01:30")]
    assert in_the_hour == []


def test_a_date_that_a_zone_left_out_fires_with_the_next_one_and_only_once() -> None:
    daily = Interval.daily(at="09:00", timezone="Pacific/Apia")
    on_fridays = Interval.weekly("fri", at="09:00", timezone="Pacific/Apia")
    saturday_nine = utc("2011-12-30T19:00")  # there was no Friday 30 December 2011 in Samoa

    daily_instants = fired(daily, "2011-12-29T00:00", "2012-01-01T00:00")
    friday_instants = fired(on_fridays, "2011-12-29T00:00", "2012-01-01T00:00")

    assert daily_instants == [utc("2011-12-29T19:00"), saturday_nine, saturday_nine + DAY]
    assert friday_instants == [saturday_nine]


# --- Whole years in zones that are awkward in different ways ----------------------------------------

YEARS = [
    ("Europe/Berlin", 2026, 2027),
    ("America/New_York", 2026, 2027),
    ("Australia/Lord_Howe", 2026, 2027),
    ("Asia/Kolkata", 2026, 2027),
    ("Pacific/Apia", 2011, 2011),
]
HOURS_IN_A_DAY = {
    "Europe/Berlin": {23.0, 24.0, 25.0},
    "America/New_York": {23.0, 24.0, 25.0},
    "Australia/Lord_Howe": {23.5, 24.0, 24.5},
    "Asia/Kolkata": {24.0},
    "Pacific/Apia": {23.0, 24.0, 25.0},
}
HOURLY_IN_A_DAY = {
    "Europe/Berlin": {23, 24, 25},
    "America/New_York": {23, 24, 25},
    "Australia/Lord_Howe": {23, 24, 25},
    "Asia/Kolkata": {24},
    "Pacific/Apia": {23, 24, 25},
}


@pytest.mark.parametrize(("zone", "first", "last"), YEARS)
@pytest.mark.parametrize("expression", [None, "30 2 * * *"], ids=["daily", "cron"])
def test_half_past_two_has_one_occurrence_on_each_date_that_exists(
    zone: str, first: int, last: int, expression: str | None
) -> None:
    interval = (
        Interval.cron(expression, timezone=zone) if expression else Interval.daily(at="02:30", timezone=zone)
    )
    dates = list(existing_dates(zone, date(first, 1, 1), date(last, 12, 31)))

    instants = list(occurrences(interval, **local_span(zone, dates)))

    assert [instant.astimezone(ZoneInfo(zone)).date() for instant in instants] == dates


def test_samoa_had_364_dates_in_2011() -> None:
    dates = list(existing_dates("Pacific/Apia", date(2011, 1, 1), date(2011, 12, 31)))

    assert len(dates) == 364
    assert date(2011, 12, 30) not in dates


@pytest.mark.parametrize(("zone", "first", "last"), YEARS)
def test_an_hourly_interval_fires_as_often_as_a_local_day_has_hours(zone: str, first: int, last: int) -> None:
    dates = list(existing_dates(zone, date(first, 1, 1), date(last, 12, 31)))
    midnights = [instant_of(datetime.combine(day, time()), zone) for day in [*dates, dates[-1] + DAY]]
    lengths = [(following - midnight) / HOUR for midnight, following in pairwise(midnights)]

    instants = occurrences(Interval.hourly(), **local_span(zone, dates))

    fired_on = Counter(instant.astimezone(ZoneInfo(zone)).date() for instant in instants)
    assert set(lengths) == HOURS_IN_A_DAY[zone]
    assert set(fired_on.values()) == HOURLY_IN_A_DAY[zone]
    assert list(fired_on) == dates
    # A day of 24.5 hours holds 24 or 25 of them, depending on where in the hour its midnight lies.
    assert all(abs(fired_on[day] - hours) < 1 for day, hours in zip(dates, lengths, strict=True))


# --- Rules for every zone --------------------------------------------------------------------------


def existing_dates(zone: str, first: date, last: date) -> Iterator[date]:
    """The dates that the clocks of a zone show. A zone that skips part of a date leaves one of these hours."""
    for offset in range((last - first).days + 1):
        day = first + offset * DAY
        if any(shown_at(datetime.combine(day, time(hour)), zone) for hour in range(0, 24, 4)):
            yield day


def offsets_around(wall: datetime, zone: str) -> list[timedelta]:
    """The offsets in force well before and well after; changes lie further apart than that."""
    there = ZoneInfo(zone)
    probes = [wall.replace(tzinfo=UTC) - 1.5 * DAY, wall.replace(tzinfo=UTC) + 1.5 * DAY]
    return [probe.astimezone(there).utcoffset() or timedelta(0) for probe in probes]


def shown_at(wall: datetime, zone: str) -> list[datetime]:
    """The instants at which the clocks of a zone show a wall time: none, one or two."""
    candidates = {wall.replace(tzinfo=UTC) - offset for offset in offsets_around(wall, zone)}
    there = ZoneInfo(zone)
    return sorted(instant for instant in candidates if instant.astimezone(there).replace(tzinfo=None) == wall)


def instant_of(wall: datetime, zone: str) -> datetime:
    """The first instant that shows a wall time, or for one that is skipped, the wall time under the offset before."""
    shown = shown_at(wall, zone)
    return shown[0] if shown else wall.replace(tzinfo=UTC) - offsets_around(wall, zone)[0]


def local_span(zone: str, dates: list[date]) -> dict[str, datetime]:
    """Bounds that take in all of the given dates and nothing more."""
    begin = instant_of(datetime.combine(dates[0], time()), zone)
    end = instant_of(datetime.combine(dates[-1] + DAY, time()), zone)
    return {"after": begin - timedelta(microseconds=1), "until": end - timedelta(microseconds=1)}


@dataclass(frozen=True)
class Cron:
    """A cron expression of plain lists; an empty list stands for the star."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @property
    def expression(self) -> str:
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(",".join(map(str, sorted(field))) or "*" for field in fields)

    def falls_on(self, day: date) -> bool:
        in_month = not self.months or day.month in self.months
        by_number, by_name = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.days and self.weekdays:
            return in_month and (by_number or by_name)
        return in_month and (by_number or not self.days) and (by_name or not self.weekdays)

    def falls_at(self, wall: datetime) -> bool:
        in_time = (not self.minutes or wall.minute in self.minutes) and (
            not self.hours or wall.hour in self.hours
        )
        return wall.second == 0 and in_time and self.falls_on(wall.date())


def falls_on(interval: Interval, day: date) -> bool:
    """Whether a daily, weekly or monthly interval falls on a date."""
    if interval.type is IntervalType.DAILY:
        return (day - (interval.anchor or date(1970, 1, 1))).days % interval.value == 0
    if interval.type is IntervalType.WEEKLY:
        anchor = interval.anchor or date(1970, 1, 5)
        monday, this_monday = anchor - anchor.weekday() * DAY, day - day.weekday() * DAY
        on_weekday = day.weekday() == WEEKDAYS.index(interval.weekday or "mon")
        return on_weekday and (this_monday - monday).days // 7 % interval.value == 0
    anchor = interval.anchor or date(1970, 1, 1)
    months = (day.year - anchor.year) * 12 + day.month - anchor.month
    last = monthrange(day.year, day.month)[1]
    wanted = last if interval.day == "last" else min(interval.day or 1, last)
    return months % interval.value == 0 and day.day == wanted


def by_dates(interval: Interval, dates: list[date]) -> list[datetime]:
    """The model of an interval that falls once on each matching date."""
    at = time(interval.at_time.hour, interval.at_time.minute) if interval.at_time else time()
    walls = [datetime.combine(day, at) for day in dates if falls_on(interval, day)]
    return sorted({instant_of(wall, interval.timezone) for wall in walls})


def dates_around(span: tuple[datetime, datetime]) -> list[date]:
    begin, end = span[0].date() - 2 * DAY, span[1].date() + 2 * DAY
    return [begin + offset * DAY for offset in range((end - begin).days + 1)]


def within(span: tuple[datetime, datetime], instants: list[datetime]) -> list[datetime]:
    return [instant for instant in instants if span[0] < instant <= span[1]]


@cache
def clock_changes(zone: str, year: int) -> list[datetime]:
    """The instants of a year at which a zone's offset changes, to the minute."""
    there = ZoneInfo(zone)
    begin = datetime(year, 1, 1, tzinfo=UTC)
    changes = []
    for offset in range(366):
        low, high = begin + offset * DAY, begin + (offset + 1) * DAY
        if low.astimezone(there).utcoffset() == high.astimezone(there).utcoffset():
            continue
        before = low.astimezone(there).utcoffset()
        while high - low > MINUTE:
            middle = low + (high - low) // MINUTE // 2 * MINUTE
            if middle.astimezone(there).utcoffset() == before:
                low = middle
            else:
                high = middle
        changes.append(high)
    return changes


ZONES = st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
# Offsets are whole minutes from 1973 on, which is what a model that walks by the minute can see.
PLACES = st.tuples(ZONES, st.integers(1973, 2100))
VALUES = st.integers(1, 6)
ANCHORS = st.none() | st.dates(date(1980, 1, 1), date(2100, 1, 1))
TIMES = st.builds(FixedTime, hour=st.integers(0, 23), minute=st.sampled_from([0, 15, 30, 59]))


@st.composite
def instants_in(draw: st.DrawFn, zone: str, year: int) -> datetime:
    """Any instant of the year, but mostly one within minutes or a day of a change of clocks."""
    changes = clock_changes(zone, year)
    if changes and draw(st.sampled_from([True, True, True, False])):
        return draw(st.sampled_from(changes)) + draw(st.integers(-90, 90) | st.integers(-1800, 1800)) * MINUTE
    return datetime(year, 1, 1, tzinfo=UTC) + draw(st.timedeltas(timedelta(0), 365 * DAY))


@st.composite
def dated_intervals(draw: st.DrawFn, zone: str) -> Interval:
    kind = draw(st.sampled_from([IntervalType.DAILY, IntervalType.WEEKLY, IntervalType.MONTHLY]))
    weekday = draw(st.sampled_from(WEEKDAYS)) if kind is IntervalType.WEEKLY else None
    day = draw(st.integers(1, 31) | st.just("last")) if kind is IntervalType.MONTHLY else None
    return Interval.model_validate(
        {
            "type": kind,
            "value": draw(VALUES),
            "timezone": zone,
            "at_time": draw(TIMES),
            "anchor": draw(ANCHORS),
            "weekday": weekday,
            "day": day,
        }
    )


def one_of(low: int, high: int) -> st.SearchStrategy[frozenset[int]]:
    return st.integers(low, high).map(lambda number: frozenset({number}))


def star_or_some_of(low: int, high: int) -> st.SearchStrategy[frozenset[int]]:
    return st.just(frozenset[int]()) | st.frozensets(st.integers(low, high), max_size=4)


DAYS = {
    "days": star_or_some_of(1, 28),
    "months": star_or_some_of(1, 12),
    "weekdays": star_or_some_of(0, 6),
}
FIXED_CRONS = st.builds(Cron, minutes=one_of(0, 59), hours=one_of(0, 23), **DAYS)
ELAPSED_CRONS = st.builds(
    Cron,
    minutes=st.frozensets(st.sampled_from([0, 10, 30, 45]), max_size=3),
    hours=st.frozensets(st.sampled_from([0, 1, 2, 3, 12, 23]), max_size=3),
    **DAYS,
).filter(lambda cron: not len(cron.minutes) == len(cron.hours) == 1)


@st.composite
def any_intervals(draw: st.DrawFn, zone: str) -> Interval:
    elapsed = st.builds(
        Interval,
        type=st.sampled_from([IntervalType.MINUTELY, IntervalType.HOURLY]),
        value=st.integers(1, 200),
        timezone=st.just(zone),
        anchor=ANCHORS,
    )
    crons = (ELAPSED_CRONS | FIXED_CRONS).map(lambda cron: Interval.cron(cron.expression, timezone=zone))
    return draw(dated_intervals(zone) | elapsed | crons)


@settings(max_examples=400, deadline=None)
@given(st.data(), PLACES)
def test_daily_weekly_and_monthly_fall_once_on_each_matching_date_in_every_zone(
    data: st.DataObject, place: tuple[str, int]
) -> None:
    interval = data.draw(dated_intervals(place[0]))
    after = data.draw(instants_in(*place))
    span = (after, after + data.draw(st.integers(0, 100)) * DAY)

    instants = list(occurrences(interval, after=span[0], until=span[1]))

    assert instants == within(span, by_dates(interval, dates_around(span)))


@settings(max_examples=300, deadline=None)
@given(st.data(), PLACES, TIMES)
def test_daily_has_one_occurrence_per_date_that_exists_in_every_zone(
    data: st.DataObject, place: tuple[str, int], at: FixedTime
) -> None:
    zone = place[0]
    interval = Interval.daily(at=str(at), timezone=zone)
    middle = data.draw(instants_in(*place)).date()
    dates = list(existing_dates(zone, middle - 4 * DAY, middle + 4 * DAY))
    after = instant_of(datetime.combine(dates[0], time(at.hour, at.minute)), zone) - MINUTE
    until = instant_of(datetime.combine(dates[-1], time(at.hour, at.minute)), zone)

    instants = list(occurrences(interval, after=after, until=until))

    assert len(instants) == len(dates)
    assert all(earlier < later for earlier, later in pairwise(instants))


@settings(max_examples=300, deadline=None)
@given(st.data(), PLACES, FIXED_CRONS)
def test_cron_at_one_fixed_time_falls_once_on_each_matching_date_in_every_zone(
    data: st.DataObject, place: tuple[str, int], cron: Cron
) -> None:
    zone = place[0]
    after = data.draw(instants_in(*place))
    span = (after, after + data.draw(st.integers(0, 60)) * DAY)
    at = time(min(cron.hours), min(cron.minutes))
    walls = [datetime.combine(day, at) for day in dates_around(span) if cron.falls_on(day)]

    instants = list(occurrences(Interval.cron(cron.expression, timezone=zone), after=span[0], until=span[1]))

    assert instants == within(span, sorted({instant_of(wall, zone) for wall in walls}))


@settings(max_examples=300, deadline=None)
@given(st.data(), PLACES, ELAPSED_CRONS)
def test_any_other_cron_fires_at_each_minute_that_shows_a_matching_wall_time_in_every_zone(
    data: st.DataObject, place: tuple[str, int], cron: Cron
) -> None:
    zone = place[0]
    there = ZoneInfo(zone)
    after = data.draw(instants_in(*place))
    until = after + data.draw(st.integers(0, 2000)) * MINUTE
    whole = after.replace(second=0, microsecond=0)
    minutes = [whole + count * MINUTE for count in range((until - whole) // MINUTE + 1)]

    instants = list(occurrences(Interval.cron(cron.expression, timezone=zone), after=after, until=until))

    matching = [instant for instant in minutes if cron.falls_at(instant.astimezone(there))]
    assert instants == within((after, until), matching)


@settings(max_examples=300, deadline=None)
@given(st.data(), PLACES)
def test_minutes_and_hours_count_elapsed_time_from_their_origin_in_every_zone(
    data: st.DataObject, place: tuple[str, int]
) -> None:
    zone = place[0]
    kind, unit = data.draw(st.sampled_from([(IntervalType.MINUTELY, MINUTE), (IntervalType.HOURLY, HOUR)]))
    value, anchor = data.draw(st.integers(1, 500)), data.draw(ANCHORS)
    interval = Interval(type=kind, value=value, timezone=zone, anchor=anchor)
    after = data.draw(instants_in(*place))
    origin = instant_of(datetime.combine(anchor, time()), zone) if anchor else EPOCH

    occurrence = next_after(interval, after)

    assert (occurrence - origin) % (value * unit) == timedelta(0)
    assert timedelta(0) < occurrence - after <= value * unit


@settings(max_examples=500, deadline=None)
@given(st.data(), PLACES)
def test_all_questions_give_the_same_occurrences_wherever_one_starts_in_every_zone(
    data: st.DataObject, place: tuple[str, int]
) -> None:
    interval = data.draw(any_intervals(place[0]))
    middle = data.draw(instants_in(*place))
    after = middle - data.draw(st.timedeltas(timedelta(0), 2 * DAY))
    until = middle + data.draw(st.timedeltas(timedelta(0), 2 * DAY))

    whole = list(occurrences(interval, after=after, until=until))
    one_by_one = [after]
    while (following := next_after(interval, one_by_one[-1])) <= until:
        assert following > one_by_one[-1]
        one_by_one.append(following)

    assert one_by_one[1:] == whole
    for span in [(after, until), (after, middle), (middle, until)]:
        expected = within(span, whole)
        assert list(occurrences(interval, after=span[0], until=span[1])) == expected
        assert latest_between(interval, after=span[0], until=span[1]) == max(expected, default=None)
