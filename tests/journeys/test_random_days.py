"""Two days in which anything may happen: whatever it is, everybody is accounted for and nobody is called twice.

The clocks go back in Berlin and forward on Lord Howe; users come, go, move and are paused; tasks are
edited; calls fail; now and then everything is down for a while.
"""

import random
from collections import defaultdict
from contextlib import suppress
from datetime import datetime, timedelta

import pytest

from tests.journeys.conftest import Begin
from tq.errors import UserNotFound
from tq.models import ErrorDetail, ExecutionResult, Interval, Job, Outcome, RunStatus, UserId, Window
from tq.schedule import occurrences
from tq.testing import FakeExecutor, Journey, make_task, utc

START, END = utc("2026-10-24T00:00"), utc("2026-10-26T06:00")
SETTLED = END + timedelta(hours=3)
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "Australia/Lord_Howe")
NIGHT = make_task("night", interval=Interval.daily(at="02:30", timezone="user"), window="20m")
HOUR = make_task("hour", interval=Interval.hourly(), window="10m", retries=2)
WINDOWS = (0, "10m", "50%")
INTERVALS = (None, Interval.hourly(), Interval.daily(at="05:00", timezone="user"))
THROTTLED = ExecutionResult(
    outcome=Outcome.THROTTLED,
    error=ErrorDetail(code="HTTP_429", retry=True),
    http_status=429,
    retry_after=timedelta(seconds=20),
)
# How long before an occurrence an outage may begin to touch it: a slot is at most half an hour later.
LONGEST_WINDOW = timedelta(minutes=31)

Outage = tuple[datetime, datetime]


def failing_now_and_then(chance: random.Random) -> FakeExecutor:
    def answer(_job: Job) -> ExecutionResult:
        outcomes = [
            ExecutionResult.success(),
            ExecutionResult.retry("HTTP_500"),
            THROTTLED,
            ExecutionResult.failed("HTTP_422"),
        ]
        return chance.choices(outcomes, weights=(88, 8, 2, 2))[0]

    return FakeExecutor(answer)


def something_happens(journey: Journey, chance: random.Random) -> Outage | None:
    """One change, or an outage, which is returned."""
    user, task = f"restless-{chance.randrange(10)}", chance.choice(("night", "hour"))
    match chance.choices(
        ("enable", "disable", "move", "interval", "pause", "resume", "edit", "forget", "outage"),
        weights=(6, 4, 3, 3, 3, 3, 1, 1, 1),
    )[0]:
        case "enable":
            journey.enable(user, task, timezone=chance.choice(ZONES))
        case "disable":
            journey.disable(user, task)
        case "move":
            journey.relocate(user, chance.choice(ZONES))
        case "interval":
            journey.enable(user, task, interval=chance.choice(INTERVALS))
        case "pause":
            until = chance.choice((None, journey.clock.now() + timedelta(minutes=chance.randint(5, 200))))
            with suppress(UserNotFound):
                journey.runtime.store.user_pauses.pause(UserId(user), until=until)
        case "resume":
            journey.runtime.store.user_pauses.resume(UserId(user))
        case "edit":
            journey.edit([NIGHT, HOUR.model_copy(update={"window": Window.parse(chance.choice(WINDOWS))})])
        case "forget":
            journey.runtime.store.preferences.forget(UserId(user))
        case "outage":
            begin = journey.clock.now()
            journey.sleep_until(begin + timedelta(minutes=chance.randint(5, 200)))
            journey.tick()
            return begin, journey.clock.now()
    return None


def live_through(journey: Journey, chance: random.Random) -> list[Outage]:
    outages = []
    while journey.clock.now() < END:
        journey.until(min(END, journey.clock.now() + timedelta(minutes=chance.randint(5, 120))))
        outage = something_happens(journey, chance)
        if outage is not None:
            outages.append(outage)
    journey.until(SETTLED)
    return outages


@pytest.mark.parametrize("seed", [1, 2])
def test_everybody_is_accounted_for_and_nobody_is_called_twice(begin: Begin, seed: int) -> None:
    chance = random.Random(seed)
    journey = begin(NIGHT, HOUR, at="2026-10-24T00:00", executor=failing_now_and_then(chance), seed=seed)
    steady = {f"steady-{number}": ZONES[number % len(ZONES)] for number in range(10)}
    for user, zone in steady.items():
        journey.enable(user, "night", timezone=zone)
        journey.enable(user, "hour")

    outages = live_through(journey, chance)

    for run in journey.runs():
        assert run.counts.unaccounted == 0
        if run.status is not RunStatus.RUNNING:
            assert run.counts.expected == run.counts.ended
    attempts = defaultdict(list)
    for job in journey.executor.jobs:
        attempts[job.id].append(job.attempt)
    assert all(made == list(range(1, len(made) + 1)) for made in attempts.values())
    served = {(job.task_id, job.user_id, job.scheduled_at) for job in journey.executor.jobs}
    for user, zone in steady.items():
        for task, interval in (("night", NIGHT.interval.in_zone(zone)), ("hour", HOUR.interval)):
            for nominal_at in occurrences(interval, after=START, until=END):
                if not any(down - LONGEST_WINDOW < nominal_at < up for down, up in outages):
                    assert (task, user, nominal_at) in served
