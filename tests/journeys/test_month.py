"""A month in which anything may happen: everybody is called exactly when, and ends exactly as, the design says.

From 29 September to 2 November 2026, because no zone changes its clocks twice within a month, but these weeks
have it all: Sydney and Lord Howe spring forward (by an hour, and by half of one) on 4 October, Berlin falls
back on the 25th and New York on 1 November; two months end, one of them without a 31st.

Users come, go, travel, take intervals of their own and are deleted; tasks are edited, taken out, paused and
resumed, runs cancelled; calls fail in every way; now and then nothing runs for a while, though operators and
users do not stop. All that by chance, from a seed. What should come of it is reckoned by `model.py`, which is
told the same history; every call, every user's every ending and every run's counts must be the same.

Where several readings would do, the history leaves no choice: jitter is a constant, no wait that an endpoint
asks for is as long as what is left of a deadline, and no edit has an interval change between a fixed zone and
users' own. One month belongs to the other tests; `MONTHS=20 pytest tests/journeys/test_month.py` lives through
as many, each from its own seed.
"""

import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.model import Answer, Call, Ending, Model, Reply, Who
from tests.ledgers import counted, summed
from tq.clock import from_ms, to_ms
from tq.models import (
    ErrorDetail,
    ExecutionResult,
    Interval,
    Job,
    JobResult,
    JobStatus,
    Missed,
    Outcome,
    Overlap,
    RunStatus,
    TaskId,
    TaskType,
    UserId,
    Window,
)
from tq.testing import FakeExecutor, Journey, make_task, utc

MONTHS = int(os.environ.get("MONTHS", "1"))
START, END = utc("2026-09-29T00:00"), utc("2026-11-02T06:00")
MINUTE = timedelta(minutes=1)
JITTER = 0.5
ZONES = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Australia/Sydney"),
    *("Asia/Kolkata", "UTC", "Pacific/Auckland"),
)
USERS = tuple(f"user-{number}" for number in range(10))
# These stay as they are, so that somebody is there on the nights on which clocks change.
STEADY = {f"steady-{number}": zone for number, zone in enumerate(ZONES[:4])}


def _task(task_id: str, interval: Interval, **policies: Any) -> TaskType:
    return make_task(task_id, interval=interval, **{"retry_after_max": "3605s", **policies})


TASKS = (
    _task(
        "minutes",
        Interval.minutely(90),
        window=0,
        missed="skip",
        overlap="allow",
        max_lateness="4h",
        retries=2,
    ),
    _task(
        "hours",
        Interval.hourly(2),
        window="5%",
        retries=6,
        retry_delay="10m",
        max_lateness="5h",
        retry_after_max="3h5s",
    ),
    _task("night", Interval.daily(at="02:30", timezone="user"), window="12m"),
    _task(
        "elapsed",
        Interval.cron("15,45 1-2 * * *", timezone="user"),
        window=0,
        missed="all",
        catchup_window="6h",
        overlap="skip",
        max_lateness="3h",
    ),
    _task("weeks", Interval.weekly("sun", at="02:10", timezone="user"), window="0.5%", missed="all"),
    _task("month_end", Interval.monthly(31, at="23:30", timezone="user"), window="30m"),
    _task(
        "fridays",
        Interval.cron("0 3 13 * 5", timezone="America/New_York"),
        window="10m",
        catchup_window="12h",
    ),
    _task(
        "noon",
        Interval.daily(at="12:00", timezone="Asia/Kolkata"),
        window="15m",
        overlap="skip",
        max_lateness="30h",
        retry_after_max="20h",
    ),
)
# Only few follow what comes often: it costs most of the time.
OFTEN = {"minutes": USERS[:2], "hours": USERS[1:5], "elapsed": USERS[3:6]}
# Those that fall into the hours in which clocks change are not edited to others.
INTERVALS: dict[str, tuple[Interval, ...]] = {
    "minutes": (Interval.minutely(120), Interval.hourly(5)),
    "hours": (Interval.hourly(3), Interval.minutely(150)),
    "weeks": (Interval.weekly("sun", every=2, at="09:00", timezone="user"),),
    "month_end": (Interval.monthly("last", at="00:00", timezone="user"),),
    "fridays": (Interval.cron("30 2 * * 0,3", timezone="Europe/Berlin"),),
    "noon": (Interval.daily(at="18:00", timezone="Asia/Kolkata"),),
}
OWN = (
    None,
    Interval.hourly(7),
    Interval.daily(at="05:00", timezone="user"),
    Interval.cron("20 5,11,17 * * *", timezone="user"),
    Interval.monthly(30, at="02:00", timezone="Europe/Berlin"),
)
WAITS = (timedelta(seconds=95), timedelta(minutes=41, seconds=5), timedelta(hours=11, seconds=5))
# What is said of a run, a job or a call, by its nominal time and name.
Facts = dict[tuple[datetime, str], object]


class EvenJitter(random.Random):
    """Always the same, so that it is known when what failed is tried again."""

    def random(self) -> float:
        return JITTER


class Endpoint:
    """Answers each attempt as a hash of it says, and notes when it was made."""

    def __init__(self, seed: int) -> None:
        self.calls: list[Call] = []
        self.now: Callable[[], datetime] = lambda: START
        self._seed = seed

    def reply(self, task: str, user: str, nominal: datetime, attempt: int) -> Reply:
        text = f"{self._seed}|{task}|{user}|{nominal}|{attempt}"
        chance = random.Random(hashlib.sha1(text.encode(), usedforsecurity=False).digest())
        weights = (78, 12, 8, 1.5, 0 if user in STEADY else 0.5)
        [answer] = chance.choices(list(Answer), weights=weights)
        return Reply(answer, chance.choice(WAITS))

    def answer(self, job: Job) -> ExecutionResult:
        who = (job.task_id, job.user_id, job.scheduled_at)
        self.calls.append((who, job.attempt, self.now(), job.execute_after))
        reply = self.reply(job.task_id, job.user_id, job.scheduled_at, job.attempt)
        error = ErrorDetail(code=f"HTTP_{reply.answer.value}")
        match reply.answer:
            case Answer.WELL:
                return ExecutionResult.success()
            case Answer.BROKEN:
                return ExecutionResult(outcome=Outcome.RETRY, error=error)
            case Answer.THROTTLED:
                return ExecutionResult(outcome=Outcome.THROTTLED, error=error, retry_after=reply.retry_after)
            case Answer.REFUSED:
                return ExecutionResult(outcome=Outcome.FAILED, error=error)
            case Answer.GONE:
                return ExecutionResult(outcome=Outcome.GONE, error=error)


class Both:
    """A journey and the model of it, which live through the same history."""

    def __init__(self, journey: Journey, model: Model, chance: random.Random) -> None:
        self.journey, self.model, self.chance = journey, model, chance
        self.ends: dict[Who, list[Ending]] = defaultdict(list)
        self._seen: set[str] = set()
        self._harvested_on = START.date()
        self._tasks = {task.id: task for task in TASKS}

    def live(self) -> None:
        """From the first instant to the last."""
        for user in USERS:
            zone = self.chance.choice(ZONES)
            for task in TASKS:
                if user in OFTEN.get(task.id, USERS) and self.chance.random() < 0.8:
                    self._both("enable", user, task.id, timezone=zone)
        for user, zone in STEADY.items():
            for task_id in ("night", "elapsed", "weeks", "month_end"):
                self._both("enable", user, task_id, timezone=zone)
        while self.journey.clock.now() < END:
            self._both("until", min(END, self._some_time_ahead()))
            self._harvest_daily()
            if self.chance.random() < 0.06:
                self._fall_asleep()
            else:
                self._do_something(*self._whom())

    def _fall_asleep(self) -> None:
        """Nothing runs, as in an outage; sometimes of a system that was paused before."""
        if self.chance.random() < 0.4:
            self._both("pause", "*", until=self._later(5, 240))
        for _ in range(self.chance.randint(1, 3)):
            self._both("sleep_until", self._later(5, 240))
            self._do_something(*self._whom())

    def _some_time_ahead(self) -> datetime:
        """As often as not in the middle of a run: there most can go wrong."""
        if self.chance.random() < 0.4:
            return self._later(10, 600)
        store = self.journey.runtime.store
        due = store.connection.call("ZRANGE", store.keys("due"), 0, 5, "WITHSCORES")
        ahead = [from_ms(score) for _, score in due] or [self.journey.clock.now()]
        begun = max(self.journey.clock.now(), self.chance.choice(ahead).replace(microsecond=0))
        return begun + timedelta(minutes=self.chance.randint(0, 12))

    def _later(self, least: int, most: int) -> datetime:
        """Some minutes from now; on a whole minute as often as not, and so at nominal times, too."""
        seconds = self.chance.randint(least, most) * 60 - self.journey.clock.now().second
        return self.journey.clock.now() + timedelta(
            seconds=seconds + self.chance.choice((0, 0, 0, 10, 20, 50))
        )

    def _whom(self) -> tuple[str, str]:
        """A task and a user; whoever waits for a retry, or for a turn in a run, is chosen before others."""
        store = self.journey.runtime.store
        running = sorted(store.mending.running())
        if not running or self.chance.random() < 0.3:
            task = self.chance.choice(TASKS).id
            return task, self.chance.choice(OFTEN.get(task, USERS))
        run = self.journey.run(self.chance.choice(running))
        waiting = sorted(set(store.runs.open_users(run.id)) - STEADY.keys())
        return run.task_id, self.chance.choice(waiting or OFTEN.get(run.task_id, USERS))

    def _do_something(self, task: str, user: str) -> None:
        """One change, or a few of one user's in short order."""
        while True:
            self._change(task, user)
            if self.chance.random() < 0.6:
                return
            if self.chance.random() < 0.5:
                self._both("until", self._later(1, 5))

    def _change(self, task: str, user: str) -> None:
        kinds: dict[str, float] = {
            "enable": 7,
            "disable": 4,
            "move": 6,
            "interval": 5,
            "edit": 2,
            "forget": 1,
        }
        kinds |= {
            "pause": 2,
            "pause all": 1,
            "resume": 4,
            "pause user": 3,
            "resume user": 3,
            "cancel": 2,
            "take out": 0.5,
        }
        match self.chance.choices(list(kinds), weights=list(kinds.values()))[0]:
            case "enable":
                zone = {"timezone": self.chance.choice(ZONES)} if self.chance.random() < 0.3 else {}
                self._both("enable", user, task, **zone)
            case "disable":
                self._both("disable", user, task)
            case "move":
                self._both("relocate", user, self._where_to())
            case "interval":
                self._both("enable", user, task, interval=self.chance.choice(OWN))
            case "edit":
                self._tasks[TaskId(task)] = self._edited(task)
                self._both("edit", list(self._tasks.values()))
            case "take out" if task in INTERVALS:
                if self._tasks.pop(TaskId(task), None) is None:
                    self._tasks[TaskId(task)] = self._edited(task)
                self._both("edit", list(self._tasks.values()))
            case "forget":
                self.harvest()
                self._both("forget", user)
            case "pause":
                self._both("pause", task, until=self._later(20, 1200) if self.chance.random() < 0.7 else None)
            case "pause all":
                self._both("pause", "*", until=self._later(20, 300))
            case "resume":
                for scope in sorted(self.journey.runtime.store.orders.pauses()):
                    self._both("resume", scope)
            case "pause user" if self.model.has(user, task):
                only = self.chance.choice((task, None))
                self._both("pause_user", user, only, until=self.chance.choice((None, self._later(5, 900))))
            case "resume user" if self.model.has(user, task):
                for only in (task, None):
                    self._both("resume_user", user, only)
            case "cancel":
                running = sorted(self.journey.runtime.store.mending.running())
                if running:
                    run = self.journey.run(self.chance.choice(running))
                    print(f"{self.journey.clock.now()} cancel {run.id}")
                    self.journey.cancel(run.id)
                    self.model.cancel(run.task_id, run.nominal_at)

    def _where_to(self) -> str:
        """A zone; as often as not one in which a run is under way."""
        running = [
            self.journey.run(run_id) for run_id in sorted(self.journey.runtime.store.mending.running())
        ]
        zones = sorted({share.cohort.partition("|")[0] for run in running for share in run.shares} & {*ZONES})
        return self.chance.choice(zones if zones and self.chance.random() < 0.5 else ZONES)

    def _edited(self, task_id: str) -> TaskType:
        original = next(task for task in TASKS if task.id == task_id)
        return original.model_copy(
            update={
                "interval": self.chance.choice(
                    (original.interval, original.interval, *INTERVALS.get(task_id, ()))
                ),
                "window": self.chance.choice((original.window, Window.parse(0), Window.parse("7m"))),
                "missed": self.chance.choice(list(Missed)),
                "overlap": self.chance.choice(list(Overlap)),
                "max_lateness": self.chance.choice((original.max_lateness, timedelta(minutes=50))),
            }
        )

    def _both(self, action: str, *arguments: Any, **options: Any) -> None:
        # To be read where it comes out otherwise than it should.
        print(f"{self.journey.clock.now()} {action} {arguments} {options}")
        for system in (self.journey, self.model):
            getattr(system, action)(*arguments, **options)

    def _harvest_daily(self) -> None:
        if self.journey.clock.now().date() > self._harvested_on:
            self.harvest()

    def harvest(self) -> None:
        """Takes in all results that there are, before they are too many to be kept, or deleted."""
        self._harvested_on = self.journey.clock.now().date()
        store = self.journey.runtime.store
        for task in TASKS:
            for user in (*USERS, *STEADY):
                for result in reversed(store.results.of(task.id, UserId(user))):
                    key = f"{result.job_id}|{to_ms(result.ended_at)}|{result.status}"
                    if key not in self._seen:
                        self._seen.add(key)
                        self.ends[task.id, user, result.scheduled_at].append(_ending_of(result))


def _ending_of(result: JobResult) -> Ending:
    reason = f":{result.reason}" if result.status is JobStatus.SKIPPED else ""
    return f"{result.status}{reason}", result.attempts


def _calls(made: Iterable[Call]) -> Facts:
    facts: dict[tuple[datetime, str], list[tuple[datetime, datetime]]] = defaultdict(list)
    for (task, user, nominal), attempt, at, slot in made:
        facts[nominal, f"call {attempt} of {task} to {user}"].append((at, slot))
    return {**facts}


def _ends(ends: Mapping[Who, list[Ending]]) -> Facts:
    return {(nominal, f"end of {task} for {user}"): found for (task, user, nominal), found in ends.items()}


def _runs_of(journey: Journey) -> Facts:
    store, facts = journey.runtime.store, Facts()
    for run in journey.runs():
        counts = {f"skipped:{reason}": number for reason, number in run.counts.skipped_by_reason.items()}
        counts |= {how: getattr(run.counts, how) for how in ("success", "failed", "expired", "cancelled")}
        still_open = sorted(map(str, store.runs.open_users(run.id)))
        assert run.counts.unaccounted == 0
        assert run.counts.expected == sum(counts.values()) + len(still_open)
        is_over = run.status is not RunStatus.RUNNING
        facts[run.nominal_at, f"run of {run.task_id}"] = (+Counter(counts), still_open, is_over)
    return facts


def _runs_in(model: Model) -> Facts:
    return {
        (nominal, f"run of {task}"): (run.outcomes, sorted(run.jobs), run.over or not run.shares)
        for (task, nominal), run in model.runs.items()
    }


def differences(endpoint: Endpoint, both: Both) -> list[str]:
    """What is otherwise than it should be, that of the earliest nominal time first."""
    model = both.model
    is_ = _calls(endpoint.calls) | _ends(both.ends) | _runs_of(both.journey)
    should_be = _calls(model.calls) | _ends(model.ends) | _runs_in(model)
    return [
        f"{key[0]:%d %b %H:%M}, {key[1]}: is {is_.get(key)}, should be {should_be.get(key)}"
        for key in sorted(is_.keys() | should_be.keys())
        if is_.get(key) != should_be.get(key)
    ]


@pytest.mark.parametrize("seed", range(1, MONTHS + 1))
def test_a_month_goes_exactly_as_the_policies_say(begin: Begin, seed: int) -> None:
    endpoint = Endpoint(seed)
    journey = begin(
        *TASKS,
        at=f"{START:%Y-%m-%dT%H:%M}",
        executor=FakeExecutor(endpoint.answer),
        jitter=EvenJitter(),
        step=MINUTE,
        mends=True,
        settings={"result_history": 100},
    )
    endpoint.now = journey.clock.now
    model = Model(TASKS, at=START, until=END, replies=endpoint.reply, jitter=JITTER)
    both = Both(journey, model, random.Random(seed))

    both.live()

    both.harvest()
    assert differences(endpoint, both) == []
    assert counted(journey.runtime.store.totals.read([]).totals) == summed(journey.runs())
