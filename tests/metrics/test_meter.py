"""What the figures say of a system in which this and that has happened."""

from datetime import timedelta

import pytest

from tests.alerts.promtool import needs_promtool, promtool
from tests.metrics.conftest import Begin, scraped
from tq.errors import StoreRefused
from tq.metrics import FAMILIES, Meter
from tq.models import ExecutionResult, Interval, Job, JobStatus, Outcome, TaskId
from tq.pipeline.observe import bring
from tq.store.heartbeats import SCHEDULER, Presence
from tq.telemetry.observations import ATTEMPTS, BOUNDS, DELAY, DURATION, LATENESS, WAIT
from tq.testing import FakeExecutor, make_task

DAILY = make_task(interval=Interval.daily(at="09:00"), window=0, retries=1)
HOURLY = make_task("sync", interval=Interval.hourly(), window=0)
MOST_SERIES = 30_000


def answer(job: Job) -> ExecutionResult:
    """Eve's job always fails; Bob's works at the second attempt."""
    if job.user_id == "eve" or (job.user_id == "bob" and job.attempt == 1):
        refused = ExecutionResult.retry("HTTP_500", "endpoint answered 500")
        return refused.model_copy(update={"http_status": 500, "duration": timedelta(seconds=2)})
    return ExecutionResult(outcome=Outcome.SUCCESS, http_status=200, duration=timedelta(seconds=0.2))


def test_counters_say_exactly_what_the_ledgers_say(begin: Begin) -> None:
    journey = begin(DAILY, HOURLY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    for user in ("ada", "bob", "eve"):
        journey.enable(user, "email_digest")
    journey.enable("ada", "sync")
    journey.until("2026-11-24T11:30")
    journey.trigger("email_digest", ["ada"])
    journey.deliver_again()

    scrape = scraped(journey)

    runs = journey.runs()
    assert {run.task_id for run in runs} == {"email_digest", "sync"}
    for status in JobStatus:
        for task in ("email_digest", "sync"):
            of_task = [run for run in runs if run.task_id == task]
            found = scrape.all_of("tq_jobs_total")
            told = sum(n for labels, n in found.items() if {("task", task), ("outcome", status)} <= labels)
            assert told == sum(getattr(run.counts, status) for run in of_task)
    assert scrape.of("tq_jobs_total", task="email_digest", trigger="schedule", outcome="success") == 2
    assert scrape.of("tq_jobs_total", task="email_digest", trigger="manual", outcome="success") == 1
    assert scrape.of("tq_jobs_total", task="email_digest", trigger="schedule", outcome="failed") == 1
    assert scrape.of("tq_jobs_total", task="email_digest", trigger="schedule", outcome="expired") == 0
    assert scrape.of("tq_jobs_expected_total", task="email_digest", trigger="schedule") == 3
    assert scrape.of("tq_jobs_retried_total", task="email_digest") == 2
    assert scrape.of("tq_runs_total", task="sync", trigger="schedule") == 3
    assert scrape.of("tq_failures", task="email_digest") == 1


def test_attempts_are_counted_by_their_answer_and_what_followed(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    for user in ("ada", "bob", "eve"):
        journey.enable(user, "email_digest")

    journey.until("2026-11-24T09:30")

    scrape = scraped(journey)
    attempts = {
        (dict(labels)["status_class"], dict(labels)["decision"]): number
        for labels, number in scrape.all_of("tq_attempts_total").items()
    }
    assert attempts == {("2xx", "done"): 2, ("5xx", "retry"): 2, ("5xx", "dead"): 1}
    assert scrape.of("tq_attempt_duration_seconds_count", task="email_digest") == 5
    assert scrape.of("tq_attempt_duration_seconds_sum", task="email_digest") == pytest.approx(2 * 0.2 + 3 * 2)
    assert scrape.of("tq_attempt_duration_seconds_bucket", task="email_digest", le="0.25") == 2
    # Two came at the first attempt, and only then is a job late; Bob's success took as long as its backoff.
    assert scrape.of("tq_job_lateness_seconds_count", task="email_digest") == 3
    assert scrape.of("tq_job_delay_seconds_count", task="email_digest") == 2
    assert scrape.of("tq_job_delay_seconds_bucket", task="email_digest", le="1") == 1
    assert scrape.of("tq_job_delay_seconds_bucket", task="email_digest", le="15") == 2


def test_what_was_skipped_or_missed_is_counted_with_its_reason(begin: Begin) -> None:
    journey = begin(DAILY, HOURLY, at="2026-11-24T08:30")
    journey.enable("ada", "email_digest")
    journey.enable("ada", "sync")
    journey.pause("email_digest")
    journey.until("2026-11-24T09:01")

    paused = scraped(journey)
    journey.resume("email_digest")
    journey.sleep_until("2026-11-24T14:30")
    journey.tick()

    assert paused.of("tq_jobs_skipped_total", task="email_digest", reason="paused") == 1
    assert paused.of("tq_paused", scope="task", task="email_digest") == 1
    assert paused.of("tq_paused", scope="task", task="sync") == 0
    scrape = scraped(journey)
    assert scrape.of("tq_paused", scope="task", task="email_digest") == 0
    assert scrape.of("tq_jobs_skipped_total", task="sync", reason="missed") == 4
    assert scrape.of("tq_occurrences_missed_total", task="sync") == 0

    journey.sleep_until("2026-12-24T14:30")
    journey.tick()

    assert scraped(journey).of("tq_occurrences_missed_total", task="sync") > 0


def test_gauges_say_how_things_stand(begin: Begin) -> None:
    journey = begin(DAILY, HOURLY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    journey.enable("eve", "email_digest")
    journey.until("2026-11-24T09:00")
    Presence(journey.runtime.store.heartbeats, SCHEDULER).show()

    scrape = scraped(journey)

    assert scrape.of("tq_scheduler_last_tick_timestamp_seconds") == journey.clock.now().timestamp()
    assert scrape.of("tq_processes", component="scheduler") == 1
    assert scrape.of("tq_processes", component="worker") == 0
    assert scrape.of("tq_runs_running") == 1
    assert scrape.of("tq_jobs_open", task="email_digest") == 1
    assert scrape.of("tq_jobs_open", task="sync") == 0
    assert scrape.of("tq_agenda_size") == 1
    assert scrape.of("tq_jobs_unaccounted") == scrape.of("tq_runs_overdue") == 0
    assert (
        scrape.of("tq_ratelimit_limit", task="*") == scrape.of("tq_ratelimit_limit", task="sync") == 100_000
    )
    assert scrape.of("tq_breaker_open", task="email_digest") == 0
    assert scrape.of("tq_redis_used_memory_bytes") > 0
    assert scrape.of("tq_redis_memory_bytes", structure="runs") > 0

    journey.clock.advance(timedelta(minutes=3))

    later = scraped(journey)
    assert later.of("tq_processes", component="scheduler") == 0
    assert later.of("tq_agenda_lag_seconds") > 100


def test_jobs_that_do_not_add_up_are_told(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    journey.enable("ada", "email_digest")
    journey.until("2026-11-24T09:01")
    [run] = journey.runs()
    store = journey.runtime.store
    store.connection.call("HINCRBY", store.keys("run", run.id), "expected", 2)

    assert scraped(journey).of("tq_jobs_unaccounted") == 2


def test_a_scrape_has_every_metric_once_a_little_has_happened(begin: Begin) -> None:
    journey = begin(DAILY, HOURLY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    for user in ("ada", "bob", "eve"):
        journey.enable(user, "email_digest")
    journey.pause_user("ada")
    journey.until("2026-11-24T09:30")
    runtime = journey.runtime
    runtime.observations.time(WAIT, "email_digest", 0.1)
    runtime.store.connection.call("HINCRBY", runtime.store.keys("mended"), "messages", 1)

    scrape = scraped(journey)

    told = {family.name.removesuffix("_total") for family in FAMILIES}
    assert scrape.families.keys() == told
    for family in FAMILIES:
        found = scrape.families[family.name.removesuffix("_total")]
        assert found.type == family.kind
        assert found.documentation == family.help


def test_three_hundred_tasks_have_no_more_series_than_a_scraper_likes(begin: Begin) -> None:
    tasks = [make_task(f"task_{number:03}", interval=Interval.hourly()) for number in range(300)]
    journey = begin(*tasks, at="2026-11-24T08:00")
    store = journey.runtime.store
    totals: list[str] = []
    seen: dict[str, dict[str, list[float]]] = {}
    answers = [("2xx", "done"), ("3xx", "dead"), ("blocked", "dead"), ("executor", "done"), ("other", "dead")]
    for status in ("4xx", "429", "5xx", "timeout", "connection", "executor"):
        answers += [(status, "retry"), (status, "dead")]
    for task in tasks:
        for kind in ("schedule", "manual"):
            totals += [f"{task.id}|{kind}|{what}" for what in ("runs", "expected", "retries", *JobStatus)]
            totals += [
                f"{task.id}|{kind}|skipped:{why}" for why in ("overlap", "paused", "disabled", "missed")
            ]
        seen[task.id] = {f"{ATTEMPTS}|{status}|{decision}": [1.0] for status, decision in answers}
        for metric in (DURATION, LATENESS, DELAY, WAIT):
            seen[task.id][metric] = [1.0] * (len(BOUNDS[metric]) + 2)
    store.connection.call("HSET", store.keys("totals"), *[text for total in totals for text in (total, 1)])
    store.totals.add(seen)

    scrape = scraped(journey)

    assert 20_000 < len(scrape.samples) <= MOST_SERIES
    assert len(scrape.all_of("tq_jobs_open")) == 300


def test_what_could_not_be_brought_to_redis_is_brought_next_time(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30")
    runtime = journey.runtime
    runtime.observations.count("attempts|2xx|done", "email_digest")
    wrong = runtime.store.keys("seen")
    runtime.store.connection.call("SET", wrong, "in the way")

    with pytest.raises(StoreRefused, match="holds a key of another kind"):
        bring(runtime)
    runtime.store.connection.call("DEL", wrong)

    assert (
        scraped(journey).of("tq_attempts_total", task="email_digest", status_class="2xx", decision="done")
        == 1
    )


def test_tasks_that_are_declared_elsewhere_are_told_by_what_is_in_force(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30")
    journey.clock.advance(timedelta(seconds=1))
    journey.edit([DAILY, HOURLY])
    journey.tick()
    journey.edit([])

    scrape = scraped(journey)

    assert {dict(labels)["task"] for labels in scrape.all_of("tq_ratelimit_limit")} == {
        "*",
        "email_digest",
        "sync",
    }
    assert TaskId("sync") in {dict(labels)["task"] for labels in scrape.all_of("tq_jobs_open")}


def test_a_meter_reads_again_and_again(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    meter = Meter(journey.runtime)
    journey.enable("ada", "email_digest")
    before = scraped(journey, meter)
    journey.until("2026-11-24T09:01")

    after = scraped(journey, meter)

    assert not before.all_of("tq_jobs_total")
    assert after.of("tq_jobs_total", task="email_digest", trigger="schedule", outcome="success") == 1


@needs_promtool
def test_promtool_finds_nothing_to_say_of_a_scrape(begin: Begin) -> None:
    journey = begin(DAILY, at="2026-11-24T08:59:30", executor=FakeExecutor(answer))
    journey.enable("ada", "email_digest")
    journey.until("2026-11-24T09:01")

    checked = promtool("check", "metrics", told=scraped(journey).text)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
