"""What becomes of everybody, reckoned as naively as it can be: the design's sections 4.1 to 4.3, read aloud.

All is kept in plain lists, and everybody is looked at, one by one, at every minute at which anything may
happen. Nothing is imported from where the system decides the same (`tq.schedule`, `tq.slots`, `tq.outcomes`,
`tq.pipeline`, the scripts), so that both can only agree by being right, or by the same reading of the design.

Where the design leaves a choice, this is what is expected:

- A user's slot decides. Whoever has a task enabled when their slot in a claimed run comes has a part in it,
  also who came after the run's nominal time; whose slot is past when they come is not served any more.
- Another interval, or another zone where it counts, holds for nominal times after the change. Who changes it
  keeps the place in runs that are claimed; who was switched off meanwhile has none any more.
- "The last run" of a user is the one with the latest nominal time in which that user had a job. Its date counts
  for the first occurrence after a change of zone, not for those after that; and not where a date may have several.
- Who is paused when their slot comes had a job that was skipped; that has the date's turn as any other.
- A share that is skipped as a whole counts who has the task enabled by that interval when it is claimed.
- What is over while it waits for its retry, or for the end of a pause, ends when it comes up or when somebody
  looks for such jobs: here every ten minutes.
- A run was cut if its deadline came, or was brought forward by the next run, before everybody in it had a first
  call: whose slot had not come, and whose job waited for the end of a pause, was not reached. The next run of the
  same users that is carried out begins its order with the first of these. One that was cancelled was not cut: the
  next begins where it had begun.
- A deleted user who comes back is a new one.
"""

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from functools import cache
from zoneinfo import ZoneInfo

from tq.models import Interval, Missed, Overlap, TaskType
from tq.models.interval import IntervalType

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)
SLOT = timedelta(seconds=10)
MEND = timedelta(minutes=10)
PLACES = 2**31
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOR_EVER = datetime.max.replace(tzinfo=UTC)
EVERYTHING = "*"
PUNCTUAL = MINUTE  # a run that is claimed later is spread anew
ON_TIME = 2 * MINUTE  # what is older was missed
LONGEST_BACKOFF = timedelta(minutes=10)
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Answer(Enum):
    """What the endpoint says to one attempt."""

    WELL = "200"
    BROKEN = "500"
    THROTTLED = "429"
    REFUSED = "422"
    GONE = "410"


@dataclass(frozen=True)
class Reply:
    """An answer, and with 429 how long to wait."""

    answer: Answer
    retry_after: timedelta = timedelta(0)


Replies = Callable[[str, str, datetime, int], Reply]  # to task, user, nominal time, attempt
Ending = tuple[str, int]  # how, and after how many calls
Who = tuple[str, str, datetime]  # task, user, nominal time
Call = tuple[Who, int, datetime, datetime]  # which attempt, when, and when the user's slot began
Cohort = tuple[str, Interval | None]  # zone or `*`, own interval


# When a task falls due -----------------------------------------------------------------------


@cache
def instants_of(wall: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """The instants at which clocks in a zone show a wall time: one, in a fold two, in a gap none."""
    offsets = {
        (wall.replace(tzinfo=UTC) + hours * HOUR).astimezone(zone).utcoffset() for hours in range(-26, 27)
    }
    shown = {wall.replace(tzinfo=UTC) - offset for offset in offsets if offset is not None}
    return tuple(sorted(at for at in shown if at.astimezone(zone).replace(tzinfo=None) == wall))


def once_on(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The first instant of a wall time on a date; in a gap it comes later by the length of the gap."""
    wall = datetime.combine(day, at)
    found = instants_of(wall, zone)
    if found:
        return found[0]
    before = next(m for m in range(1, 1440) if instants_of(wall - m * MINUTE, zone))
    after = next(m for m in range(1, 1440) if instants_of(wall + m * MINUTE, zone))
    [shifted] = instants_of(wall + (before + after - 1) * MINUTE, zone)
    return shifted


def matches(field_text: str, value: int) -> bool:
    """Whether a value is in a field of a cron expression."""
    for part in field_text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*" and value % int(step or 1) == 0:
            return True
        if span != "*" and int(first) <= value <= int(last or first):
            return True
    return False


def cron_day(expression: str, day: date) -> bool:
    """Whether a cron expression matches a date: by the day of the month OR of the week, if both are given."""
    _, _, of_month, month, of_week = expression.split()
    by_month, by_week = matches(of_month, day.day), matches(of_week, day.isoweekday() % 7)
    either = of_month != "*" and of_week != "*"
    return matches(month, day.month) and ((by_month or by_week) if either else (by_month and by_week))


def falls_on(interval: Interval, day: date) -> bool:
    """Whether a daily, weekly or monthly interval falls on a date."""
    if interval.type is IntervalType.DAILY:
        return (day - date(1970, 1, 1)).days % interval.value == 0
    if interval.type is IntervalType.WEEKLY:
        weeks = (day - date(1970, 1, 5)).days // 7
        return weeks % interval.value == 0 and WEEKDAYS[day.weekday()] == (interval.weekday or "mon")
    months = (day.year - 1970) * 12 + day.month - 1
    last = (date(day.year + day.month // 12, day.month % 12 + 1, 1) - timedelta(days=1)).day
    wanted = last if interval.day == "last" else min(int(interval.day or 1), last)
    return months % interval.value == 0 and day.day == wanted


class Calendar:
    """Every occurrence of any interval between two instants, written down."""

    def __init__(self, first: datetime, last: datetime) -> None:
        self._first, self._last = first, last
        self._written: dict[Interval, list[datetime]] = {}

    def between(self, interval: Interval, after: datetime, until: datetime) -> list[datetime]:
        """The occurrences later than `after` and not later than `until`."""
        written = self._of(interval)
        return written[bisect_right(written, after) : bisect_right(written, until)]

    def next_after(self, interval: Interval, at: datetime) -> datetime:
        """The next occurrence."""
        written = self._of(interval)
        return written[bisect_right(written, at)]

    def _of(self, interval: Interval) -> list[datetime]:
        if interval not in self._written:
            self._written[interval] = sorted(set(self._write(interval)))
        return self._written[interval]

    def _write(self, interval: Interval) -> Iterator[datetime]:
        zone = ZoneInfo(interval.timezone)
        unit = {IntervalType.MINUTELY: MINUTE, IntervalType.HOURLY: HOUR}.get(interval.type)
        if unit is not None:
            yield from self._every(unit * interval.value)
            return
        days = ((self._first + n * DAY).date() for n in range((self._last - self._first).days))
        if interval.expression is None:
            at = interval.at_time
            wall = time(at.hour, at.minute) if at else time()
            yield from (once_on(day, wall, zone) for day in days if falls_on(interval, day))
            return
        minute, hour = interval.expression.split()[:2]
        if _once_a_date(interval):
            wall = time(int(hour), int(minute))
            yield from (once_on(day, wall, zone) for day in days if cron_day(interval.expression, day))
            return
        # Elapsed time, minute by minute: a wall time that is skipped never shows, one that comes twice does.
        for at_minute in self._every(MINUTE):
            local = at_minute.astimezone(zone)
            if (
                matches(minute, local.minute)
                and matches(hour, local.hour)
                and cron_day(interval.expression, local)
            ):
                yield at_minute

    def _every(self, length: timedelta) -> Iterator[datetime]:
        at = self._first - (self._first - EPOCH) % length
        while at < self._last:
            yield at
            at += length


# Who does what -------------------------------------------------------------------------------


@dataclass
class Enrolment:
    """A user's settings of one task."""

    enabled: bool = False
    interval: Interval | None = None
    moved_at: datetime | None = None


@dataclass
class User:
    """A user; `last` is the nominal time of the last job of each task."""

    zone: str = "UTC"
    rezoned_at: datetime | None = None
    tasks: dict[str, Enrolment] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)
    pauses: dict[str | None, datetime] = field(default_factory=dict)  # of a task, or of all, and until when

    def is_paused(self, task_id: str, at: datetime) -> bool:
        return any(at < self.pauses.get(of, at) for of in (task_id, None))


@dataclass
class Run:
    """A task for one nominal time."""

    task: TaskType
    nominal: datetime
    shares: list["Share"] = field(default_factory=list)
    jobs: dict[str, "Job"] = field(default_factory=dict)  # the open ones, by user
    outcomes: Counter[str] = field(default_factory=Counter)
    cancelled: bool = False
    over: bool = False


@dataclass(eq=False)
class Share:
    """A cohort's part of a run: everybody whose slot is not later than `reached` has had their turn.

    Its order goes round from the place `first` on; `unreached` is how far along it those begin who had no call.
    """

    run: Run
    cohort: Cohort
    start: datetime
    spread: timedelta
    deadline: datetime
    first: int = 0
    reached: datetime | None = None
    unreached: int | None = None
    done: bool = False
    keep_their_place: set[str] = field(default_factory=set)

    def has_ended(self) -> bool:
        return self.done and not any(job.share is self for job in self.run.jobs.values())

    def position_of(self, user_id: str) -> int:
        digest = hashlib.sha1(f"{self.run.task.id}|{user_id}".encode(), usedforsecurity=False).hexdigest()
        return ((int(digest[:8], 16) >> 1) - self.first) % PLACES

    def slot_of(self, user_id: str) -> datetime:
        offset = self.position_of(user_id) * (self.spread // MILLISECOND) // PLACES * MILLISECOND
        return self.start + offset - offset % SLOT

    def passed(self) -> int:
        """How many positions along the window have had their turn."""
        if self.reached is None:
            return 0
        elapsed = self.reached - self.start
        end = (elapsed - elapsed % SLOT + SLOT) // MILLISECOND
        spread = self.spread // MILLISECOND
        return PLACES if end >= spread else -(-end * PLACES // spread)

    def note_unreached(self, position: int) -> None:
        if self.unreached is None or position < self.unreached:
            self.unreached = position

    def is_yet_to_come(self, user_id: str) -> bool:
        return not self.done and (self.reached is None or self.slot_of(user_id) > self.reached)


@dataclass(eq=False)
class Job:
    """An open job, whose next attempt is due at an instant."""

    share: Share
    user_id: str
    due: datetime
    attempt: int = 1
    spent: int = 0


class Model:
    """What should come of a history. It is told the same things as a journey, by the same names."""

    def __init__(
        self, tasks: Sequence[TaskType], *, at: datetime, until: datetime, replies: Replies, jitter: float
    ) -> None:
        self.now = at
        self.calls: list[Call] = []
        self.ends: dict[Who, list[Ending]] = defaultdict(list)
        self.runs: dict[tuple[str, datetime], Run] = {}
        self._calendar = Calendar(at - 3 * DAY, until + 70 * DAY)
        self._replies, self._jitter = replies, jitter
        self._users: dict[str, User] = {}
        self._declared: dict[str, TaskType] = {task.id: task for task in tasks}
        self._in_force = self._declared
        self._looked_at: dict[tuple[str, Cohort], datetime] = {}  # by whom there are members, since when
        self._last: dict[tuple[str, Cohort], Share] = {}
        self._pauses: dict[str, list[tuple[datetime, datetime | None]]] = defaultdict(list)
        self._active: list[Run] = []
        self._quiet_until = at

    # What operators and users do

    def enable(self, user_id: str, task_id: str, *, timezone: str = "", **settings: Interval | None) -> None:
        """Switches a task on; without `interval` the one that was set before is kept."""
        if timezone:
            self.relocate(user_id, timezone)
        user = self._users.setdefault(user_id, User())
        known = task_id in user.tasks
        enrolment = user.tasks.setdefault(task_id, Enrolment())
        interval = settings.get("interval", enrolment.interval)
        if known and interval != enrolment.interval:
            before = Enrolment(enrolment.enabled, enrolment.interval, enrolment.moved_at)
            enrolment.moved_at = self.now
            enrolment.interval = interval
            if before.enabled:
                self._keep_place(user_id, task_id, user, before, zone=user.zone)
        enrolment.interval, enrolment.enabled = interval, True
        self._note_cohorts()

    def disable(self, user_id: str, task_id: str) -> None:
        """Switches a task off: what is open of it ends."""
        self._switch_off(user_id, task_id, is_forgotten=False)

    def _switch_off(self, user_id: str, task_id: str, *, is_forgotten: bool) -> None:
        user = self._users.get(user_id)
        if user is None or task_id not in user.tasks or not user.tasks[task_id].enabled:
            return
        user.tasks[task_id].enabled = False
        for run in self._active:
            if run.task.id == task_id and user_id in run.jobs:
                job = run.jobs[user_id]
                self._end(job, "skipped:disabled", calls=None if is_forgotten else job.attempt - 1)
        self._note_cohorts()

    def relocate(self, user_id: str, timezone: str) -> None:
        """Moves house."""
        user = self._users.get(user_id)
        if user is None:
            self._users[user_id] = User(timezone)
            return
        if user.zone == timezone:
            return
        zone, before = user.zone, user.rezoned_at
        user.zone = timezone
        for task_id, enrolment in user.tasks.items():
            if enrolment.enabled:
                was = User(zone, before, user.tasks, user.last)
                self._keep_place(user_id, task_id, was, enrolment, zone=timezone)
        user.rezoned_at = self.now
        self._note_cohorts()

    def forget(self, user_id: str) -> None:
        """Deletes a user."""
        for task_id in list(self._users[user_id].tasks if user_id in self._users else ()):
            self._switch_off(user_id, task_id, is_forgotten=True)
        for run in self._active:
            for share in run.shares:
                share.keep_their_place.discard(user_id)
        self._users.pop(user_id, None)

    def edit(self, tasks: Sequence[TaskType]) -> None:
        """Declares other tasks; they come into force with the next tick, after what was due by then."""
        self._declared = {task.id: task for task in tasks}
        self._quiet_until = self.now

    def pause(self, scope: str, *, until: datetime | None = None) -> None:
        """Pauses a task, or everything."""
        pauses = self._pauses[scope]
        if pauses and self._lasts(pauses[-1], self.now):
            pauses[-1] = (pauses[-1][0], until)
        else:
            pauses.append((self.now, until))

    def resume(self, scope: str) -> None:
        """Ends a pause."""
        pauses = self._pauses[scope]
        if pauses and self._lasts(pauses[-1], self.now):
            pauses[-1] = (pauses[-1][0], self.now)

    def has(self, user_id: str, task_id: str) -> bool:
        """Whether a user has ever had a task."""
        return user_id in self._users and task_id in self._users[user_id].tasks

    def pause_user(self, user_id: str, task_id: str | None = None, *, until: datetime | None = None) -> None:
        """Pauses a user, or one task of a user: what is open of it ends."""
        self._users[user_id].pauses[task_id] = until or FOR_EVER
        for run in self._active:
            if user_id in run.jobs and task_id in (None, run.task.id):
                job = run.jobs[user_id]
                self._end(job, "skipped:paused", calls=job.attempt - 1)
        self._close()

    def resume_user(self, user_id: str, task_id: str | None = None) -> None:
        """Ends such a pause."""
        self._users[user_id].pauses.pop(task_id, None)

    def cancel(self, task_id: str, nominal: datetime) -> None:
        """Cancels a run, if there should be one."""
        if (task_id, nominal) in self.runs:
            self.runs[task_id, nominal].cancelled = True

    # Time

    def sleep_until(self, instant: datetime) -> None:
        """Time in which nothing runs."""
        self.now = instant

    def until(self, instant: datetime) -> None:
        """Time in which all goes its way: every whole minute is looked at, and the instant itself."""
        while self.now < instant:
            self.now = min(self.now - (self.now - EPOCH) % MINUTE + MINUTE, instant)
            is_minute = not (self.now - EPOCH) % MINUTE
            if is_minute and self.now >= self._quiet_until:
                self._claim()
                self._publish()
                self._quiet_until = min(
                    (
                        self._calendar.next_after(self._interval_of(task_id, cohort), self.now)
                        for task_id, cohort in self._looked_at
                    ),
                    default=instant,
                )
            self._work()
            if not (self.now - EPOCH) % MEND:
                self._end_what_is_over()

    # What falls due

    def _interval_of(self, task_id: str, cohort: Cohort) -> Interval:
        zone, own = cohort
        interval = own or self._in_force[task_id].interval
        return interval.model_copy(update={"timezone": zone}) if interval.timezone == "user" else interval

    def _members(self, task_id: str, cohort: Cohort) -> list[str]:
        return [
            user_id
            for user_id, user in self._users.items()
            if task_id in user.tasks
            and user.tasks[task_id].enabled
            and _is_in(cohort, user, user.tasks[task_id])
        ]

    def _note_cohorts(self) -> None:
        """Whoever is the first to follow an interval has its occurrences looked for from now on."""
        peopled = set()
        for user in self._users.values():
            for task_id, enrolment in user.tasks.items():
                if enrolment.enabled and task_id in self._in_force:
                    interval = enrolment.interval or self._in_force[task_id].interval
                    zone = user.zone if interval.timezone == "user" else EVERYTHING
                    peopled.add((task_id, (zone, enrolment.interval)))
        for gone in self._looked_at.keys() - peopled:
            del self._looked_at[gone]
        for new in peopled - self._looked_at.keys():
            self._looked_at[new] = self.now
        self._quiet_until = self.now

    def _publish(self) -> None:
        """An edit holds for occurrences after this instant; a task that is taken out is due no more."""
        if self._declared == self._in_force:
            return
        for task_id, cohort in list(self._looked_at):
            old, new = self._in_force[task_id], self._declared.get(task_id)
            if new is None or (cohort[1] is None and new.interval != old.interval):
                del self._looked_at[task_id, cohort]
        self._in_force = self._declared
        self._note_cohorts()

    def _claim(self) -> None:
        for task_id, task in self._in_force.items():
            planned: list[tuple[datetime, Cohort, str]] = []
            for (looked_task, cohort), since in self._looked_at.items():
                if looked_task == task_id:
                    planned += self._due(task, cohort, since)
                    self._looked_at[task_id, cohort] = self.now
            for nominal, cohort, skip in sorted(planned, key=lambda plan: plan[0]):
                self._claim_share(task, nominal, cohort, skip)

    def _due(self, task: TaskType, cohort: Cohort, since: datetime) -> Iterator[tuple[datetime, Cohort, str]]:
        """What fell due of a cohort since it was last looked at, and what was missed of it."""
        interval = self._interval_of(task.id, cohort)
        found = self._calendar.between(interval, since, self.now)
        for nominal in found:
            last = found[-1]
            catch_up = task.catchup_window or max(self._window(task, interval, last), HOUR)
            age = self.now - nominal
            served = {
                Missed.LATEST: nominal == last and age <= max(catch_up, ON_TIME),
                Missed.SKIP: age <= ON_TIME,
                Missed.ALL: age <= max(catch_up, ON_TIME),
            }[task.missed]
            yield nominal, cohort, "" if served else "missed"

    def _window(self, task: TaskType, interval: Interval, nominal: datetime) -> timedelta:
        length = self._calendar.next_after(interval, nominal) - nominal
        if task.window.share is not None:
            return int(length / MILLISECOND * task.window.share) * MILLISECOND
        return min(task.window.duration or timedelta(0), length)

    def _claim_share(self, task: TaskType, nominal: datetime, cohort: Cohort, skip: str) -> None:
        interval = self._interval_of(task.id, cohort)
        caught_up = task.missed is Missed.ALL and self.now - nominal > ON_TIME
        length = self._calendar.next_after(interval, nominal) - nominal
        lateness = task.max_lateness or (DAY if caught_up else min(length, DAY))
        start, spread = nominal, self._window(task, interval, nominal)
        if self.now - nominal > PUNCTUAL:
            start, spread = self.now, max(spread - (self.now - nominal), spread / 4)
        run = self.runs.setdefault((task.id, nominal), Run(task, nominal))
        if any(self._was_paused(scope, nominal) for scope in (task.id, EVERYTHING)):
            skip = "paused"
        elif not skip:
            last = self._last.get((task.id, cohort))
            if last is not None and not last.has_ended() and not caught_up:
                if task.overlap is Overlap.SKIP:
                    skip = "overlap"
                elif task.overlap is Overlap.REPLACE:
                    last.deadline = min(last.deadline, self.now)
        if skip:
            for user_id in self._members(task.id, cohort):
                self._note(run, user_id, f"skipped:{skip}", calls=None)
            return
        first = self._first_after(cohort, task, Overlap.ALLOW if caught_up else task.overlap)
        share = Share(run, cohort, start, spread, max(nominal, self.now) + lateness, first)
        run.shares.append(share)
        self._last[task.id, cohort] = share
        if run not in self._active:
            self._active.append(run)
            run.over = False

    def _first_after(self, cohort: Cohort, task: TaskType, overlap: Overlap) -> int:
        """Where the order of a cohort's next share begins."""
        last = self._last.get((task.id, cohort))
        if last is None:
            return 0
        if last.run.cancelled:
            return last.first
        if overlap is not Overlap.REPLACE and last.deadline > self.now + MINUTE:
            return 0
        left = [
            last.position_of(job.user_id)
            for job in last.run.jobs.values()
            if job.share is last and job.attempt == 1
        ]
        left += [] if last.unreached is None else [last.unreached]
        left += [] if last.done else [last.passed()]
        if not left:
            return 0
        last.note_unreached(min(left))
        return (last.first + min(left)) % PLACES

    # Who has a part in it

    def _has_part(self, user: User, enrolment: Enrolment, share: Share) -> bool:
        """Whether a user in a cohort has a part in its share of a run."""
        nominal, task = share.run.nominal, share.run.task
        if not _is_in(share.cohort, user, enrolment):
            return False
        if enrolment.moved_at is not None and nominal <= enrolment.moved_at:
            return False
        interval = share.cohort[1] or task.interval
        if interval.timezone != "user" or user.rezoned_at is None:
            return True
        if nominal <= user.rezoned_at:
            return False
        last = user.last.get(task.id)
        if last is None or last > user.rezoned_at or not _once_a_date(interval):
            return True
        zone = ZoneInfo(share.cohort[0])
        return last.astimezone(zone).date() != nominal.astimezone(zone).date()

    def _keep_place(self, user_id: str, task_id: str, user: User, before: Enrolment, *, zone: str) -> None:
        """What is claimed stays: who leaves a cohort keeps the place in its runs, if there was one to come."""
        after = User(zone, tasks=self._users[user_id].tasks)
        for run in self._active:
            for share in run.shares:
                if (
                    run.task.id == task_id
                    and share.is_yet_to_come(user_id)
                    and self._has_part(user, before, share)
                    and not _is_in(share.cohort, after, after.tasks[task_id])
                ):
                    share.keep_their_place.add(user_id)

    def _expected(self, share: Share) -> list[str]:
        """Who is still to have a turn in a share."""
        expected = []
        for user_id, user in self._users.items():
            enrolment = user.tasks.get(share.run.task.id)
            if enrolment is None or not enrolment.enabled or not share.is_yet_to_come(user_id):
                continue
            if user_id in share.keep_their_place or self._has_part(user, enrolment, share):
                expected.append(user_id)
        return expected

    # What is done about it

    def _work(self) -> None:
        """All that can be done now: first what is tried again, the longest overdue first."""
        again = [job for run in self._active for job in run.jobs.values() if job.due <= self.now]
        new = [job for run in self._active for share in run.shares for job in self._fan_out(share)]
        for job in [*sorted(again, key=lambda job: job.due), *new]:
            if job.share.run.jobs.get(job.user_id) is job:
                self._attempt(job)
        self._close()

    def _fan_out(self, share: Share) -> Iterator[Job]:
        run = share.run
        if share.done:
            return
        if run.cancelled or self.now > share.deadline:
            expected = self._expected(share)
            for user_id in expected:
                self._note(run, user_id, self._unmade(share), calls=None)
            if expected and not run.cancelled:
                # Where nobody is left before the order goes round, it is from there on.
                round_at = PLACES - share.first
                is_round = min(map(share.position_of, expected)) >= round_at
                share.note_unreached(max(share.passed(), round_at if is_round else 0))
            share.done = True
            return
        if self._is_paused(run.task.id):
            return
        come = [user_id for user_id in self._expected(share) if share.slot_of(user_id) <= self.now]
        share.reached = self.now
        # The last slot is the one in which the window ends.
        share.done = self.now - (self.now - share.start) % SLOT + SLOT >= share.start + share.spread
        for user_id in come:
            user = self._users[user_id]
            if user_id in run.jobs:
                continue
            user.last[run.task.id] = max(run.nominal, user.last.get(run.task.id, run.nominal))
            if user.is_paused(run.task.id, self.now):
                self._note(run, user_id, "skipped:paused", calls=0)
                continue
            run.jobs[user_id] = job = Job(share, user_id, self.now)
            yield job

    def _unmade(self, share: Share) -> str:
        if share.run.cancelled:
            return "cancelled"
        return "skipped:paused" if self._is_paused(share.run.task.id) else "expired"

    def _attempt(self, job: Job) -> None:
        share = job.share
        task, nominal = share.run.task, share.run.nominal
        if self._is_paused(task.id):
            return
        if share.run.cancelled or self.now > share.deadline:
            self._end_unmade(job)
            return
        slot = share.slot_of(job.user_id)
        self.calls.append(((task.id, job.user_id, nominal), job.attempt, self.now, slot))
        reply = self._replies(task.id, job.user_id, nominal, job.attempt)
        left = share.deadline - self.now
        spent, wait = job.spent, timedelta(0)
        match reply.answer:
            case Answer.WELL:
                self._end(job, "success", calls=job.attempt)
                return
            case Answer.REFUSED | Answer.GONE:
                self._end(job, "failed", calls=job.attempt)
                if reply.answer is Answer.GONE:
                    self.disable(job.user_id, task.id)
                return
            case Answer.BROKEN:
                spent += 1
                if spent > task.retries:
                    self._end(job, "failed", calls=job.attempt)
                    return
                wait = min(task.retry_delay * 2**job.spent, LONGEST_BACKOFF, left) * self._jitter
            case Answer.THROTTLED:
                asked = min(reply.retry_after, task.retry_after_max)
                wait = asked + max(asked / 10, SECOND) * self._jitter
                if asked > left:
                    left = timedelta(0)
        if left < SECOND:
            self._end(job, "expired", calls=job.attempt)
            return
        job.attempt, job.spent, job.due = job.attempt + 1, spent, self.now + min(wait, left)

    def _end_what_is_over(self) -> None:
        for run in self._active:
            for job in list(run.jobs.values()):
                if run.cancelled or self.now > job.share.deadline:
                    self._end_unmade(job)
        self._close()

    def _end_unmade(self, job: Job) -> None:
        share = job.share
        if job.attempt == 1 and not share.run.cancelled:
            share.note_unreached(share.position_of(job.user_id))
        self._end(job, self._unmade(share), calls=job.attempt - 1)

    def _end(self, job: Job, how: str, *, calls: int | None) -> None:
        del job.share.run.jobs[job.user_id]
        self._note(job.share.run, job.user_id, how, calls=calls)

    def _note(self, run: Run, user_id: str, how: str, *, calls: int | None) -> None:
        """Everybody's ending is counted with the run; it is the user's own if there was a job, and is a user."""
        run.outcomes[how] += 1
        if calls is not None:
            self.ends[run.task.id, user_id, run.nominal].append((how, calls))

    def _close(self) -> None:
        for run in self._active:
            run.over = not run.jobs and all(share.done for share in run.shares)
        self._active = [run for run in self._active if not run.over]

    # Pauses

    @staticmethod
    def _lasts(pause: tuple[datetime, datetime | None], at: datetime) -> bool:
        since, until = pause
        return since <= at and (until is None or at < until)

    def _was_paused(self, scope: str, at: datetime) -> bool:
        return any(self._lasts(pause, at) for pause in self._pauses[scope])

    def _is_paused(self, task_id: str) -> bool:
        return self._was_paused(task_id, self.now) or self._was_paused(EVERYTHING, self.now)


def _once_a_date(interval: Interval) -> bool:
    if interval.expression is None:
        return interval.type not in (IntervalType.MINUTELY, IntervalType.HOURLY)
    minute, hour = interval.expression.split()[:2]
    return minute.isdecimal() and hour.isdecimal()


def _is_in(cohort: Cohort, user: User, enrolment: Enrolment) -> bool:
    zone, own = cohort
    return enrolment.interval == own and zone in (EVERYTHING, user.zone)
