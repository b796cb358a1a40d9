"""Which spans a message's work leaves, whatever becomes of it."""

from collections.abc import Iterator
from datetime import timedelta

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import SkipMessage
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from actors.transport import make_transport
from middleware.rate_limit import LAST_WAIT_S, RateLimit
from middleware.tracing import Tracing
from tests.spans import Spans, ids_of, kept_spans, links_of, parent_of
from tq.errors import NotHeld, NotNow, StoreUnavailable
from tq.limits import EVERY_TASK
from tq.runtime import Runtime
from tq.settings import Settings
from tq.telemetry.traces import SAME_TRACE, TRACEPARENT
from tq.testing import make_envelope

BROKER = StubBroker(middleware=[])


@pytest.fixture
def spans(settings: Settings) -> Iterator[Spans]:
    """Traces of which all is recorded."""
    with kept_spans(settings) as kept:
        yield kept


@pytest.fixture
def runtime(settings: Settings, spans: Spans) -> Iterator[Runtime]:
    """A runtime that tells them its work."""
    settings.tasks_file.write_text("tasks: []")
    made = Runtime(settings, make_transport(settings), traces=spans.traces)
    yield made
    made.close()


def job_message() -> MessageProxy:
    return MessageProxy(dramatiq.Message("normal", "execute", (make_envelope("ada"),), {}, {}))


def control_message(**options: object) -> dramatiq.Message[None]:
    return dramatiq.Message("control", "tick", (), {}, dict(options))


def test_a_job_that_finds_no_slot_is_put_off_and_its_wait_is_a_span_of_its_own(
    runtime: Runtime, spans: Spans
) -> None:
    tracing, gate, message = Tracing(runtime), RateLimit(runtime), job_message()
    runtime.limiter.on_wait = spans.traces.waited
    runtime.limiter.start(1)
    runtime.store.orders.pause(EVERY_TASK, reason="a test", by="ada")

    tracing.before_process_message(BROKER, message)
    with pytest.raises(SkipMessage):
        gate.before_process_message(BROKER, message)
    tracing.after_skip_message(BROKER, message)
    runtime.limiter.stop()

    wait, work = spans.found
    assert (wait.name, parent_of(wait)) == ("ratelimit.wait", ids_of(work))
    assert wait.end_time is not None
    assert wait.start_time is not None
    assert wait.end_time - wait.start_time >= LAST_WAIT_S * 1e9
    assert dict(work.attributes or {})["tq.outcome"] == "put_off"
    assert work.status.status_code is StatusCode.UNSET


def test_a_job_that_need_not_wait_has_no_wait(runtime: Runtime, spans: Spans) -> None:
    tracing, gate, message = Tracing(runtime), RateLimit(runtime), job_message()
    runtime.limiter.on_wait = spans.traces.waited

    tracing.before_process_message(BROKER, message)
    gate.before_process_message(BROKER, message)
    spans.traces.waited(0.0)
    tracing.after_process_message(BROKER, message)

    assert [span.name for span in spans.found] == ["process normal"]


@pytest.mark.parametrize("expected", [NotHeld(), NotNow(timedelta(seconds=1))])
def test_what_is_no_failure_is_told_as_none(runtime: Runtime, spans: Spans, expected: BaseException) -> None:
    tracing, message = Tracing(runtime), job_message()

    tracing.before_process_message(BROKER, message)
    tracing.after_process_message(BROKER, message, exception=expected)

    work = spans.one("process normal")
    assert work.status.status_code is StatusCode.UNSET
    assert dict(work.attributes or {})["tq.outcome"] == "put_off"


def test_a_failure_of_our_own_is_told_without_secrets(runtime: Runtime, spans: Spans) -> None:
    tracing, message = Tracing(runtime), job_message()

    tracing.before_process_message(BROKER, message)
    error = StoreUnavailable("Redis at redis://ada:pass-planted-4711@nowhere is away")
    tracing.after_process_message(BROKER, message, exception=error)

    work = spans.one("process normal")
    assert dict(work.attributes or {})["error.type"] == "StoreUnavailable"
    assert work.status.status_code is StatusCode.ERROR
    assert work.status.description == "Redis at redis://ada:***@nowhere is away"


def test_after_its_work_a_thread_is_in_no_span(runtime: Runtime, spans: Spans) -> None:
    tracing, message = Tracing(runtime), job_message()

    tracing.before_process_message(BROKER, message)
    within = spans.traces.traceparent
    tracing.after_process_message(BROKER, message)

    assert within
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_tick_links_to_the_scheduler_that_sent_it(runtime: Runtime, spans: Spans) -> None:
    tracing = Tracing(runtime)
    message = control_message(scheduled_at="2026-11-24T09:00:00Z")

    tracing.before_enqueue(BROKER, message, None)
    tracing.after_enqueue(BROKER, message, None)
    arrived = MessageProxy(message)
    tracing.before_process_message(BROKER, arrived)
    tracing.after_process_message(BROKER, arrived)

    send, tick = spans.found
    assert (send.name, send.kind) == ("send control", SpanKind.PRODUCER)
    assert links_of(tick) == [ids_of(send)]
    assert parent_of(tick) is None


def test_what_a_tick_sends_is_told_to_be_part_of_its_trace_and_what_nothing_caused_is_not_marked(
    runtime: Runtime, spans: Spans
) -> None:
    tracing, tick = Tracing(runtime), MessageProxy(control_message())
    by_hand, by_tick = control_message(), control_message()
    tracing.before_enqueue(BROKER, by_hand, None)
    tracing.after_enqueue(BROKER, by_hand, None)

    tracing.before_process_message(BROKER, tick)
    mark = spans.traces.traceparent
    tracing.before_enqueue(BROKER, by_tick, None)
    tracing.after_enqueue(BROKER, by_tick, None)
    tracing.after_process_message(BROKER, tick)

    assert by_hand.options == {}
    assert by_tick.options == {TRACEPARENT: mark, SAME_TRACE: True}


def test_a_jobs_message_is_left_as_it_is_whoever_puts_it_into_its_queue(
    runtime: Runtime, spans: Spans
) -> None:
    tracing = Tracing(runtime)
    message: dramatiq.Message[None] = dramatiq.Message("normal", "execute", (make_envelope("ada"),), {}, {})

    with spans.traces.step("any"):
        tracing.before_enqueue(BROKER, message, None)
        tracing.after_enqueue(BROKER, message, None)

    assert message.options == {}
