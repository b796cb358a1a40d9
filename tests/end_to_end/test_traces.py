"""What a collector hears of a job's way through real processes."""

from collections.abc import Callable

import pytest

from tests.collector import Collector, Received
from tests.end_to_end.commands import BIN
from tests.end_to_end.conftest import PARAMETER_SECRET, SECRETS, System
from tests.end_to_end.test_main_job import enable
from tests.waiting import eventually
from tq.models import TaskId, UserId
from tq.store.preferences import Enable


@pytest.fixture
def traced(system: System, collector: Collector) -> System:
    """The system, each process of which tells the collector soon."""
    system.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    return system


def start_worker_of(system: System, name: str, *queues: str) -> None:
    system.start(name, [str(BIN / "dramatiq"), "actors", "-p", "1", "-t", "2", "-Q", *queues])


def arrived(collector: Collector, *names: str) -> Callable[[], bool]:
    return lambda: all(collector.named(name) for name in names)


def test_a_collector_sees_one_jobs_way_through_three_processes(traced: System, collector: Collector) -> None:
    runtime = traced.open_runtime()
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    enable(traced, "ada")
    traced.endpoint.answer = lambda call: 500 if call.attempt == "1" else 200
    start_worker_of(traced, "distributor", "control")
    start_worker_of(traced, "caller", "high", "normal", "low", "suspects")
    traced.start_scheduler()

    eventually(lambda: len(collector.named("POST")) >= 2)
    eventually(
        arrived(collector, "send control", "tick", "distribute digest", "send normal", "process normal")
    )
    eventually(lambda: len(collector.named("process normal")) >= 2)

    calls = sorted(
        collector.named("POST"), key=lambda span: span.attributes.get("http.request.resend_count", 0)
    )
    first, second = calls[:2]
    process = next(span for span in collector.named("process normal") if span.span_id == first.parent_id)
    again = next(span for span in collector.named("process normal") if span.span_id == second.parent_id)
    send = next(span for span in collector.named("send normal") if [span.ids] == process.links)
    distribution = next(s for s in collector.named("distribute digest") if s.span_id == send.parent_id)
    tick = next(span for span in collector.named("tick") if span.span_id == distribution.parent_id)
    scheduler = next(span for span in collector.named("send control") if [span.ids] == tick.links)

    # One trace for tick, distribution and send; one of its own for each attempt.
    assert tick.trace_id == distribution.trace_id == send.trace_id
    assert (tick.parent_id, process.parent_id, again.parent_id) == ("", "", "")
    assert len({scheduler.trace_id, tick.trace_id, process.trace_id, again.trace_id}) == 4
    assert first.trace_id == process.trace_id
    assert [span.kind for span in (scheduler, tick, distribution, send, process, first)] == [
        "PRODUCER",
        "INTERNAL",
        "INTERNAL",
        "PRODUCER",
        "CONSUMER",
        "CLIENT",
    ]
    assert again.links == [process.ids]
    conversations = {span.attributes["messaging.message.conversation_id"] for span in (process, again)}
    assert conversations == {traced.endpoint.seen[0].key.strip('"')}

    # Three processes, of one service.
    tellers = {span.resource["process.pid"] for span in (scheduler, tick, process)}
    assert len(tellers) == 3
    assert tick.resource["process.pid"] == send.resource["process.pid"]
    everywhere = {
        (s.resource["service.name"], s.resource["deployment.environment.name"]) for s in collector.spans
    }
    assert everywhere == {("taskqueue", "test")}

    assert send.attributes["messaging.system"] == "dramatiq"
    assert send.attributes["messaging.destination.name"] == "normal"
    assert send.attributes["messaging.batch.message_count"] == 1
    assert process.attributes["messaging.operation.type"] == "process"
    assert process.attributes["error.type"] == "HTTP_500"
    assert again.attributes["tq.outcome"] == "success"
    assert first.attributes["http.request.method"] == "POST"
    assert first.attributes["http.response.status_code"] == 500
    assert first.attributes["url.full"] == f"{traced.endpoint.url}/digest/ada"
    assert first.attributes["url.template"] == "/digest/{user_id}"
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1

    # The endpoint was told the span of each call.
    told = [seen.traceparent.split("-")[1:3] for seen in traced.endpoint.seen[:2]]
    assert [tuple(ids) for ids in told] == [first.ids, second.ids]

    # A worker's lines name their trace.
    assert f'"trace_id":"{process.trace_id}"' in traced.log_text()

    assert no_secret_in(collector.spans)
    runtime.close()


def no_secret_in(spans: list[Received]) -> bool:
    text = "".join(span.text for span in spans)
    return bool(text) and not any(secret in text for secret in (*SECRETS.values(), PARAMETER_SECRET))


def test_a_run_that_the_command_starts_is_told_of_before_the_command_ends(
    traced: System, collector: Collector
) -> None:
    traced.environment["OTEL_BSP_SCHEDULE_DELAY"] = "60000"
    runtime = traced.open_runtime()
    runtime.store.preferences.apply([Enable(UserId("ada"), TaskId("digest"))])
    traced.start_worker()

    answer = traced.run("trigger", "digest", "--user", "ada", "--wait")
    [asked] = collector.named("trigger digest")
    traced.stop()

    assert answer.returncode == 0, answer.stderr
    # The worker, too, delivers what it has when it is asked to end.
    [distribution] = [span for span in collector.named("distribute digest") if span.links]
    assert distribution.links == [asked.ids]
    assert arrived(collector, "send normal", "process normal", "POST")()
    runtime.close()


def test_a_scheduler_that_is_asked_to_end_delivers_what_it_has(traced: System, collector: Collector) -> None:
    traced.environment["OTEL_BSP_SCHEDULE_DELAY"] = "60000"
    runtime = traced.open_runtime()
    scheduler = traced.start_scheduler()
    eventually(lambda: bool(runtime.store.vitals.signs().processes), why=traced.log_text())

    scheduler.terminate()

    assert scheduler.wait(timeout=15) == 0
    assert len(collector.named("send control")) == 1
    runtime.close()


def test_a_collector_that_is_not_there_costs_no_job_and_delays_no_end(system: System) -> None:
    system.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    runtime = system.open_runtime()
    users = [UserId(f"user-{number}") for number in range(50)]
    runtime.store.preferences.apply([Enable(user, TaskId("digest")) for user in users])
    worker = system.start_worker()

    answer = system.run("trigger", "digest", "--wait")
    worker.terminate()
    worker.wait(timeout=15)

    assert answer.returncode == 0, answer.stderr
    assert len(system.endpoint.seen) == len(users)
    assert system.log_text().count("traces cannot be delivered") == 1
    runtime.close()
