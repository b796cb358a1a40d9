"""What becomes of jobs: retried, ended, expired, switched off, accounted for."""

import asyncio
import importlib
import time
from datetime import timedelta
from typing import Any

import pytest
from loguru import logger

from tests.journeys.conftest import Begin
from tq.errors import InvalidInput, NotNow, TaskNotFound
from tq.models import (
    Batch,
    Envelope,
    ErrorDetail,
    ExecutionResult,
    Interval,
    Job,
    JobStatus,
    Outcome,
    Priority,
    RunKind,
    RunStatus,
    TaskId,
    UserId,
)
from tq.outcomes import ErrorCode
from tq.pipeline import start_run
from tq.store.ledger import Step
from tq.testing import FakeExecutor, make_envelope, make_task


def answering(*results: ExecutionResult) -> FakeExecutor:
    """An executor that answers each attempt at a job with the next result, then with success."""

    def answer(job: Job) -> ExecutionResult:
        return results[job.attempt - 1] if job.attempt <= len(results) else ExecutionResult.success()

    return FakeExecutor(answer)


def always(result: ExecutionResult) -> FakeExecutor:
    return FakeExecutor(lambda _job: result)


distribute = importlib.import_module("tq.pipeline.distribute")
execute_step = importlib.import_module("tq.pipeline.execute")
BROKEN = ExecutionResult.retry("HTTP_500", "endpoint answered 500")
THROTTLED = ExecutionResult(
    outcome=Outcome.THROTTLED,
    error=ErrorDetail(code="HTTP_429", retry=True),
    http_status=429,
    retry_after=timedelta(seconds=30),
)
GONE = ExecutionResult(outcome=Outcome.GONE, error=ErrorDetail(code="HTTP_410"), http_status=410)


def test_a_failed_attempt_is_retried_under_the_same_key_and_with_the_same_body(begin: Begin) -> None:
    executor = answering(BROKEN, BROKEN)
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=executor)
    journey.enable("ada", "email_digest", parameters={"unread": 3})

    journey.until("2026-11-24T09:00:10")
    journey.enable("ada", "email_digest", parameters={"unread": 4})
    journey.until("2026-11-24T09:05")

    attempts = executor.jobs
    assert [job.attempt for job in attempts] == [1, 2, 3]
    assert len({job.idempotency_key for job in attempts}) == 1
    assert len({job.body() for job in attempts}) == 1
    [run] = journey.runs()
    assert (run.counts.success, run.counts.retries, run.status) == (1, 2, RunStatus.ENDED)


def test_how_jobs_ended_is_told_to_who_debugs(begin: Begin) -> None:
    told: list[Any] = []
    sink = logger.add(lambda line: told.append(line.record), level="DEBUG", filter="tq.pipeline.execute")
    try:
        executor = answering(GONE.model_copy(update={"duration": timedelta(seconds=2)}))
        journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=executor)
        journey.enable("ada", "email_digest")
        journey.until("2026-11-24T09:01")
    finally:
        logger.remove(sink)

    [line] = [line for line in told if line["message"] == "job ended"]
    fields = {name: line["extra"][name] for name in ("status", "code", "http_status", "duration_ms")}
    assert fields == {"status": "failed", "code": "HTTP_410", "http_status": 410, "duration_ms": 2000.0}


def test_attempts_are_used_up_and_the_failure_is_kept_in_full(begin: Begin) -> None:
    journey = begin(make_task(window=0, retries=3), at="2026-11-24T08:59:50", executor=always(BROKEN))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:10")

    [result] = journey.results("ada", "email_digest")
    assert len(journey.executor.jobs) == 4
    assert result.status is JobStatus.FAILED
    assert result.attempts == 4
    assert result.error == ErrorDetail(code="HTTP_500", message="endpoint answered 500", retry=False)


def test_a_job_that_ended_elsewhere_while_it_waited_for_a_slot_is_not_called(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute_step, "FRESH_FOR_S", 0.0)
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50")
    journey.enable("ada", "email_digest")
    limiter, ledger = journey.runtime.limiter, journey.runtime.store.ledger
    enter = limiter.enter

    def meanwhile(envelope: Envelope, *, patience_s: float) -> float:
        if patience_s == execute_step.SLOT_WAIT_S:  # the ledger has been asked
            ledger.finish([execute_step._end(envelope, JobStatus.SUCCESS, journey.clock.now(), None)])
        return enter(envelope, patience_s=patience_s)

    monkeypatch.setattr(limiter, "enter", meanwhile)
    limiter.start(threads=1)
    try:
        journey.until("2026-11-24T09:05")
    finally:
        limiter.stop()

    [run] = journey.runs()
    assert run.counts.success == 1
    assert journey.executor.jobs == []


@pytest.mark.parametrize(("age_s", "calls"), [(0.0, 1), (execute_step.FRESH_FOR_S + 0.1, 0)])
def test_leave_that_the_ledger_gave_ahead_is_asked_for_again_when_it_is_old(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, age_s: float, calls: int
) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50")
    journey.enable("ada", "email_digest")
    ledger, limiter = journey.runtime.store.ledger, journey.runtime.limiter
    enter = limiter.enter

    def handed_out(envelope: Envelope, *, patience_s: float) -> float:
        monkeypatch.setattr(limiter, "enter", enter)
        [permission] = ledger.begin([envelope])
        ledger.finish([execute_step._end(envelope, JobStatus.SUCCESS, journey.clock.now(), None)])
        envelope.permission = permission._replace(asked=time.monotonic() - age_s)
        return enter(envelope, patience_s=patience_s)

    monkeypatch.setattr(limiter, "enter", handed_out)
    journey.until("2026-11-24T09:05")

    [run] = journey.runs()
    assert run.counts.success == 1
    assert len(journey.executor.jobs) == calls


def test_being_throttled_spends_no_attempt(begin: Begin) -> None:
    executor = answering(*[THROTTLED] * 6, BROKEN)
    journey = begin(make_task(window=0, retries=1), at="2026-11-24T08:59:50", executor=executor)
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:10")

    [result] = journey.results("ada", "email_digest")
    assert result.status is JobStatus.SUCCESS
    assert result.attempts == 8


def test_retry_after_is_waited_for(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=answering(THROTTLED))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:00:20")
    early = len(journey.executor.jobs)
    journey.until("2026-11-24T09:01")

    assert early == 1
    assert len(journey.executor.jobs) == 2


def test_no_attempt_begins_after_the_deadline(begin: Begin) -> None:
    task = make_task(window=0, max_lateness="2m", retries=100, retry_delay="20s")
    journey = begin(task, at="2026-11-24T08:59:50", executor=always(BROKEN))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:10")

    [result] = journey.results("ada", "email_digest")
    [run] = journey.runs()
    assert result.status is JobStatus.EXPIRED
    assert result.error is None
    assert result.reason == ErrorCode.EXPIRED
    assert (run.counts.expired, run.counts.unaccounted, run.status) == (1, 0, RunStatus.ENDED)


def test_whoever_was_not_reached_before_the_deadline_expires_as_a_number(begin: Begin) -> None:
    task = make_task(window="1h", max_lateness="10m")
    journey = begin(task, at="2026-11-24T08:59:50")
    for number in range(100):
        journey.enable(f"user-{number}", "email_digest")

    journey.until("2026-11-24T09:20")

    [run] = journey.runs()
    counts = run.counts
    assert run.status is RunStatus.ENDED
    assert counts.expected == 100 == counts.success + counts.expired
    assert counts.success == len(journey.executor.jobs)
    assert counts.expired > 50


def test_gone_switches_the_users_task_off_with_a_reason(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=always(GONE))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-25T09:05")

    settings = journey.runtime.store.preferences.get(UserId("ada")).tasks[TaskId("email_digest")]
    assert len(journey.executor.jobs) == 1
    assert not settings.enabled
    assert settings.reason == "the endpoint answered 410 Gone"


def test_an_executor_that_raises_is_a_failed_attempt_with_its_message(begin: Begin) -> None:
    def explode(_job: Job) -> ExecutionResult:
        raise RuntimeError("no such\ntable; password=hunter2-hunter2")

    journey = begin(make_task(window=0, retries=0), at="2026-11-24T08:59:50", executor=FakeExecutor(explode))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:01")

    [result] = journey.results("ada", "email_digest")
    assert result.error is not None
    assert result.error.code == ErrorCode.EXECUTOR_ERROR
    assert "no such table" in result.error.message
    assert "hunter2" not in result.error.message


def test_a_job_of_a_user_who_is_disabled_meanwhile_is_skipped(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=always(THROTTLED))
    journey.enable("ada", "email_digest")
    journey.enable("bob", "email_digest")
    journey.until("2026-11-24T09:00:10")
    calls = len(journey.executor.jobs)

    journey.disable("ada", "email_digest")
    journey.disable("bob", "email_digest")
    journey.until("2026-11-24T09:10")

    [run] = journey.runs()
    assert len(journey.executor.jobs) == calls
    assert run.status is RunStatus.ENDED
    assert run.counts.skipped_by_reason == {"disabled": 2}
    assert journey.results("ada", "email_digest")[0].reason == "disabled"


def test_a_new_run_replaces_what_is_left_of_the_last_one(begin: Begin) -> None:
    executor = FakeExecutor(
        lambda job: THROTTLED if job.scheduled_at.hour == 9 else ExecutionResult.success()
    )
    task = make_task(interval=Interval.hourly(), window=0, max_lateness="5h")
    journey = begin(task, at="2026-11-24T08:59:50", executor=executor)
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T10:05")

    first, second = journey.runs()
    assert (first.counts.expired, first.status) == (1, RunStatus.ENDED)
    assert (second.counts.success, second.status) == (1, RunStatus.ENDED)


def test_skip_leaves_out_a_run_while_the_last_one_has_not_ended(begin: Begin) -> None:
    task = make_task(interval=Interval.hourly(), window=0, max_lateness="90m", overlap="skip")
    journey = begin(task, at="2026-11-24T08:59:50", executor=always(THROTTLED))
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T10:05")

    first, second = journey.runs()
    assert first.status is RunStatus.RUNNING
    assert (second.status, second.reason, second.counts.skipped) == (RunStatus.SKIPPED, "overlap", 1)


def test_results_keep_the_last_few(begin: Begin) -> None:
    journey = begin(make_task(interval=Interval.minutely(), window=0), at="2026-11-24T08:59:50")
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:09")

    minutes = [result.scheduled_at.minute for result in journey.results("ada", "email_digest")]
    assert minutes == [9, 8, 7, 6, 5]


def test_a_run_on_request_serves_everybody_at_once(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    for number in range(2500):
        journey.enable(f"user-{number}", "email_digest")

    run = journey.trigger("email_digest")

    assert run.kind is RunKind.MANUAL
    assert run.status is RunStatus.ENDED
    assert run.counts.expected == run.counts.success == 2500
    assert len(set(journey.executor.users)) == 2500


def test_a_run_on_request_serves_the_users_named_and_nobody_else(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    for user in ("ada", "bob", "cyd"):
        journey.enable(user, "email_digest")

    run = journey.trigger("email_digest", ["cyd", "ada"])

    assert run.counts.success == 2
    assert sorted(journey.executor.users) == ["ada", "cyd"]


def test_the_same_request_key_names_the_same_run(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    journey.enable("ada", "email_digest")

    first = journey.trigger("email_digest", request_key="order-7")
    again = journey.trigger("email_digest", request_key="order-7")

    assert first.id == again.id
    assert len(journey.executor.jobs) == 1


def test_a_request_key_does_not_change_for_whom_a_run_is(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    for user in ("ada", "bob"):
        journey.enable(user, "email_digest")
    journey.trigger("email_digest", ["ada"], request_key="order-7")

    again = journey.trigger("email_digest", ["bob"], request_key="order-7")
    with pytest.raises(InvalidInput, match="which is for users who were named; use another key"):
        journey.trigger("email_digest", request_key="order-7")

    assert again.counts.expected == 1
    assert journey.executor.users == ["ada"]


def test_a_run_cannot_be_asked_for_whom_or_what_there_is_not(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    journey.enable("ada", "email_digest")

    with pytest.raises(TaskNotFound, match="email_digest"):
        journey.trigger("email_digets")
    with pytest.raises(InvalidInput, match="'bob' does not have 'email_digest' enabled"):
        journey.trigger("email_digest", ["ada", "bob"])

    assert journey.runs() == []


def test_a_finished_jobs_message_that_comes_again_makes_no_call(begin: Begin) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50")
    journey.enable("ada", "email_digest")
    journey.until("2026-11-24T09:00:10")

    journey.deliver_again()
    journey.deliver_again()

    [run] = journey.runs()
    assert len(journey.executor.jobs) == 1
    assert run.counts.success == 1


def test_jobs_of_other_priorities_come_through_their_own_queues(begin: Begin) -> None:
    tasks = [
        make_task(f"{priority}_task", window=0, priority=priority) for priority in ("low", "normal", "high")
    ]
    journey = begin(*tasks, at="2026-11-24T08:59:50")
    for task in tasks:
        for number in range(21):
            journey.enable(f"user-{number}", task.id)

    journey.until("2026-11-24T09:00")

    served = [str(job.task_id) for job in journey.executor.jobs]
    assert len(served) == 63
    assert (
        served[:21].count("high_task") > served[:21].count("normal_task") > served[:21].count("low_task") > 0
    )


@pytest.mark.parametrize("ending", [SystemExit(3), asyncio.CancelledError(), None], ids=repr)
def test_however_an_executor_ends_the_job_ends_too(begin: Begin, ending: BaseException | None) -> None:
    def misbehave(_job: Job) -> Any:
        if ending is not None:
            raise ending

    journey = begin(
        make_task(window=0, retries=0), at="2026-11-24T08:59:50", executor=FakeExecutor(misbehave)
    )
    journey.enable("ada", "email_digest")

    journey.until("2026-11-24T09:01")

    [run] = journey.runs()
    assert (run.status, run.counts.failed) == (RunStatus.ENDED, 1)


def test_who_changes_interval_in_the_middle_of_a_run_for_everybody_is_called_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribute, "MOST_QUEUED", 5)
    monkeypatch.setattr(distribute, "PAGE", 5)
    journey = begin(make_task(), at="2026-11-24T15:00")
    users = [f"user-{number}" for number in range(40)]
    for index, user in enumerate(users):
        journey.enable(user, "email_digest", interval=Interval.hourly() if index % 2 else None)
    journey.trigger("email_digest")

    for index, user in enumerate(users):
        journey.enable(user, "email_digest", interval=None if index % 2 else Interval.hourly())
        if index % 8 == 0:
            journey.until(journey.clock.now() + timedelta(seconds=1))
    journey.until("2026-11-24T15:02")

    [run] = [run for run in journey.runs() if run.kind is RunKind.MANUAL]
    assert sorted(journey.executor.users) == sorted(users)
    assert run.counts.expected == run.counts.success == 40


def test_who_is_disabled_between_page_and_fan_out_gets_no_job(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    for user in ("ada", "bob"):
        journey.enable(user, "email_digest")
    store = journey.runtime.store
    run = start_run(journey.runtime, TaskId("email_digest"))
    page = store.preferences.page(run.task_id, run.shares[0].cohort, after=-1, run_id=run.id)
    pattern = make_envelope("ada", run_id=run.id, kind=run.kind, definition=run.definition)

    journey.disable("ada", "email_digest")
    step = Step(
        *(0, -1, page.reached),
        done=True,
        wake_at=journey.clock.now(),
        batches=[Batch(pattern, page.user_ids)],
        departures=page.departures,
    )
    sent = store.ledger.fan_out(run.id, step, Priority.NORMAL)

    assert len(page.members) == 2
    assert sent == 1
    assert list(store.runs.open_users(run.id)) == ["bob"]
    assert store.runs.get(run.id).counts.expected == 1


def test_a_worker_that_dies_after_a_410_leaves_a_user_who_is_switched_off(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=always(GONE))
    journey.enable("ada", "email_digest")
    finish = journey.runtime.store.ledger.finish

    def die(_endings: object) -> list[bool]:
        raise KeyboardInterrupt

    monkeypatch.setattr(journey.runtime.store.ledger, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        journey.until("2026-11-24T09:00")
    monkeypatch.setattr(journey.runtime.store.ledger, "finish", finish)
    journey.deliver_again()

    [run] = journey.runs()
    settings = journey.runtime.store.preferences.get(UserId("ada")).tasks[TaskId("email_digest")]
    assert (run.counts.failed, run.counts.skipped, run.status) == (1, 0, RunStatus.ENDED)
    assert not settings.enabled


def test_a_cohort_that_is_done_is_not_held_up_by_another_ones_retries(begin: Begin) -> None:
    executor = FakeExecutor(lambda job: THROTTLED if job.user_id == "bob" else ExecutionResult.success())
    task = make_task(window=0, overlap="skip", max_lateness="20h")
    journey = begin(task, at="2026-11-24T08:59:50", executor=executor)
    journey.enable("ada", "email_digest", interval=Interval.hourly())
    journey.enable("bob", "email_digest")

    journey.until("2026-11-24T12:01")

    assert [job.scheduled_at.hour for job in executor.jobs if job.user_id == "ada"] == [9, 10, 11, 12]


def test_a_suspect_for_whose_call_there_is_no_slot_is_not_blamed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute_step, "SLOT_WAIT_S", 0.01)
    journey = begin(make_task(window=0), at="2026-11-24T09:30")
    journey.enable("ada", "email_digest")
    run = start_run(journey.runtime, TaskId("email_digest"))
    distribute.distribute(journey.runtime, run.id)
    envelope = make_envelope("ada", run_id=run.id, definition=run.definition, scheduled_at=run.nominal_at)
    envelope.is_suspect = True
    limiter = journey.runtime.limiter
    journey.runtime.store.orders.pause("*", reason="a test")
    limiter.start(threads=1)

    for _ in range(4):
        with pytest.raises(NotNow):
            execute_step.execute(journey.runtime, envelope)
    limiter.stop()
    journey.resume()
    execute_step.execute(journey.runtime, envelope)

    assert journey.run(run.id).counts.success == 1
