"""When a task falls due.

Pure: no clock, no Redis. Every instant that comes in or goes out is in UTC; wall time lives only
inside this module.

Occurrences lie on a grid that does not depend on when something last ran: multiples of the interval's
value, counted both ways from 1970 or from its anchor.

Minutes and hours count elapsed time, so no change of clocks touches them. Days, weeks, months and a
cron expression with one fixed time fall once on each of their local dates: a wall time that a zone
skips when it springs forward fires later by the length of the gap (02:30 at 03:30), and one that
happens twice when it falls back fires the first time. Any other cron expression runs on elapsed time:
nothing for a wall time that is skipped, and both times for one that happens twice.
"""

from calendar import monthrange
from collections import deque
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import count, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from tq.clock import EPOCH
from tq.models.interval import SUB_DAILY, WEEKDAYS, Interval, IntervalType

_SECOND = timedelta(seconds=1)
# The longest that clocks ever sprang forward: Samoa had no 30 December 2011.
_LONGEST_GAP = timedelta(days=1)
_FIRST_DAY = date(1970, 1, 1)
_FIRST_MONDAY = date(1970, 1, 5)


def falls_once_a_date(interval: Interval) -> bool:
    """Whether no local date has more than one occurrence: not of minutes, hours, or a cron expression of several times."""
    return interval.type not in SUB_DAILY and _has_one_time(interval)


def next_after(interval: Interval, instant: datetime) -> datetime:
    """The first occurrence strictly later than an instant, in UTC.

    Raises:
        ValueError: if the interval still stands in each user's zone, or its cron expression never matches.
    """
    for occurrence in _ascending(interval, _zone_of(interval), instant):
        return occurrence
    raise ValueError(
        f"cron expression {interval.expression!r} never matches; "
        "let its day of month and its day of week meet on some date"
    )


def occurrences(interval: Interval, *, after: datetime, until: datetime) -> Iterator[datetime]:
    """Each occurrence later than `after` and not later than `until`, ascending, in UTC.

    Raises:
        ValueError: at once, if the interval still stands in each user's zone.
    """
    return takewhile(lambda instant: instant <= until, _ascending(interval, _zone_of(interval), after))


def latest_between(interval: Interval, *, after: datetime, until: datetime) -> datetime | None:
    """The last of the `occurrences` in the same bounds, found from the end; None if there are none.

    Raises:
        ValueError: if the interval still stands in each user's zone.
    """
    zone = _zone_of(interval)
    if interval.type in SUB_DAILY:
        origin, step = _elapsed_grid(interval, zone)
        latest = origin + (until - origin) // step * step
    else:
        latest = _latest_by_wall_time(interval, zone, after, until)
    return latest if latest > after else None


def _zone_of(interval: Interval) -> ZoneInfo:
    if interval.uses_user_zone:
        raise ValueError(
            f"interval {interval.canonical!r} has no instants of its own, because each user's time zone decides; "
            'resolve it first with interval.in_zone("Europe/Berlin")'
        )
    return _zone(interval.timezone)


@cache
def _zone(name: str) -> ZoneInfo:
    # ZoneInfo itself has but eight at hand, and reads any other from its file again.
    return ZoneInfo(name)


def _ascending(interval: Interval, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    if interval.type in SUB_DAILY:
        origin, step = _elapsed_grid(interval, zone)
        occurrence = origin + ((after - origin) // step + 1) * step
        while True:
            yield occurrence
            occurrence += step
    latest = after
    for occurrence in _ascending_by_wall_time(interval, zone, after):
        # A date that does not exist is shifted onto the next one, which fires at that same instant.
        if occurrence > latest:
            yield occurrence
            latest = occurrence


def _elapsed_grid(interval: Interval, zone: ZoneInfo) -> tuple[datetime, timedelta]:
    """An instant on the grid of a minutely or hourly interval, and the time between two of them."""
    unit = timedelta(minutes=1) if interval.type is IntervalType.MINUTELY else timedelta(hours=1)
    if interval.anchor is None:
        return EPOCH, interval.value * unit
    return datetime.combine(interval.anchor, time(), zone).astimezone(UTC), interval.value * unit


def _ascending_by_wall_time(interval: Interval, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The occurrences by wall time, in order; it begins before `after`, and an instant may come twice."""
    once = _has_one_time(interval)
    local = after.astimezone(zone)
    # Walls before the local time can still lie ahead: those being shifted out of a gap, and, in the first
    # pass of a fold, those that come again. Outside a fold the repetition is nothing.
    repetition = local.replace(fold=1).astimezone(UTC) - after
    start = local.replace(tzinfo=None) - (_LONGEST_GAP if once else repetition)
    second_passes: deque[datetime] = deque()
    for wall in _walls(interval, start):
        passes = _passes(wall, zone, once=once)
        while second_passes and passes and second_passes[0] < passes[0]:
            yield second_passes.popleft()
        yield from passes[:1]
        second_passes.extend(passes[1:])


def _latest_by_wall_time(interval: Interval, zone: ZoneInfo, after: datetime, until: datetime) -> datetime:
    """The last occurrence not later than `until`, or `after` if there is none between."""
    once = _has_one_time(interval)
    local = until.astimezone(zone)
    # In the second pass of a fold, walls later than the local time have been before.
    repetition = until - local.replace(fold=0).astimezone(UTC)
    latest = after
    for wall in _walls(interval, local.replace(tzinfo=None) + repetition, backwards=True):
        passes = _passes(wall, zone, once=once)
        if passes and passes[-1] <= latest:
            break
        latest = max([latest, *(instant for instant in passes if instant <= until)])
    return latest


def _has_one_time(interval: Interval) -> bool:
    if interval.expression is None:
        return True
    minute, hour = interval.expression.split()[:2]
    return minute.isdecimal() and hour.isdecimal()


def _walls(interval: Interval, start: datetime, *, backwards: bool = False) -> Iterator[datetime]:
    """The wall times of an interval from `start` on, in order; the first may lie a step before it.

    They end only where a cron expression has no match within fifty years.
    """
    if interval.expression is not None:
        # Naive times keep cronsim's own rules for changing clocks out of it. It leaves out the moment
        # it is given, so that lies a second away.
        edge = start + _SECOND if backwards else start - _SECOND
        yield from CronSim(interval.expression, edge, reverse=backwards)
        return
    at = time(interval.wall_time.hour, interval.wall_time.minute)
    default = _FIRST_MONDAY if interval.type is IntervalType.WEEKLY else _FIRST_DAY
    origin = _unit_of(interval, interval.anchor or default)
    steps = (_unit_of(interval, start.date()) - origin) // interval.value
    for step in count(steps, -1 if backwards else 1):
        yield datetime.combine(_date_in(interval, origin + step * interval.value), at)


def _unit_of(interval: Interval, day: date) -> int:
    """The number of the day, week or month in which a date lies, counted from the year 1."""
    if interval.type is IntervalType.MONTHLY:
        return day.year * 12 + day.month - 1
    # Day 1 of the calendar, 0001-01-01, is a Monday.
    return (day.toordinal() - 1) // 7 if interval.type is IntervalType.WEEKLY else day.toordinal()


def _date_in(interval: Interval, unit: int) -> date:
    """The date on which an interval falls in the day, week or month of that number."""
    if interval.type is IntervalType.MONTHLY:
        year, month = unit // 12, unit % 12 + 1
        last = monthrange(year, month)[1]
        return date(year, month, last if interval.day == "last" else min(interval.day or 1, last))
    if interval.type is IntervalType.WEEKLY:
        return date.fromordinal(unit * 7 + 1 + WEEKDAYS.index(interval.weekday or WEEKDAYS[0]))
    return date.fromordinal(unit)


def _passes(wall: datetime, zone: ZoneInfo, *, once: bool) -> tuple[datetime, ...]:
    """The instants at which an interval fires for a wall time: one, or if it counts elapsed time 0 to 2."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if once:
        return (first,)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return (first,)
    # In a gap, fold=0 means the offset before it, and so the later instant.
    return (first, second) if first < second else ()
