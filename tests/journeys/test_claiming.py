"""When runs are claimed: once, on time, after downtime, after edits."""

from datetime import timedelta
from zoneinfo import available_timezones

import pytest

from tests.journeys.conftest import Begin
from tq.models import ExecutionResult, Interval, Missed, Outcome, RunStatus, UserId
from tq.store.preferences import Enable
from tq.testing import FakeExecutor, make_task, utc
from tq.testing.journey import Journey


def nominal_times(journey: Journey, *, status: RunStatus = RunStatus.ENDED) -> list[str]:
    return [f"{run.nominal_at:%d %H:%M}" for run in journey.runs() if run.status is status]


def test_everybody_enabled_gets_one_job_per_occurrence(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T08:50")
    for user in ("ada", "bob", "cyd"):
        journey.enable(user, "email_digest")

    journey.until("2026-11-26T08:59")

    assert sorted(journey.executor.users) == ["ada", "ada", "bob", "bob", "cyd", "cyd"]
    assert nominal_times(journey) == ["24 09:00", "25 09:00"]
    assert all(run.counts.expected == run.counts.success == 3 for run in journey.runs())


def test_a_user_is_served_at_the_same_second_every_day(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T08:50")
    journey.enable("ada", "email_digest")

    journey.until("2026-11-26T10:00")

    assert len(journey.executor.jobs) == 3
    assert {job.execute_after - job.scheduled_at for job in journey.executor.jobs} == {
        timedelta(minutes=9, seconds=30)
    }
    started = [result.started_at for result in journey.results("ada", "email_digest")]
    assert started == [job.execute_after for job in reversed(journey.executor.jobs)]


def test_a_window_spreads_the_users_over_its_slots(begin: Begin) -> None:
    journey = begin(make_task(window="10m"), at="2026-11-24T08:59")
    for number in range(200):
        journey.enable(f"user-{number}", "email_digest")

    journey.until("2026-11-24T09:05")
    halfway = len(journey.executor.jobs)
    journey.until("2026-11-24T09:10")

    assert 70 < halfway < 130
    assert len(journey.executor.jobs) == 200
    [run] = journey.runs()
    assert run.status is RunStatus.ENDED


def test_without_a_window_everybody_is_served_at_once(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50")
    for number in range(50):
        journey.enable(f"user-{number}", "email_digest")

    journey.until("2026-11-24T09:00")

    assert len(journey.executor.jobs) == 50


def test_each_user_is_served_at_nine_in_their_own_zone(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T00:00")
    zones = {"ada": "Europe/Berlin", "bob": "America/New_York", "cyd": "Asia/Kolkata", "dan": "UTC"}
    for user, zone in zones.items():
        journey.enable(user, "email_digest", timezone=zone)

    journey.until("2026-11-25T00:00")

    served = {job.user_id: f"{job.scheduled_at:%H:%M}" for job in journey.executor.jobs}
    assert served == {"ada": "08:00", "bob": "14:00", "cyd": "03:30", "dan": "09:00"}
    assert len(journey.executor.jobs) == 4


def test_cohorts_that_fall_due_together_are_shares_of_one_run(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T07:00")
    journey.enable("ada", "email_digest", timezone="Europe/Berlin")
    journey.enable("bob", "email_digest", timezone="Europe/Paris")
    journey.enable("cyd", "email_digest", interval=Interval.hourly())

    journey.until("2026-11-24T08:00")

    [run] = journey.runs()
    assert len(journey.run(run.id).shares) == 3
    assert run.counts.success == 3


def test_a_tick_that_finds_nothing_due_costs_one_round_trip(begin: Begin) -> None:
    tasks = [
        make_task(f"task_{number}", interval=Interval.daily(at="09:00", timezone="user"))
        for number in range(300)
    ]
    journey = begin(*tasks, at="2026-11-24T10:00:30")
    zones = sorted(zone for zone in available_timezones() if zone.startswith("Europe/"))[:40]
    journey.runtime.store.preferences.apply(
        [
            Enable(UserId(f"user-{index}"), task.id, timezone=zone)
            for index, zone in enumerate(zones)
            for task in tasks
        ]
    )
    journey.clock.advance(timedelta(seconds=1))
    journey.claim_due()
    before = journey.runtime.store.connection.round_trips

    journey.claim_due()

    assert journey.runtime.store.connection.round_trips - before == 1


def test_after_downtime_only_the_latest_occurrence_is_made_up(begin: Begin) -> None:
    journey = begin(make_task(interval=Interval.hourly(), window=0), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T13:20")
    journey.tick()

    assert nominal_times(journey) == ["24 13:00"]
    assert nominal_times(journey, status=RunStatus.SKIPPED) == [
        f"24 {hour:02}:00" for hour in (9, 10, 11, 12)
    ]
    assert {run.reason for run in journey.runs() if run.status is RunStatus.SKIPPED} == {"missed"}
    assert len(journey.executor.jobs) == 1


@pytest.mark.parametrize("missed", Missed)
def test_what_falls_due_in_a_pause_is_skipped_and_not_made_up_for(begin: Begin, missed: Missed) -> None:
    task = make_task(interval=Interval.hourly(), window=0, missed=missed)
    journey = begin(task, make_task("other_task"), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")
    journey.enable("ada", "other_task")

    journey.until("2026-11-24T09:30")
    journey.runtime.store.orders.pause(task.id, reason="they move house", until=utc("2026-11-24T11:30"))
    journey.until("2026-11-24T13:00")

    digests = [run for run in journey.runs() if run.task_id == task.id]
    assert [(run.nominal_at.hour, run.status, run.reason) for run in digests] == [
        (9, RunStatus.ENDED, None),
        (10, RunStatus.SKIPPED, "paused"),
        (11, RunStatus.SKIPPED, "paused"),
        (12, RunStatus.ENDED, None),
        (13, RunStatus.ENDED, None),
    ]
    assert [run.counts.skipped_by_reason for run in digests[1:3]] == [{"paused": 1}] * 2
    assert [job.scheduled_at.hour for job in journey.executor.jobs if job.task_id == "other_task"] == [9]


@pytest.mark.parametrize("missed", Missed)
def test_a_pause_over_an_outage_is_not_made_up_for_by_whoever_resumes_before_the_first_tick(
    begin: Begin, missed: Missed
) -> None:
    journey = begin(make_task(interval=Interval.hourly(), window=0, missed=missed), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")

    journey.pause()
    journey.sleep_until("2026-11-24T11:10")
    journey.resume()
    journey.until("2026-11-24T11:50")

    skipped = [(run.nominal_at.hour, run.reason) for run in journey.runs()]
    assert skipped == [(9, "paused"), (10, "paused"), (11, "paused")]
    assert journey.executor.jobs == []


def test_skip_makes_up_for_nothing(begin: Begin) -> None:
    journey = begin(make_task(interval=Interval.hourly(), window=0, missed="skip"), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T11:20")
    journey.tick()
    journey.until("2026-11-24T12:01")

    assert nominal_times(journey) == ["24 12:00"]


def test_all_makes_up_for_everything_within_its_window(begin: Begin) -> None:
    task = make_task(interval=Interval.hourly(), window=0, missed="all", catchup_window="3h")
    journey = begin(task, at="2026-11-24T05:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T10:30")
    journey.tick()

    assert nominal_times(journey) == ["24 08:00", "24 09:00", "24 10:00"]
    assert nominal_times(journey, status=RunStatus.SKIPPED) == ["24 06:00", "24 07:00"]
    assert len(journey.executor.jobs) == 3


def test_what_is_older_than_the_catch_up_window_is_skipped(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T10:30")
    journey.tick()

    assert nominal_times(journey, status=RunStatus.SKIPPED) == ["24 09:00"]
    assert journey.executor.jobs == []


def test_a_late_run_is_spread_over_what_remains_of_its_window(begin: Begin) -> None:
    journey = begin(make_task(window="30m"), at="2026-11-24T08:59")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T09:10")
    journey.tick()

    [run] = journey.runs()
    [share] = journey.run(run.id).shares
    assert share.start_at == utc("2026-11-24T09:10")
    assert share.spread == timedelta(minutes=20)


def test_a_year_of_missed_minutes_is_a_number_and_not_half_a_million_runs(begin: Begin) -> None:
    journey = begin(make_task(interval=Interval.minutely(), window=0), at="2026-01-01T00:00")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-01-03T00:00")
    journey.tick()

    assert len(journey.runs()) == 101
    assert nominal_times(journey) == ["03 00:00"]


def test_a_task_that_is_edited_falls_due_by_its_new_interval_from_then_on(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")
    journey.until("2026-11-24T09:30")

    journey.edit([make_task(interval=Interval.daily(at="08:00"), window=0)])
    journey.until("2026-11-25T09:30")

    assert nominal_times(journey) == ["24 09:00", "25 08:00"]


def test_a_user_with_an_interval_of_their_own_is_served_by_it_alone(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest", interval=Interval.daily(at="18:00"))
    journey.enable("bob", "email_digest")

    journey.until("2026-11-25T00:00")

    assert [(job.user_id, job.scheduled_at.hour) for job in journey.executor.jobs] == [
        ("bob", 9),
        ("ada", 18),
    ]


def test_a_new_interval_holds_for_occurrences_after_the_change(begin: Begin) -> None:
    # The same run has a share of half an hour, in which ada is served, and one of half a day.
    journey = begin(make_task(window="50%"), at="2026-11-24T08:59", step=timedelta(minutes=1))
    journey.enable("ada", "email_digest", interval=Interval.hourly())
    journey.enable("bob", "email_digest")
    journey.until("2026-11-24T09:31")
    before = list(journey.executor.users)

    journey.enable("ada", "email_digest", interval=None)
    journey.until("2026-11-24T22:00")

    assert before.count(UserId("ada")) == 1
    assert sorted(journey.executor.users) == ["ada", "bob"]


def test_a_traveller_is_served_once_per_local_date(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T07:00")
    journey.enable("ada", "email_digest", timezone="Europe/Berlin")
    journey.until("2026-11-24T10:00")

    journey.relocate("ada", "America/New_York")
    journey.until("2026-11-25T20:00")

    served = [f"{job.scheduled_at:%d %H:%M}" for job in journey.executor.jobs]
    assert served == ["24 08:00", "25 14:00"]


def test_a_traveller_who_has_not_been_served_today_is_served_there(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T07:00")
    journey.enable("ada", "email_digest", timezone="Europe/Berlin")

    journey.relocate("ada", "America/New_York")
    journey.until("2026-11-24T20:00")

    assert [f"{job.scheduled_at:%d %H:%M}" for job in journey.executor.jobs] == ["24 14:00"]


def test_a_traveller_is_served_as_often_a_day_as_the_task_says(begin: Begin) -> None:
    task = make_task(interval=Interval.cron("0 9,12,15 * * *", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T00:00")
    journey.enable("ada", "email_digest", timezone="Europe/Berlin")

    journey.until("2026-11-24T08:30")
    journey.relocate("ada", "Europe/London")
    journey.until("2026-11-26T00:00")

    served = [f"{job.scheduled_at:%d %H:%M}" for job in journey.executor.jobs]
    assert served == ["24 08:00", *(f"{day} {hour}:00" for day in (24, 25) for hour in ("09", 12, 15))]


def test_a_traveller_takes_an_interval_of_their_own_and_is_served_by_it_that_day(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T07:00")
    journey.enable("ada", "email_digest", timezone="UTC")
    journey.relocate("ada", "Europe/Berlin")
    journey.until("2026-11-24T08:30")

    journey.enable("ada", "email_digest", interval=Interval.daily(at="18:00", timezone="user"))
    journey.until("2026-11-25T00:00")

    assert [job.scheduled_at.hour for job in journey.executor.jobs] == [8, 17]


def test_a_traveller_is_served_once_that_date_though_an_older_job_ended_after_its_own(begin: Begin) -> None:
    throttled = ExecutionResult(outcome=Outcome.THROTTLED, retry_after=timedelta(hours=10))
    executor = FakeExecutor(
        lambda job: throttled if job.scheduled_at.day == 24 else ExecutionResult.success()
    )
    interval = Interval.daily(at="09:00", timezone="user")
    task = make_task(interval=interval, window=0, max_lateness="2d", retry_after_max="20h")
    journey = begin(task, at="2026-11-24T07:00", executor=executor, mends=True)
    journey.enable("ada", "email_digest", timezone="Europe/Berlin")

    journey.until("2026-11-25T08:30")
    journey.relocate("ada", "America/New_York")
    journey.until("2026-11-25T20:00")

    ended = [result.scheduled_at.day for result in journey.results("ada", "email_digest")]
    assert ended == [24, 25]
    assert [job.scheduled_at.hour for job in executor.jobs if job.scheduled_at.day == 25] == [8]


def test_who_travels_on_in_a_run_without_a_part_in_it_gets_none(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window="30m")
    journey = begin(task, at="2026-11-24T07:59")
    users = [f"user-{number}" for number in range(10)]
    for user in users:
        journey.enable(user, "email_digest", timezone="Europe/Berlin")

    journey.until("2026-11-24T08:40")
    for user in users:
        journey.relocate(user, "America/New_York")
    journey.until("2026-11-24T14:01")
    for user in users:
        journey.relocate(user, "America/Los_Angeles")
    journey.until("2026-11-24T23:00")

    assert sorted(journey.executor.users) == sorted(users)


def test_moving_house_in_mid_run_neither_loses_nor_doubles_anybody(begin: Begin) -> None:
    journey = begin(make_task(window="10m"), at="2026-11-24T08:59")
    users = [f"user-{number}" for number in range(60)]
    for user in users:
        journey.enable(user, "email_digest", timezone="Europe/Berlin")

    journey.until("2026-11-24T09:04")
    for user in users:
        journey.relocate(user, "Asia/Tokyo")
    journey.until("2026-11-24T09:30")

    assert sorted(journey.executor.users) == sorted(users)


def test_what_is_caught_up_on_is_carried_out_though_the_next_of_the_row_is_claimed_at_once(
    begin: Begin,
) -> None:
    task = make_task(interval=Interval.hourly(), window="10m", missed="all", catchup_window="3h")
    journey = begin(task, at="2026-11-24T05:30")
    for number in range(20):
        journey.enable(f"user-{number}", "email_digest")

    journey.sleep_until("2026-11-24T10:30")
    journey.tick()
    journey.until("2026-11-24T10:55")

    assert len(journey.executor.jobs) == 60


def test_what_fell_due_before_an_edit_is_claimed_as_it_was_declared(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T09:05")
    journey.edit([make_task(interval=Interval.daily(at="18:00"), window=0)])
    journey.until("2026-11-24T18:30")

    assert nominal_times(journey) == ["24 09:00", "24 18:00"]


def test_a_task_that_cannot_be_reckoned_with_does_not_stop_the_others(begin: Begin) -> None:
    night = make_task("night", interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(night, make_task("other", window=0), at="2026-11-24T08:30")
    journey.enable("bob", "night", timezone="Europe/Newtown")
    journey.enable("ada", "other")

    journey.until("2026-11-24T09:05")

    assert journey.executor.users == ["ada"]


def test_who_takes_another_interval_before_being_reached_keeps_the_place_in_what_is_claimed(
    begin: Begin,
) -> None:
    journey = begin(make_task(window="30m"), at="2026-11-24T08:59")
    users = [f"user-{number}" for number in range(40)]
    for user in users:
        journey.enable(user, "email_digest")

    journey.until("2026-11-24T09:05")
    for user in users:
        journey.enable(user, "email_digest", interval=Interval.daily(at="18:00"))
    for user in users[:10]:
        journey.enable(user, "email_digest", interval=None)
    journey.until("2026-11-24T09:40")

    [run] = journey.runs()
    assert sorted(journey.executor.users) == sorted(users)
    assert run.counts.expected == run.counts.success == 40
    assert run.status is RunStatus.ENDED


def test_who_travels_before_being_reached_is_served_once_that_day(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window="30m")
    journey = begin(task, at="2026-11-24T07:59")
    users = [f"user-{number}" for number in range(20)]
    for user in users:
        journey.enable(user, "email_digest", timezone="Europe/Berlin")

    journey.until("2026-11-24T08:05")
    for index, user in enumerate(users):
        journey.relocate(user, "America/New_York" if index % 2 else "Asia/Tokyo")
    journey.until("2026-11-24T22:00")

    assert sorted(journey.executor.users) == sorted(users)
    assert {job.scheduled_at.hour for job in journey.executor.jobs} == {8}


def test_who_is_disabled_or_deleted_after_leaving_a_claimed_cohort_is_not_served(begin: Begin) -> None:
    journey = begin(make_task(window="30m"), at="2026-11-24T08:59")
    for user in ("ada", "bob"):
        journey.enable(user, "email_digest")

    journey.until("2026-11-24T09:01")
    for user in ("ada", "bob"):
        journey.enable(user, "email_digest", interval=Interval.daily(at="18:00"))
    journey.disable("ada", "email_digest")
    journey.runtime.store.preferences.forget(UserId("bob"))
    journey.until("2026-11-24T09:40")

    [run] = journey.runs()
    assert journey.executor.jobs == []
    assert (run.status, run.counts.expected) == (RunStatus.ENDED, 0)
