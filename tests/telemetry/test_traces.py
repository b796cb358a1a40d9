"""When traces are made, what they cost when they are not, and what becomes of spans on their way out."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path

import orjson
import pytest
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler, TraceIdRatioBased

from tests.spans import kept_spans
from tests.waiting import eventually
from tq.redaction import register_secret
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.telemetry import configure_logs
from tq.telemetry.otel import Delivery, OpenTelemetry, span_context_of
from tq.telemetry.traces import NO_TRACES, are_wanted, open_traces
from tq.testing import make_envelope

COLLECTOR = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "ours", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{COLLECTOR}/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_traces_are_made_where_somebody_is_named_who_takes_them(
    variables: dict[str, str], wanted: bool
) -> None:
    assert are_wanted(variables) is wanted


def run_python(code: str, *, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a fresh process prints that has no variable of OpenTelemetry's but these."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "PYTHONPATH": root, "LOG_FORMAT": "json", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_worker_without_traces_does_not_even_load_what_makes_and_delivers_them(tmp_path: Path) -> None:
    # Redis' client loads OpenTelemetry's API and its metrics by itself.
    code = (
        "import sys, actors\n"
        "runtime = actors.runtime\n"
        "_ = runtime.traces, runtime.executors\n"
        "parts = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'opentelemetry.instrumentation', 'google', 'requests')\n"
        "print([name for name in sys.modules if name.startswith(parts)])\n"
        "print([type(each).__name__ for each in actors.broker.middleware])\n"
    )

    answer = run_python(code, folder=tmp_path)

    loaded, middleware = answer.stdout.splitlines()
    assert loaded == "[]"
    assert "Tracing" not in middleware


def resource_of(folder: Path, **variables: str) -> dict[str, object]:
    code = (
        "import orjson\n"
        "from tq.settings import load_settings\n"
        "from tq.telemetry.traces import open_traces, variables\n"
        "traces = open_traces(load_settings(), variables())\n"
        "print(orjson.dumps(dict(traces._provider.resource.attributes)).decode())\n"
    )
    answer = run_python(code, folder=folder, **variables)
    return dict(orjson.loads(answer.stdout))


def test_a_process_tells_as_taskqueue_unless_a_variable_says_otherwise(tmp_path: Path) -> None:
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}

    assert resource_of(tmp_path, **named)["service.name"] == "taskqueue"
    assert resource_of(tmp_path, **named, OTEL_SERVICE_NAME="ours")["service.name"] == "ours"
    told = resource_of(
        tmp_path, **named, OTEL_RESOURCE_ATTRIBUTES="service.name=theirs,deployment.environment.name=test"
    )
    assert (told["service.name"], told["deployment.environment.name"]) == ("theirs", "test")


def test_variables_of_opentelemetry_may_stand_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OTEL_EXPORTER_OTLP_ENDPOINT={COLLECTOR}\nOTEL_SERVICE_NAME=from-file\n")

    assert resource_of(tmp_path)["service.name"] == "from-file"


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "smoke-signals"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
    ],
)
def test_a_variable_that_has_no_meaning_turns_traces_off_and_is_told(
    settings: Settings,
    stream: StringIO,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    configure_logs(settings, stream=stream)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    traces = open_traces(settings, variables)

    assert traces is NO_TRACES
    assert "traces are off" in stream.getvalue()


def test_lines_written_within_a_recorded_span_name_it_and_others_do_not(
    settings: Settings, stream: StringIO
) -> None:
    configure_logs(settings, stream=stream)

    with kept_spans(settings) as spans:
        with spans.traces.step("outer"):
            logger.info("within")
        logger.info("after")
        [span] = spans.found

    within, after = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert span.context is not None
    assert within["trace_id"] == f"{span.context.trace_id:032x}"
    assert within["span_id"] == f"{span.context.span_id:016x}"
    assert "trace_id" not in after


def test_nothing_secret_leaves_in_a_span_whoever_has_made_it(settings: Settings) -> None:
    register_secret("word-taken-from-the-environment")

    with kept_spans(settings) as spans:
        tracer = spans.provider.get_tracer("a stranger's")
        span = tracer.start_span("GET https://ada:pass-4711@example.com/?key=key-0815")
        span.set_attribute("http.url", "https://ada:pass-4711@example.com/a?key=key-0815")
        span.set_attribute("http.request.header.authorization", ["Bearer bearer-1337"])
        span.add_event("word-taken-from-the-environment", {"password": "password=pass-4711"})
        span.record_exception(ValueError("no luck with token=token-2342"))
        span.end()

        told = spans.text

    assert "example.com" in told
    planted = ("pass-4711", "key-0815", "bearer-1337", "token-2342", "word-taken-from-the-environment")
    assert [secret for secret in planted if secret in told] == []


@pytest.mark.parametrize("sampler", [TraceIdRatioBased(0.25), ParentBasedTraceIdRatio(0.25)])
def test_of_all_jobs_that_part_is_sampled_that_was_asked_for(settings: Settings, sampler: Sampler) -> None:
    with kept_spans(settings, sampler) as spans:
        for number in range(2000):
            work = spans.traces.begin_job(make_envelope(f"user-{number}"), queue="normal", message_id="any")
            work.end()
        found = spans.found

    # A standard deviation is 19.
    assert 400 < len(found) < 600
    ids = {span.context.trace_id for span in found if span.context is not None}
    assert len(ids) == len(found)
    assert all(trace_id & (2**64 - 1) < 2**62 for trace_id in ids)


def test_what_the_work_of_a_job_causes_that_is_not_sampled_is_not_sampled(settings: Settings) -> None:
    with kept_spans(settings, ParentBasedTraceIdRatio(0.0)) as spans:
        work = spans.traces.begin_job(make_envelope("ada"), queue="normal", message_id="any")
        child = spans.provider.get_tracer("own").start_span("render")
        own, inner = trace.get_current_span().get_span_context(), child.get_span_context()
        work.end()

    assert not child.is_recording()
    assert inner.trace_id == own.trace_id


def test_each_job_that_is_not_sampled_has_a_trace_of_its_own_whatever_other_threads_are_at(
    settings: Settings,
) -> None:
    all_begun = threading.Barrier(4, timeout=30)
    named: list[set[int]] = []

    def work_on(user: str) -> None:
        for _ in range(3):
            work = spans.traces.begin_job(make_envelope(user), queue="normal", message_id="any")
            all_begun.wait()
            named.append({trace.get_current_span().get_span_context().trace_id for _ in range(2)})
            work.end()
            named.append({trace.get_current_span().get_span_context().trace_id})

    with kept_spans(settings, ParentBasedTraceIdRatio(0.0)) as spans:
        threads = [threading.Thread(target=work_on, args=(f"user-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    within = [ids for ids in named if ids != {trace.INVALID_TRACE_ID}]
    assert [len(ids) for ids in within] == [1] * 12
    assert len(set.union(*within)) == 12
    assert len(named) == 24


def test_only_what_names_a_span_is_taken_for_one() -> None:
    sender = span_context_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

    assert sender is not None
    assert (sender.trace_id, sender.span_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    for text in ("", "00", "00-xyz-b7ad6b7169203331-01", f"00-{'0' * 32}-{'0' * 16}-01", "a-b-c-d-e"):
        assert span_context_of(text) is None


class Collector(SpanExporter):
    """Takes spans, or does not."""

    def __init__(self) -> None:
        self.takes = True
        self.taken: list[ReadableSpan] = []
        self.calls = 0
        self.free = threading.Event()
        self.free.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        self.free.wait(timeout=30)
        if not self.takes:
            logging.getLogger(__name__).error("Failed to export: %s", "https://ada:pass-4711@nowhere/")
            return SpanExportResult.FAILURE
        self.taken += spans
        return SpanExportResult.SUCCESS


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes all."""
    made = Collector()
    yield made
    made.free.set()
    source = logging.getLogger(__name__)
    source.handlers, source.propagate = [], True


Make = Callable[[int], None]


def delivering(delivery: Delivery) -> Make:
    """Makes so many spans that are delivered that way."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(delivery)
    tracer = provider.get_tracer("test")

    def make(spans: int) -> None:
        for _ in range(spans):
            tracer.start_span("some work").end()

    return make


def test_spans_that_find_no_room_are_dropped_and_counted_and_hold_nobody_up(
    settings: Settings, stream: StringIO, collector: Collector
) -> None:
    configure_logs(settings, stream=stream)
    collector.free.clear()
    delivery = Delivery(collector, max_queue_size=8, max_export_batch_size=4, schedule_delay_millis=10)
    make = delivering(delivery)
    make(4)
    eventually(lambda: collector.calls == 1)

    began = time.monotonic()
    make(1000)

    assert time.monotonic() - began < 5
    assert delivery.dropped == 1000 - 8
    collector.free.set()
    eventually(lambda: len(collector.taken) == 12)
    delivery.shutdown()
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == [
        "traces cannot be delivered; spans are dropped until they can",
        "traces are delivered again",
    ]
    assert lines[1]["dropped_spans"] == 992


def test_a_collector_that_is_away_is_told_of_once_and_its_return_once(
    settings: Settings, stream: StringIO, collector: Collector
) -> None:
    configure_logs(settings, stream=stream)
    collector.takes = False
    delivery = Delivery(collector, schedule_delay_millis=60_000)
    make = delivering(delivery)

    for _ in range(3):
        make(2)
        delivery.force_flush()
    collector.takes = True
    make(1)
    delivery.force_flush()

    assert (delivery.dropped, len(collector.taken)) == (6, 1)
    away, back = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert away["reason"] == "Failed to export: https://ada:***@nowhere/"
    assert back["dropped_spans"] == 6
    delivery.shutdown()


def test_a_process_that_ends_does_not_wait_for_a_collector_that_hangs_and_tells_what_is_lost(
    settings: Settings, stream: StringIO, collector: Collector
) -> None:
    configure_logs(settings, stream=stream)
    delivery = Delivery(collector, max_export_batch_size=2, schedule_delay_millis=60_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(delivery)
    traces = OpenTelemetry(provider, settings, [delivery])
    collector.free.clear()
    for _ in range(3):
        with traces.step("last"):
            pass

    began = time.monotonic()
    traces.close(within_s=0.2)

    assert time.monotonic() - began < 5
    assert collector.taken == []
    away, lost = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert away["reason"] == "the process ends before they have arrived"
    assert lost["dropped_spans"] == 3
    collector.free.set()


def told_by(libraries: str, code: str, folder: Path) -> list[dict[str, object]]:
    """The spans that a fresh process tells which traces these libraries."""
    head = (
        "import sys\n"
        "from tq.settings import load_settings\n"
        "from tq.telemetry.traces import open_traces, variables\n"
        "traces = open_traces(load_settings(), variables())\n"
    )
    answer = run_python(
        head + code + "\ntraces.close(within_s=10)\n",
        folder=folder,
        OTEL_TRACES_EXPORTER="console",
        TQ_TRACE_LIBRARIES=libraries,
    )
    assert answer.returncode == 0, answer.stderr
    decoder, text, found = json.JSONDecoder(), answer.stdout.strip(), []
    while text:
        span, end = decoder.raw_decode(text)
        found.append(span)
        text = text[end:].strip()
    return found


@pytest.mark.parametrize(("libraries", "names"), [("", []), ("redis", ["SET"])])
def test_redis_commands_are_told_only_if_asked_for_and_without_their_values(
    tmp_path: Path, redis_server: RedisServer, libraries: str, names: list[str]
) -> None:
    code = f"import redis; redis.Redis.from_url({redis_server.url!r}).set('some-key', 'value-planted-4711', ex=9)"

    spans = told_by(libraries, code, tmp_path)

    assert [span["name"] for span in spans] == names
    assert "value-planted-4711" not in str(spans)


@pytest.mark.parametrize("libraries", ["", "httpx"])
def test_a_tasks_call_is_told_once_also_where_httpx_tells_of_its_own(tmp_path: Path, libraries: str) -> None:
    code = (
        "sys.modules['pycurl'] = None\n"
        "from tests.executors import Endpoint, make_job\n"
        "from tq.executors.http import HttpExecutor\n"
        "from tq.testing import make_envelope\n"
        "import httpx\n"
        "endpoint = Endpoint()\n"
        "work = traces.begin_job(make_envelope('ada'), queue='normal', message_id='job_1-1')\n"
        "HttpExecutor(allow_private=True, traces=traces).execute(make_job(endpoint.url))\n"
        "httpx.get(endpoint.url + '/?key=key-planted-4711')\n"
        "work.end()\n"
        "assert 'traceparent' in endpoint.requests[0].headers\n"
        "assert ('traceparent' in endpoint.requests[1].headers) is bool(traces._libraries)\n"
    )

    spans = told_by(libraries, code, tmp_path)

    own = ["GET"] if libraries else []
    assert [span["name"] for span in spans] == ["POST", *own, "process normal"]
    assert "planted" not in str(spans)


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
@pytest.mark.parametrize(
    ("propagators", "told"),
    [("", ["traceparent"]), ("none", []), ("tracecontext", ["traceparent"]), ("baggage", [])],
)
def test_an_endpoint_is_told_of_the_trace_as_the_variable_says(
    tmp_path: Path, sampler: str, propagators: str, told: list[str]
) -> None:
    code = (
        "from tests.executors import Endpoint, make_job\n"
        "from tq.executors.http import HttpExecutor\n"
        "from tq.settings import load_settings\n"
        "from tq.telemetry.traces import open_traces, variables\n"
        "from tq.testing import make_envelope\n"
        "traces = open_traces(load_settings(), variables())\n"
        "endpoint = Endpoint()\n"
        "work = traces.begin_job(make_envelope('ada'), queue='normal', message_id='job_1-1')\n"
        "HttpExecutor(allow_private=True, traces=traces).execute(make_job(endpoint.url))\n"
        "work.end()\n"
        "known = ('traceparent', 'tracestate', 'baggage', 'b3')\n"
        "print([name for name in known if name in endpoint.requests[0].headers])\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    chosen = {"OTEL_PROPAGATORS": propagators} if propagators else {}

    answer = run_python(
        "import os, sys\n" + code,
        folder=tmp_path,
        OTEL_TRACES_EXPORTER="console",
        OTEL_TRACES_SAMPLER=sampler,
        **chosen,
    )

    assert answer.stdout.splitlines()[0] == str(told)
