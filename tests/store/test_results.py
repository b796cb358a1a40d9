"""What became of jobs: the last few of each user, and every failure in full while it is kept."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.clock import from_ms
from tq.models import (
    Envelope,
    ErrorDetail,
    JobResult,
    JobStatus,
    Priority,
    RunId,
    TaskId,
    UserId,
    job_id_of,
    scheduled_run_id,
)
from tq.store import Store
from tq.store.results import pack_result, unpack_result

from . import (
    DIGEST,
    NINE,
    NOW,
    claim,
    enable,
    end_of,
    frozen,
    jobs_sent,
    names,
    next_step,
    share_of,
)

ADA = UserId("ada")
HISTORY = 3  # as the stores of these tests are set
DAY = timedelta(days=1)


def run_of_day(store: Store, day: int) -> list[Envelope]:
    """The jobs of the run that falls due so many days later."""
    nominal_at = NINE + day * DAY
    run_id = scheduled_run_id(DIGEST, nominal_at)
    claim(store, share_of(), nominal_at=nominal_at)
    store.ledger.fan_out(run_id, next_step(store, run_id), Priority.NORMAL)
    return [job for job in jobs_sent(store) if job.run_id == run_id]


# --- As they are written ---------------------------------------------------------------------------

instants = st.integers(1, 4_102_444_800_000).map(from_ms)
durations = st.integers(0, 86_400_000).map(lambda ms: timedelta(milliseconds=ms))


@given(
    status=st.sampled_from(JobStatus),
    why=st.none() | st.text(min_size=1),
    instants=st.tuples(instants, st.none() | instants, instants),
    duration=durations,
    attempts=st.integers(0, 1000),
    http_status=st.none() | st.integers(100, 599),
)
def test_a_result_comes_back_as_it_was(
    status: JobStatus,
    why: str | None,
    instants: tuple[datetime, datetime | None, datetime],
    duration: timedelta,
    attempts: int,
    http_status: int | None,
) -> None:
    failed = status is JobStatus.FAILED
    scheduled_at, started_at, ended_at = instants
    run_id = RunId("email_digest~20261124T090000Z")
    kept = JobResult(
        job_id=job_id_of(run_id, ADA),
        run_id=run_id,
        task_id=DIGEST,
        user_id=ADA,
        status=status,
        reason=None if failed else why,
        scheduled_at=scheduled_at,
        started_at=started_at,
        ended_at=ended_at,
        duration=duration,
        attempts=attempts,
        http_status=http_status,
        error=ErrorDetail(code=why) if failed and why else None,
    )
    packed = pack_result(
        run_id,
        status,
        why,
        instants=instants,
        duration=duration,
        attempts=attempts,
        http_status=http_status,
    )

    assert unpack_result(DIGEST, ADA, packed) == kept


# --- The last few --------------------------------------------------------------------------------------


def test_the_last_few_results_of_a_user_are_kept_newest_first(store: Store) -> None:
    enable(store, ["ada"])
    statuses = [JobStatus.SUCCESS, JobStatus.EXPIRED, JobStatus.CANCELLED, JobStatus.SUCCESS]
    ends = []
    for day, status in enumerate(statuses):
        [job] = run_of_day(store, day)
        ends.append(end_of(job, status))
        store.ledger.finish([ends[-1]])

    results = store.results.of(DIGEST, ADA)

    assert results == [end.result for end in reversed(ends)][:HISTORY]


def test_results_are_kept_as_long_as_the_setting_says(store: Store) -> None:
    enable(store, ["ada"])
    [job] = run_of_day(store, 0)

    store.ledger.finish([end_of(job, JobStatus.FAILED)])

    keys = [
        store.keys("results", DIGEST, ADA),
        store.keys("failures", DIGEST),
        store.keys("failure", DIGEST),
    ]
    assert [store.connection.call("TTL", key) for key in keys] == [30 * 86_400] * 3


def test_a_user_without_results_has_none(store: Store) -> None:
    assert store.results.of(DIGEST, ADA) == []
    assert list(store.results.failures(DIGEST)) == []


# --- Failures --------------------------------------------------------------------------------------------


def test_a_failure_is_kept_in_full(store: Store) -> None:
    enable(store, ["ada", "bob"])
    jobs = {job.user_id: job for job in run_of_day(store, 0)}
    failed = end_of(
        jobs[ADA],
        JobStatus.FAILED,
        error=ErrorDetail(code="HTTP_500", message="it said “no” 🐎", retry=True),
        http_status=500,
        body='{"error": "\\n"}',
        attempts=4,
    )

    store.ledger.finish([failed, end_of(jobs[UserId("bob")], body="not kept")])

    assert store.results.of(DIGEST, ADA) == [failed.result]
    assert list(store.results.failures(DIGEST)) == [failed.result]
    [kept] = store.results.of(DIGEST, UserId("bob"))
    assert kept.body is None


def test_failures_come_newest_first_and_no_more_than_asked_for(store: Store) -> None:
    enable(store, names(10))
    jobs = run_of_day(store, 0)
    for job in jobs:
        frozen(store).advance(timedelta(seconds=1))
        store.ledger.finish([end_of(job, JobStatus.FAILED)])

    latest = store.results.failures(DIGEST, limit=4)

    assert [failure.user_id for failure in latest] == [job.user_id for job in reversed(jobs)][:4]


def test_the_oldest_failures_give_way_to_new_ones(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.ledger, "_retention", (HISTORY, 86_400, 5))
    enable(store, names(12))
    jobs = run_of_day(store, 0)
    for job in jobs:
        frozen(store).advance(timedelta(seconds=1))
        store.ledger.finish([end_of(job, JobStatus.FAILED)])

    kept = [failure.user_id for failure in store.results.failures(DIGEST)]

    assert kept == [job.user_id for job in reversed(jobs)][:5]
    assert store.connection.call("HLEN", store.keys("failure", DIGEST)) == 5
    [gone] = store.results.of(DIGEST, jobs[0].user_id)
    assert gone.error == ErrorDetail(code="HTTP_500")
    assert store.runs.get(jobs[0].run_id).counts.failed == 12


def test_failures_that_are_too_old_go_when_a_new_one_comes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.ledger, "_retention", (HISTORY, 86_400, 100))
    enable(store, names(8))
    *old, new = run_of_day(store, 0)
    store.ledger.finish([end_of(job, JobStatus.FAILED) for job in old])

    frozen(store).move_to(NOW + DAY)
    store.ledger.finish([end_of(new, JobStatus.FAILED)])

    assert [failure.user_id for failure in store.results.failures(DIGEST)] == [new.user_id]
    assert store.connection.call("HLEN", store.keys("failure", DIGEST)) == 1


def test_a_forgotten_user_has_neither_results_nor_failures(store: Store) -> None:
    # The other user's id ends like hers: only whole ids may be taken away.
    enable(store, ["ada", "x:ada"])
    enable(store, ["ada"], TaskId("other"))
    jobs = run_of_day(store, 0)
    store.ledger.finish([end_of(job, JobStatus.FAILED) for job in jobs])

    store.preferences.forget(ADA)

    assert store.results.of(DIGEST, ADA) == []
    assert [failure.user_id for failure in store.results.failures(DIGEST)] == ["x:ada"]
    assert store.connection.call("HLEN", store.keys("failure", DIGEST)) == 1
    assert len(store.results.of(DIGEST, UserId("x:ada"))) == 1


def test_failures_of_one_user_are_found_among_thousands(store: Store) -> None:
    enable(store, names(1500))
    run_id = scheduled_run_id(DIGEST, NINE)
    claim(store, share_of())
    store.ledger.fan_out(run_id, next_step(store, run_id, size=5000), Priority.NORMAL)
    store.ledger.finish([end_of(job, JobStatus.FAILED) for job in jobs_sent(store)])

    store.preferences.forget(UserId("u00700"))

    left = {failure.user_id for failure in store.results.failures(DIGEST, limit=5000)}
    assert left == set(names(1500)) - {"u00700"}
