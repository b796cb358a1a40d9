"""Whatever stalls is set going again by whoever looks, and a run ends whatever became of its jobs."""

from datetime import timedelta

from loguru import logger

from tests.journeys.conftest import Begin
from tq.models import ExecutionResult, Interval, Outcome, RunCounts, RunStatus, TaskId
from tq.pipeline import cancel_run
from tq.pipeline.mend import LEASE, Mender
from tq.testing import FakeExecutor, make_task

DIGEST = TaskId("email_digest")
MINUTE = timedelta(minutes=1)
HOURLY = make_task(DIGEST, interval=Interval.hourly(), window="0", retries=3, max_lateness="10m")


def failing() -> FakeExecutor:
    return FakeExecutor(
        lambda _job: ExecutionResult(outcome=Outcome.BUSY, http_status=503, retry_after=timedelta(minutes=9))
    )


def test_a_run_whose_retries_would_come_too_late_ends_at_its_deadline(begin: Begin) -> None:
    journey = begin(HOURLY, at="2026-11-24T09:30", executor=failing())
    journey.enable("ada", DIGEST)
    journey.until("2026-11-24T10:05")
    [run] = journey.runs(DIGEST)
    journey.sleep_until("2026-11-24T10:11")

    Mender(journey.runtime, "a").look()

    run = journey.run(run.id)
    assert run.status is RunStatus.ENDED
    assert (run.counts.expired, run.counts.unaccounted) == (1, 0)


def test_a_run_that_lost_its_agenda_entry_is_followed_and_told_of(begin: Begin) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    journey = begin(make_task(DIGEST, interval=Interval.hourly(), window="30m"), at="2026-11-24T09:30")
    for number in range(40):
        journey.enable(f"user-{number}", DIGEST)
    journey.until("2026-11-24T10:03")
    [run] = journey.runs(DIGEST)
    store = journey.runtime.store
    store.connection.call("ZREM", store.keys("agenda"), f"d|{run.id}")

    Mender(journey.runtime, "a").look()
    journey.until("2026-11-24T10:31")
    logger.remove(sink)

    assert journey.run(run.id).counts == RunCounts(expected=40, success=40)
    assert "run that nobody followed is distributed on" in told


def test_a_run_cancelled_in_mid_window_serves_nobody_any_more_and_counts_everybody(begin: Begin) -> None:
    journey = begin(make_task(DIGEST, interval=Interval.hourly(), window="30m"), at="2026-11-24T09:30")
    for number in range(100):
        journey.enable(f"user-{number}", DIGEST)
    journey.until("2026-11-24T10:10")
    [run] = journey.runs(DIGEST)
    served = run.counts.success

    cancel_run(journey.runtime, run.id, reason="by mistake")
    journey.until("2026-11-24T10:31")

    run = journey.run(run.id)
    assert 0 < served < 100
    assert run.status is RunStatus.CANCELLED
    assert run.counts == RunCounts(expected=100, success=served, cancelled=100 - served)


def test_only_one_of_two_looks(begin: Begin) -> None:
    journey = begin(HOURLY, at="2026-11-24T09:30", executor=failing())
    journey.enable("ada", DIGEST)
    journey.until("2026-11-24T10:05")
    first, second = Mender(journey.runtime, "a"), Mender(journey.runtime, "b")
    first.look()
    journey.sleep_until("2026-11-24T10:11")
    first.look()

    assert not journey.runtime.store.mending.is_mine("b", lasts=LEASE)
    second.look()
    assert journey.runs(DIGEST)[0].status is RunStatus.ENDED


def test_a_run_that_ends_with_somebody_missing_raises_the_alarm(begin: Begin) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="ERROR")
    journey = begin(HOURLY, at="2026-11-24T09:30", executor=failing())
    for user in ("ada", "bob"):
        journey.enable(user, DIGEST)
    journey.until("2026-11-24T10:05")
    [run] = journey.runs(DIGEST)
    mender, store = Mender(journey.runtime, "a"), journey.runtime.store
    mender.look()
    store.connection.call("HDEL", store.keys("open", run.id), "bob")
    journey.until("2026-11-24T10:11")

    mender.look()
    mender.look()
    logger.remove(sink)

    assert journey.run(run.id).counts.unaccounted == 1
    assert told == ["run ended with jobs unaccounted for"]
