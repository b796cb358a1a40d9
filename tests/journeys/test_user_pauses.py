"""What a user who is paused misses, and that nothing of it is made up for."""

import pytest

from tests.journeys.conftest import Begin
from tq.models import (
    ErrorDetail,
    ExecutionResult,
    Interval,
    Job,
    JobStatus,
    Outcome,
    Run,
    RunStatus,
    TaskId,
    UserId,
)
from tq.testing import FakeExecutor, Journey, make_task, utc

ADA = UserId("ada")
DIGEST, SYNC = TaskId("email_digest"), TaskId("hourly_sync")
HOURLY = make_task(interval=Interval.hourly(), window=0)
BROKEN = ExecutionResult.retry("HTTP_500", "endpoint answered 500")
THROTTLED = ExecutionResult(
    outcome=Outcome.THROTTLED, error=ErrorDetail(code="HTTP_429", retry=True), http_status=429
)
BOTH_SCOPES = pytest.mark.parametrize("task_id", [None, DIGEST], ids=["user", "task of user"])


def hours_of(journey: Journey, user: str) -> list[int]:
    """The hours of the occurrences for which a user was called."""
    return [job.scheduled_at.hour for job in journey.executor.jobs if job.user_id == user]


def assert_accounted_for(run: Run, *, paused: int, success: int) -> None:
    assert run.status is RunStatus.ENDED
    assert (run.counts.expected, run.counts.success) == (paused + success, success)
    assert run.counts.skipped_by_reason == ({"paused": paused} if paused else {})


@BOTH_SCOPES
def test_what_falls_due_in_a_users_pause_is_skipped_for_that_user_alone_and_not_made_up_for(
    begin: Begin, task_id: TaskId | None
) -> None:
    journey = begin(HOURLY, at="2026-11-24T08:30")
    for user in ("ada", "bob"):
        journey.enable(user, DIGEST)
    journey.until("2026-11-24T09:30")

    journey.pause_user(ADA, task_id)
    journey.until("2026-11-24T11:30")
    journey.resume_user(ADA, task_id)
    journey.until("2026-11-24T13:30")

    assert hours_of(journey, "ada") == [9, 12, 13]
    assert hours_of(journey, "bob") == [9, 10, 11, 12, 13]
    for run, paused in zip(journey.runs(), (0, 1, 1, 0, 0), strict=True):
        assert_accounted_for(run, paused=paused, success=2 - paused)
    told = [(result.scheduled_at.hour, result.status) for result in journey.results("ada", DIGEST)]
    assert told == [
        (13, JobStatus.SUCCESS),
        (12, JobStatus.SUCCESS),
        (11, JobStatus.SKIPPED),
        (10, JobStatus.SKIPPED),
        (9, JobStatus.SUCCESS),
    ]


def test_a_pause_with_an_end_ends_by_itself(begin: Begin) -> None:
    journey = begin(HOURLY, at="2026-11-24T08:30")
    journey.enable("ada", DIGEST)

    journey.pause_user(ADA, until=utc("2026-11-24T10:30"))
    journey.until("2026-11-24T12:30")

    assert hours_of(journey, "ada") == [11, 12]


def test_the_pause_of_one_task_keeps_a_user_from_no_other(begin: Begin) -> None:
    journey = begin(HOURLY, make_task(SYNC, interval=Interval.hourly(), window=0), at="2026-11-24T08:30")
    journey.enable("ada", DIGEST)
    journey.enable("ada", SYNC)

    journey.pause_user(ADA, DIGEST)
    journey.until("2026-11-24T09:30")

    assert [job.task_id for job in journey.executor.jobs] == [SYNC]


def test_who_is_paused_in_mid_run_before_being_reached_is_skipped_and_after_it_has_been_served(
    begin: Begin,
) -> None:
    journey = begin(make_task(window="10m"), at="2026-11-24T08:59")
    users = [f"user-{number}" for number in range(60)]
    for user in users:
        journey.enable(user, DIGEST)
    journey.until("2026-11-24T09:05")
    served = set(journey.executor.users)

    for user in users[:30]:
        journey.pause_user(user)
    journey.until("2026-11-24T09:12")

    paused = set(users[:30]) - served
    assert paused
    assert served & set(users[:30])
    assert sorted(journey.executor.users) == sorted(set(users) - paused)
    [run] = journey.runs()
    assert_accounted_for(run, paused=len(paused), success=60 - len(paused))


@BOTH_SCOPES
@pytest.mark.parametrize("answer", [BROKEN, THROTTLED], ids=["retry", "throttled"])
def test_who_is_paused_in_mid_retry_is_called_no_more(
    begin: Begin, answer: ExecutionResult, task_id: TaskId | None
) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=FakeExecutor(lambda _job: answer))
    journey.enable("ada", DIGEST)
    journey.until("2026-11-24T09:00")

    journey.pause_user(ADA, task_id)
    journey.until("2026-11-24T09:30")
    journey.resume_user(ADA, task_id)
    journey.until("2026-11-24T10:30")

    assert len(journey.executor.jobs) == 1
    [run] = journey.runs()
    assert_accounted_for(run, paused=1, success=0)
    [result] = journey.results("ada", DIGEST)
    assert (result.status, result.reason, result.attempts) == (JobStatus.SKIPPED, "paused", 1)


def test_a_call_that_is_under_way_when_its_user_is_paused_is_accounted_for_once(begin: Begin) -> None:
    def answer(_job: Job) -> ExecutionResult:
        journey.pause_user(ADA)
        return ExecutionResult.success()

    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=FakeExecutor(answer))
    journey.enable("ada", DIGEST)
    journey.until("2026-11-24T09:01")
    journey.deliver_again()

    [run] = journey.runs()
    assert len(journey.executor.jobs) == 1
    assert_accounted_for(run, paused=1, success=0)


def test_a_run_on_request_skips_who_is_paused_for_it_passes_each_user_once(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    for user in ("ada", "bob"):
        journey.enable(user, DIGEST)
    journey.pause_user(ADA)

    everybody = journey.trigger(DIGEST)
    named = journey.trigger(DIGEST, ["ada"])

    assert_accounted_for(everybody, paused=1, success=1)
    assert_accounted_for(named, paused=1, success=0)
    assert journey.executor.users == ["bob"]


def test_who_moves_or_is_disabled_and_enabled_stays_paused_until_resumed(begin: Begin) -> None:
    task = make_task(interval=Interval.daily(at="09:00", timezone="user"), window=0)
    journey = begin(task, at="2026-11-24T07:30")
    journey.enable("ada", DIGEST, timezone="Europe/Berlin")
    journey.pause_user(ADA)

    journey.relocate("ada", "Europe/London")
    journey.until("2026-11-24T09:10")
    journey.disable("ada", DIGEST)
    journey.enable("ada", DIGEST, interval=Interval.hourly())
    journey.until("2026-11-24T10:10")
    in_the_pause = list(journey.executor.jobs)
    journey.resume_user(ADA)
    journey.until("2026-11-24T11:10")

    assert in_the_pause == []
    assert [run.counts.skipped_by_reason for run in journey.runs()] == [{"paused": 1}, {"paused": 1}, {}]
    assert hours_of(journey, "ada") == [11]


def test_who_is_deleted_in_a_pause_and_comes_back_is_not_paused(begin: Begin) -> None:
    journey = begin(HOURLY, at="2026-11-24T08:30")
    journey.enable("ada", DIGEST)
    journey.pause_user(ADA)
    journey.pause_user(ADA, DIGEST)

    journey.runtime.store.preferences.forget(ADA)
    journey.enable("ada", DIGEST)
    journey.until("2026-11-24T09:30")

    assert hours_of(journey, "ada") == [9]
