"""Outcomes: the documented table for every status, and what each means for the next attempt."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.models import ErrorDetail, ExecutionResult, Interval, JobStatus, Outcome, TaskConfig, TaskType
from tq.outcomes import (
    LONGEST_RETRY_AFTER,
    MAX_BACKOFF,
    MAX_DENIED,
    Again,
    Ended,
    ErrorCode,
    code_of,
    decide,
    outcome_of,
    parse_retry_after,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ALMOST_ONE = 1 - 2**-53  # the greatest number that a jitter gives
SPENDING = (Outcome.RETRY, Outcome.BUSY, Outcome.DENIED)
TRIED_AGAIN = (*SPENDING, Outcome.THROTTLED, Outcome.UNAVAILABLE)


def make_task(
    *, retries: int = 3, retry_delay: timedelta = 5 * SECOND, retry_after_max: timedelta = HOUR
) -> TaskType:
    return TaskType(
        id="email_digest",
        interval=Interval.hourly(),
        retries=retries,
        retry_delay=retry_delay,
        retry_after_max=retry_after_max,
        config=TaskConfig(endpoint="https://api.example.com/digest"),
    )


def make_result(outcome: Outcome, *, retry_after: timedelta | None = None) -> ExecutionResult:
    return ExecutionResult(
        outcome=outcome, error=ErrorDetail(code="HTTP_503", message="it said no"), retry_after=retry_after
    )


def next_step(
    result: ExecutionResult,
    *,
    attempt: int = 1,
    spent: int = 0,
    task: TaskType | None = None,
    left: timedelta = DAY,
    jitter: Callable[[], float] = lambda: 0.5,
) -> Ended | Again:
    return decide(
        result,
        attempt=attempt,
        spent=spent,
        task=task or make_task(),
        now=NOW,
        deadline_at=NOW + left,
        jitter=jitter,
    )


def delay_of(step: Ended | Again) -> timedelta:
    assert isinstance(step, Again)
    return step.delay


durations = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3660))
jitters = st.floats(min_value=0, max_value=ALMOST_ONE)
retried_results = st.builds(
    make_result,
    st.sampled_from(TRIED_AGAIN),
    retry_after=st.none() | durations | st.just(LONGEST_RETRY_AFTER),
)
tasks = st.builds(
    make_task,
    retries=st.integers(min_value=0, max_value=100),
    retry_delay=durations,
    retry_after_max=durations,
)


# --- The table -------------------------------------------------------------------------------------

NOT_FAILED_AT_ONCE = {
    **dict.fromkeys(range(200, 300), Outcome.SUCCESS),
    **dict.fromkeys(set(range(500, 600)) - {501, 505}, Outcome.RETRY),
    **dict.fromkeys((408, 409, 425), Outcome.RETRY),
    **dict.fromkeys((502, 503, 504), Outcome.BUSY),
    **dict.fromkeys((401, 403, 404), Outcome.DENIED),
    410: Outcome.GONE,
    429: Outcome.THROTTLED,
}


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_the_outcome_that_the_table_gives_it(status: int) -> None:
    expected = NOT_FAILED_AT_ONCE.get(status, Outcome.FAILED)

    outcome = outcome_of(status)

    assert outcome is expected


@pytest.mark.parametrize("status", [0, -1, 99, 600, 999])
def test_a_status_that_http_does_not_know_fails_at_once(status: int) -> None:
    assert outcome_of(status) is Outcome.FAILED


def test_the_code_of_a_status_is_stable() -> None:
    assert code_of(503) == "HTTP_503"


# --- Whether it ends -------------------------------------------------------------------------------


def test_a_success_ends_the_job_without_an_error() -> None:
    step = next_step(ExecutionResult.success())

    assert step == Ended(JobStatus.SUCCESS)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.GONE])
def test_what_trying_again_cannot_help_fails_at_once(outcome: Outcome) -> None:
    step = next_step(make_result(outcome))

    assert step == Ended(JobStatus.FAILED, ErrorDetail(code="HTTP_503", message="it said no", retry=False))


@pytest.mark.parametrize(
    ("outcome", "retries", "attempts"),
    [
        (Outcome.RETRY, 3, 4),
        (Outcome.BUSY, 3, 4),
        (Outcome.BUSY, 0, 1),
        (Outcome.DENIED, 3, 3),
        (Outcome.DENIED, 100, 3),
        (Outcome.DENIED, 1, 2),
        (Outcome.DENIED, 0, 1),
    ],
)
def test_so_many_attempts_are_spent_before_a_job_fails(outcome: Outcome, retries: int, attempts: int) -> None:
    task = make_task(retries=retries)

    steps = [
        next_step(make_result(outcome), attempt=spent + 1, spent=spent, task=task)
        for spent in range(attempts)
    ]

    assert [type(step) for step in steps] == [Again] * (attempts - 1) + [Ended]
    assert steps[-1] == Ended(JobStatus.FAILED, ErrorDetail(code="HTTP_503", message="it said no"))


def test_an_error_says_whether_it_is_tried_again() -> None:
    again = next_step(make_result(Outcome.RETRY), spent=2)
    ended = next_step(make_result(Outcome.RETRY), spent=3)

    assert again.error is not None
    assert again.error.retry
    assert ended.error is not None
    assert not ended.error.retry


def test_a_failure_without_a_reason_still_has_a_code() -> None:
    by_status = next_step(ExecutionResult(outcome=Outcome.FAILED, http_status=422))
    by_executor = next_step(ExecutionResult(outcome=Outcome.FAILED))

    assert by_status.error == ErrorDetail(code="HTTP_422")
    assert by_executor.error is not None
    assert by_executor.error.code == ErrorCode.EXECUTOR_ERROR


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.UNAVAILABLE])
def test_being_throttled_or_unable_to_try_spends_nothing_and_only_the_deadline_ends_it(
    outcome: Outcome,
) -> None:
    now, deadline_at, attempt = NOW, NOW + DAY, 1

    while True:
        step = decide(
            make_result(outcome),
            attempt=attempt,
            spent=3,
            task=make_task(),
            now=now,
            deadline_at=deadline_at,
            jitter=lambda: 0.5,
        )
        if isinstance(step, Ended):
            break
        assert step.spent == 3
        now, attempt = now + step.delay, attempt + 1

    assert step.status is JobStatus.EXPIRED
    assert deadline_at - SECOND < now <= deadline_at
    assert attempt > 100


def test_an_expired_job_names_the_last_error() -> None:
    step = next_step(make_result(Outcome.BUSY), left=0.5 * SECOND)

    assert isinstance(step, Ended)
    assert step.status is JobStatus.EXPIRED
    assert step.error is not None
    assert step.error.code == ErrorCode.EXPIRED
    assert "HTTP_503: it said no" in step.error.message
    assert not step.error.retry


def test_a_job_with_no_attempt_left_has_failed_even_if_its_deadline_has_passed_too() -> None:
    step = next_step(make_result(Outcome.RETRY), spent=3, left=-HOUR)

    assert isinstance(step, Ended)
    assert step.status is JobStatus.FAILED


# --- When it is tried again ------------------------------------------------------------------------


@pytest.mark.parametrize(("spent", "longest"), [(0, 5), (1, 10), (2, 20), (6, 320), (7, 600), (90, 600)])
def test_backoff_is_drawn_from_a_range_that_doubles_with_each_spent_attempt(spent: int, longest: int) -> None:
    task = make_task(retries=100)

    least = next_step(make_result(Outcome.RETRY), spent=spent, task=task, jitter=lambda: 0.0)
    middle = next_step(make_result(Outcome.RETRY), spent=spent, task=task, jitter=lambda: 0.5)

    assert delay_of(least) == timedelta(0)
    assert delay_of(middle) == longest / 2 * SECOND


def test_throttled_calls_back_off_by_the_number_of_calls() -> None:
    steps = [next_step(make_result(Outcome.THROTTLED), attempt=attempt) for attempt in (1, 2, 3, 100)]

    assert [delay_of(step) for step in steps] == [2.5 * SECOND, 5 * SECOND, 10 * SECOND, MAX_BACKOFF / 2]


def test_a_throttled_job_waits_a_second_at_least() -> None:
    drawn = next_step(make_result(Outcome.THROTTLED), jitter=lambda: 0.0)
    told_none = next_step(make_result(Outcome.THROTTLED, retry_after=timedelta(0)), jitter=lambda: 0.0)

    assert delay_of(drawn) == SECOND
    assert delay_of(told_none) == SECOND


def test_a_job_that_no_process_here_can_do_waits_about_ten_seconds() -> None:
    least = next_step(make_result(Outcome.UNAVAILABLE), attempt=50, jitter=lambda: 0.0)
    most = next_step(make_result(Outcome.UNAVAILABLE), attempt=50, jitter=lambda: ALMOST_ONE)

    assert delay_of(least) == 5 * SECOND
    assert delay_of(most) == 15 * SECOND


def test_a_task_may_ask_for_a_longer_delay_than_the_cap() -> None:
    task = make_task(retry_delay=2 * HOUR)

    step = next_step(make_result(Outcome.RETRY), spent=2, task=task)

    assert delay_of(step) == HOUR


@pytest.mark.parametrize(("asked", "at_most"), [(2, 3), (10, 11), (100, 110)])
def test_retry_after_is_obeyed_and_the_herd_spread_behind_it(asked: int, at_most: int) -> None:
    result = make_result(Outcome.BUSY, retry_after=asked * SECOND)

    least = next_step(result, jitter=lambda: 0.0)
    most = next_step(result, jitter=lambda: ALMOST_ONE)

    assert delay_of(least) == asked * SECOND
    assert asked * SECOND < delay_of(most) <= at_most * SECOND


def test_retry_after_is_held_to_what_the_task_allows() -> None:
    task = make_task(retry_after_max=timedelta(minutes=1))

    step = next_step(
        make_result(Outcome.THROTTLED, retry_after=12 * HOUR), task=task, jitter=lambda: ALMOST_ONE
    )

    assert timedelta(minutes=1) <= delay_of(step) <= timedelta(seconds=66)


def test_a_job_told_to_come_back_after_its_deadline_expires_now() -> None:
    step = next_step(make_result(Outcome.BUSY, retry_after=30 * SECOND), left=29 * SECOND)

    assert isinstance(step, Ended)
    assert step.status is JobStatus.EXPIRED


def test_backoff_is_drawn_from_what_is_left_before_the_deadline() -> None:
    task = make_task(retry_delay=HOUR)

    step = next_step(make_result(Outcome.RETRY), task=task, left=10 * SECOND)

    assert delay_of(step) == 5 * SECOND


# --- For all of them -------------------------------------------------------------------------------


@given(
    result=retried_results,
    task=tasks,
    attempt=st.integers(min_value=1, max_value=10**6),
    spent=st.integers(min_value=0, max_value=10**6),
    left=st.timedeltas(min_value=-DAY, max_value=2 * DAY),
    drawn=jitters,
)
def test_no_attempt_starts_after_the_deadline_or_beyond_the_number_of_retries(
    result: ExecutionResult, task: TaskType, attempt: int, spent: int, left: timedelta, drawn: float
) -> None:
    step = next_step(result, attempt=attempt, spent=spent, task=task, left=left, jitter=lambda: drawn)

    if isinstance(step, Again):
        assert timedelta(0) <= step.delay <= left
        assert step.error.retry
        if result.outcome in SPENDING:
            assert step.spent == spent + 1 <= task.retries
        else:
            assert step.spent == spent
        if result.outcome is Outcome.DENIED:
            assert step.spent < MAX_DENIED
        if result.retry_after is not None:
            assert step.delay >= min(result.retry_after, task.retry_after_max)
        elif result.outcome is not Outcome.UNAVAILABLE:
            assert step.delay <= max(MAX_BACKOFF, task.retry_delay)
    else:
        assert step.status in {JobStatus.FAILED, JobStatus.EXPIRED}
        assert step.error is not None
        assert not step.error.retry


@given(outcomes=st.lists(st.sampled_from(TRIED_AGAIN), max_size=300), task=tasks, drawn=jitters)
def test_whatever_an_endpoint_answers_no_more_than_retries_plus_one_attempts_are_spent(
    outcomes: list[Outcome], task: TaskType, drawn: float
) -> None:
    spent = calls_that_spend = 0

    for attempt, outcome in enumerate(outcomes, start=1):
        calls_that_spend += outcome in SPENDING
        step = next_step(
            make_result(outcome),
            attempt=attempt,
            spent=spent,
            task=task,
            left=timedelta(days=10_000),
            jitter=lambda: drawn,
        )
        if isinstance(step, Ended):
            break
        spent = step.spent

    assert calls_that_spend <= task.retries + 1


# --- Retry-After -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", timedelta(minutes=2)),
        (" 5 ", 5 * SECOND),
        ("0", timedelta(0)),
        ("1.5", 1.5 * SECOND),
        ("Sun, 01 Mar 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Sunday, 01-Mar-26 12:01:00 GMT", timedelta(minutes=1)),
        ("Sun Mar  1 12:01:00 2026", timedelta(minutes=1)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", timedelta(0)),
        ("9" * 400, LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("nan", None),
        ("٣", None),
        ("5, 10", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, expected: timedelta | None) -> None:
    assert parse_retry_after(value, now=NOW) == expected


@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,12} \d\d:\d\d:\d\d( [+-]\d{1,9})?")
)
def test_no_header_can_break_the_reading_of_retry_after(value: str) -> None:
    wait = parse_retry_after(value, now=NOW)

    assert wait is None or timedelta(0) <= wait <= LONGEST_RETRY_AFTER


@given(st.integers(min_value=0, max_value=300 * 86_400))
def test_a_date_asks_to_wait_until_then(seconds: int) -> None:
    date = format_datetime(NOW + seconds * SECOND, usegmt=True)

    wait = parse_retry_after(date, now=NOW)

    assert wait == seconds * SECOND
