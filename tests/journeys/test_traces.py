"""Which spans a run leaves, and how they hang together."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from actors.encoding import MessageEncoder
from tests.journeys.conftest import Begin
from tests.spans import Spans, ids_of, kept_spans, links_of, parent_of
from tq.models import ExecutionResult, Interval, Job, TaskType
from tq.settings import Settings
from tq.telemetry.traces import TRACEPARENT
from tq.testing import FakeExecutor, Journey, make_task

BROKEN = ExecutionResult.retry("HTTP_500", "endpoint answered 500")
DAILY = make_task(interval=Interval.daily(at="09:00"), window=0)
Trace = Callable[..., tuple[Journey, Spans]]


@pytest.fixture
def traced(begin: Begin, settings: Settings) -> Iterator[Trace]:
    """Begins a journey whose spans are kept."""
    opened = []

    def _begin(*tasks: TaskType, sampler: Sampler = ALWAYS_ON, **options: Any) -> tuple[Journey, Spans]:
        keeping = kept_spans(settings, sampler)
        spans = keeping.__enter__()
        opened.append(keeping)
        return begin(*tasks, traces=spans.traces, **options), spans

    yield _begin
    for keeping in opened:
        keeping.__exit__(None, None, None)


def test_a_tick_and_the_distribution_that_it_sends_are_one_trace_and_a_jobs_work_is_another(
    traced: Trace,
) -> None:
    journey, spans = traced(DAILY, at="2026-11-24T08:59:30")
    journey.enable("zoe", "email_digest")

    journey.until("2026-11-24T09:00:10")

    tick = spans.named("tick")[-1]
    distribution = spans.named("distribute email_digest")[0]
    send, process = spans.one("send normal"), spans.one("process normal")
    assert (tick.kind, distribution.kind) == (SpanKind.INTERNAL, SpanKind.INTERNAL)
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent_of(tick) is None
    assert parent_of(distribution) == ids_of(tick)
    assert parent_of(send) == ids_of(distribution)
    assert parent_of(process) is None
    assert ids_of(process)[0] != ids_of(send)[0]
    assert links_of(process) == [ids_of(send)]


def test_spans_of_messages_tell_what_the_conventions_ask_for(traced: Trace) -> None:
    journey, spans = traced(DAILY, at="2026-11-24T08:59:30")
    for user in ("zoe", "bob"):
        journey.enable(user, "email_digest")

    journey.until("2026-11-24T09:00:10")

    [run] = journey.runs()
    send = dict(spans.one("send normal").attributes or {})
    assert send["messaging.system"] == "dramatiq"
    assert send["messaging.operation.name"] == send["messaging.operation.type"] == "send"
    assert send["messaging.destination.name"] == "normal"
    assert send["messaging.batch.message_count"] == 2
    jobs = {str(job.user_id): job for job in journey.executor.jobs}
    works = {
        dict(span.attributes or {})["messaging.message.conversation_id"]: dict(span.attributes or {})
        for span in spans.named("process normal")
    }
    work = works[jobs["zoe"].id]
    assert works.keys() == {job.id for job in jobs.values()}
    assert work["messaging.operation.type"] == "process"
    assert work["messaging.message.id"] == f"{jobs['zoe'].id}-1"
    assert work["tq.task.name"] == "email_digest"
    assert work["tq.run.id"] == run.id
    assert work["tq.occurrence.nominal_time"] == "2026-11-24T09:00:00Z"
    assert (work["tq.attempt"], work["tq.trigger"], work["tq.outcome"]) == (1, "schedule", "success")
    assert "error.type" not in work
    assert "zoe" not in spans.text


def test_the_attempts_at_a_job_are_joined_by_its_id_and_each_links_to_the_one_before(traced: Trace) -> None:
    executor = FakeExecutor(lambda job: BROKEN if job.attempt == 1 else ExecutionResult.success())
    journey, spans = traced(DAILY, at="2026-11-24T08:59:30", executor=executor)
    journey.enable("zoe", "email_digest")

    journey.until("2026-11-24T09:02")

    first, second = spans.named("process normal")
    told = [dict(span.attributes or {}) for span in (first, second)]
    assert {each["messaging.message.conversation_id"] for each in told} == {executor.jobs[0].id}
    assert [each["tq.attempt"] for each in told] == [1, 2]
    assert (told[0]["error.type"], first.status.status_code) == ("HTTP_500", StatusCode.ERROR)
    assert first.status.description == "endpoint answered 500"
    assert second.status.status_code is StatusCode.UNSET
    assert links_of(second) == [ids_of(first)]


def test_later_distributions_of_a_run_are_traces_of_their_own_that_link_to_its_claim(traced: Trace) -> None:
    task = make_task(interval=Interval.daily(at="09:00"), window="1m")
    journey, spans = traced(task, at="2026-11-24T08:59:30")
    for number in range(20):
        journey.enable(f"user-{number}", "email_digest")

    journey.until("2026-11-24T09:01:10")

    first, *later = spans.named("distribute email_digest")
    assert later
    assert {parent_of(span) for span in later} == {None}
    assert {tuple(links_of(span)) for span in later} == {(parent_of(first),)}


def test_a_run_that_was_asked_for_links_to_who_asked(traced: Trace) -> None:
    journey, spans = traced(DAILY, at="2026-11-24T08:00")
    journey.enable("zoe", "email_digest")

    journey.trigger("email_digest")

    asked, distribution = spans.one("trigger email_digest"), spans.one("distribute email_digest")
    assert links_of(distribution) == [ids_of(asked)]
    assert links_of(spans.one("process normal")) == [ids_of(spans.one("send normal"))]


def test_a_send_without_jobs_is_no_send(traced: Trace) -> None:
    journey, spans = traced(DAILY, at="2026-11-24T08:00")
    journey.enable("zoe", "email_digest")
    journey.disable("zoe", "email_digest")
    journey.enable("bob", "email_digest")
    journey.pause_user("bob", "email_digest")

    journey.until("2026-11-24T09:01")

    sent = [
        dict(span.attributes or {})["messaging.batch.message_count"] for span in spans.named("send normal")
    ]
    assert sent == [0]  # bob's, who is paused: that is known only when it is tried


def test_what_a_tasks_own_code_tells_is_part_of_the_jobs_trace(traced: Trace) -> None:
    def carry_out(_job: Job) -> ExecutionResult:
        with spans.provider.get_tracer("own").start_as_current_span("render"):
            return ExecutionResult.success()

    journey, spans = traced(DAILY, at="2026-11-24T08:59:30", executor=FakeExecutor(carry_out))
    journey.enable("zoe", "email_digest")

    journey.until("2026-11-24T09:00:10")

    assert parent_of(spans.one("render")) == ids_of(spans.one("process normal"))


def test_jobs_whose_send_is_not_recorded_travel_as_without_traces(
    traced: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey, spans = traced(DAILY, at="2026-11-24T08:59:30", sampler=ParentBased(ALWAYS_OFF))
    journey.enable("zoe", "email_digest")
    bodies: list[bytes] = []
    decode = MessageEncoder.decode

    def seen(self: MessageEncoder, data: bytes) -> dict[str, Any]:
        bodies.append(data)
        return decode(self, data)

    monkeypatch.setattr(MessageEncoder, "decode", seen)

    journey.until("2026-11-24T09:00:10")

    assert journey.executor.users == ["zoe"]
    assert spans.found == []
    assert bodies
    assert [body for body in bodies if TRACEPARENT.encode() in body] == []


def test_what_an_executor_raises_is_told_without_its_secrets(traced: Trace) -> None:
    def carry_out(_job: Job) -> ExecutionResult:
        raise RuntimeError("no login with password=word-planted-4711")

    task = make_task(interval=Interval.daily(at="09:00"), window=0, retries=0)
    journey, spans = traced(task, at="2026-11-24T08:59:30", executor=FakeExecutor(carry_out))
    journey.enable("zoe", "email_digest")

    journey.until("2026-11-24T09:00:10")

    process = spans.one("process normal")
    assert dict(process.attributes or {})["error.type"] == "EXECUTOR_ERROR"
    assert process.status.description == "RuntimeError: no login with password=***"
    assert "word-planted-4711" not in spans.text


def test_a_job_that_may_not_be_carried_out_says_why(traced: Trace) -> None:
    task = make_task(interval=Interval.daily(at="09:00"), window=0, retries=0)
    journey, spans = traced(task, at="2026-11-24T08:59:30")
    journey.enable("zoe", "email_digest")
    journey.until("2026-11-24T09:00:10")

    journey.deliver_again()

    verdicts = [dict(span.attributes or {}).get("tq.verdict") for span in spans.named("process normal")]
    assert verdicts == [None, "ended"]
