"""Traces as OpenTelemetry makes them: spans by its conventions, without secrets, delivered by the way.

Loaded only where traces are wanted. A job that is not sampled costs the decision and a header: nothing is
found out about it. A collector that is slow or dead holds nobody up: what has no room is dropped and counted.

Nothing secret is told, and what strangers' code or an instrumented library tells goes through the same net
as log lines on its way out.
"""

import atexit
import contextlib
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from typing import Any
from urllib.parse import urlsplit

import httpx
from loguru import logger
from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tq.clock import iso
from tq.models import Batch, Envelope, ErrorDetail, ExecutionResult, Job
from tq.outcomes import ErrorCode
from tq.ready_http import put_line
from tq.redaction import redact
from tq.settings import Settings
from tq.telemetry.logs import set_trace
from tq.telemetry.traces import LAST_DELIVERY_S, NoWork, Work

SERVICE = "taskqueue"
SYSTEM = "dramatiq"
# What was slept through in less time than this was no wait.
LEAST_WAIT_S = 0.001
MOST_WAITING = 2048  # the standard's own, where OTEL_BSP_MAX_QUEUE_SIZE says nothing

W3C = {"tracecontext", "baggage"}  # what OTEL_PROPAGATORS is when it is not set

_LOWER_HALF = TraceIdRatioBased.TRACE_ID_LIMIT  # of a trace's id, by which a part of all is chosen
_ALONE = Context()  # in which a span has no parent
_Attributes = Mapping[str, Any]


def open_provider(settings: Settings) -> "OpenTelemetry":
    """The traces that OpenTelemetry's variables ask for.

    Raises:
        LookupError, ValueError: if one of them has no meaning here.
        ImportError: if a package that it asks for is not there.
    """
    resource = resource_of({"service.instance.id": str(uuid.uuid4()), "process.pid": os.getpid()})
    provider = TracerProvider(resource=resource, id_generator=TraceIds(), shutdown_on_exit=False)
    deliveries = [Delivery(exporter) for exporter in exporters_of("TRACES")]
    for delivery in deliveries:
        provider.add_span_processor(delivery)
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # What a task's own code tells belongs to the same traces. Who has a provider already keeps it.
        trace.set_tracer_provider(provider)
    made = OpenTelemetry(provider, settings, deliveries)
    made.instrument(settings.trace_libraries)
    # Forked processes do not come by here; their middleware closes.
    atexit.register(made.close, within_s=LAST_DELIVERY_S)
    return made


class OpenTelemetry:
    """The traces of one process. Any thread may use them."""

    is_on = True

    def __init__(
        self, provider: TracerProvider, settings: Settings, deliveries: Sequence["Delivery"] = ()
    ) -> None:
        self._provider = provider
        self._deliveries = deliveries
        self._tracer = provider.get_tracer("taskqueue", version("taskqueue"))
        self._server = _server_of(settings.redis_url)
        self._libraries: Sequence[str] = ()
        self._is_closed = False
        self._ids, self._bound = provider.id_generator, _bound_of(provider.sampler)
        self._unsampled = Unsampled()
        self._in_unsampled = trace.set_span_in_context(self._unsampled, _ALONE)
        # For calls that are not sampled this is said a hundred times as often as anything else here.
        self._names_by_w3c = set(_names("OTEL_PROPAGATORS") or W3C) == W3C
        set_trace(_trace_ids)

    def instrument(self, libraries: Sequence[str]) -> None:
        """Has libraries tell what they do, too."""
        self._libraries = libraries
        if "redis" in libraries:
            from opentelemetry.instrumentation.redis import RedisInstrumentor

            RedisInstrumentor().instrument(tracer_provider=self._provider)
        if "httpx" in libraries:
            from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

            HTTPXClientInstrumentor().instrument(tracer_provider=self._provider)

    @property
    def traceparent(self) -> str:
        """The recorded span in which this thread is."""
        return traceparent_of(trace.get_current_span())

    def begin_step(
        self, name: str, *, cause: str = "", same_trace: bool = False, kind: SpanKind = SpanKind.INTERNAL
    ) -> "SpanOfWork":
        """A step of the system's own begins, in the trace of what caused it, or linked to it."""
        caused_by = span_context_of(cause)
        parent = _ALONE
        links: Sequence[Link] = ()
        if caused_by is not None and same_trace:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(caused_by), _ALONE)
        elif caused_by is not None:
            links = [Link(caused_by)]
        return SpanOfWork(self._tracer.start_span(name, context=parent, kind=kind, links=links))

    def begin_send(self, queue: str) -> "SpanOfWork":
        """A single message is sent that nothing here has caused."""
        work = self.begin_step(f"send {queue}", kind=SpanKind.PRODUCER)
        work.tell({**self._server, **_messaging("send", queue), "messaging.batch.message_count": 1})
        return work

    def begin_job(self, envelope: Envelope, *, queue: str, message_id: str) -> Work:
        """The work on a job's message begins, linked to what sent it; what it causes in turn links to this."""
        # The decision needs no attributes: whoever is not sampled is asked nothing. Where it is made by the trace's
        # id alone it is made here, since the SDK's way to it costs several times as much.
        if self._bound is not None and isinstance(self._ids, TraceIds):
            trace_id = random.getrandbits(128)
            if trace_id & _LOWER_HALF >= self._bound:
                self._unsampled.begin(trace_id)
                return UnsampledWork(self._in_unsampled)
            self._ids.use(trace_id)
        span = self._tracer.start_span(f"process {queue}", context=_ALONE, kind=SpanKind.CONSUMER)
        if span.is_recording():
            span.set_attributes(
                {
                    **self._server,
                    **_messaging("process", queue),
                    "messaging.message.id": message_id,
                    "messaging.message.conversation_id": envelope.job_id,
                    "tq.task.name": envelope.task_id,
                    "tq.run.id": envelope.run_id,
                    "tq.occurrence.nominal_time": iso(envelope.scheduled_at),
                    "tq.occurrence.effective_time": iso(envelope.execute_after),
                    "tq.trigger": envelope.kind.value,
                    "tq.attempt": envelope.attempt,
                }
            )
            if envelope.holder:
                span.set_attribute("messaging.client.id", envelope.holder)
            sender = span_context_of(envelope.cause)
            if sender is not None:
                span.add_link(sender)
            envelope.cause = traceparent_of(span)
        return SpanOfWork(span)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step of the system's own, from begin to end."""
        with _ending(SpanOfWork(self._tracer.start_span(name))):
            yield

    @contextmanager
    def sending(self, queue: str, batches: Sequence[Batch]) -> Iterator[Callable[[int], None]]:
        """Jobs are sent, and their messages will say by whom; is told how many they were in the end."""
        jobs = sum(len(batch.user_ids) for batch in batches)
        if not jobs:
            yield lambda _jobs: None
            return
        span = self._tracer.start_span(f"send {queue}", kind=SpanKind.PRODUCER)

        def told(sent: int) -> None:
            span.set_attribute("messaging.batch.message_count", sent)

        if span.is_recording():
            span.set_attributes({**self._server, **_messaging("send", queue)})
            told(jobs)
            mark = traceparent_of(span)
            for batch in batches:
                batch.pattern.cause = mark
        with _ending(SpanOfWork(span)):
            yield told

    def call(
        self, job: Job, request: httpx.Request, exchange: Callable[[], ExecutionResult]
    ) -> ExecutionResult:
        """What the exchange gives; the request names its span."""
        job_span = trace.get_current_span()
        if not job_span.is_recording():
            if self._names_by_w3c and job_span is self._unsampled:
                put_line(request.headers, b"traceparent", self._unsampled.traceparent.encode())
            else:
                propagate.inject(request.headers)
            return self._unseen(exchange)
        span = self._tracer.start_span(
            request.method, kind=SpanKind.CLIENT, attributes=_of_request(job, request)
        )
        with _ending(SpanOfWork(span)):
            propagate.inject(request.headers)
            result = self._unseen(exchange)
            if result.http_status is not None:
                span.set_attribute("http.response.status_code", result.http_status)
            if result.error is not None:
                _note_failure(span, _error_type(result.error, result.http_status), result.error.message)
            return result

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Notes what has become known of the step in which this thread is."""
        trace.get_current_span().set_attributes(attributes)

    def waited(self, seconds: float) -> None:
        """This thread has waited so long for the limiter, up to now."""
        if seconds < LEAST_WAIT_S or not trace.get_current_span().is_recording():
            return
        now = time.time_ns()
        self._tracer.start_span("ratelimit.wait", start_time=now - int(seconds * 1e9)).end(now)

    def close(self, *, within_s: float) -> None:
        """Delivers what there is, as far as it takes no longer."""
        if self._is_closed:
            return
        self._is_closed = True
        set_trace(None)
        # The SDK waits for as long as it takes.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            for delivery in self._deliveries:
                delivery.give_up()

    def _unseen(self, exchange: Callable[[], ExecutionResult]) -> ExecutionResult:
        """What the exchange gives; an instrumented library does not tell of it once more."""
        if "httpx" not in self._libraries:
            return exchange()
        with suppress_http_instrumentation():
            return exchange()


class TraceIds(RandomIdGenerator):
    """Random, but for a trace about which there is a decision already."""

    def __init__(self) -> None:
        self._own = threading.local()

    def use(self, trace_id: int) -> None:
        """Has this thread's next trace be that one."""
        self._own.decided = trace_id

    def generate_trace_id(self) -> int:
        """The id of this thread's next trace."""
        decided: int = getattr(self._own, "decided", 0)
        self._own.decided = 0
        return decided or super().generate_trace_id()


class Unsampled(trace.NonRecordingSpan):
    """The span of any job that is not sampled: what its work causes is not sampled either.

    One for all of them, since nearly all jobs have it; its trace is that of the job which its thread is at.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def begin(self, trace_id: int) -> None:
        """This thread is at a job of that trace from now on."""
        self._own.trace_id = trace_id

    @property
    def traceparent(self) -> str:
        """The text that names it."""
        return f"00-{self._trace_id:032x}-{random.getrandbits(64) or 1:016x}-00"

    def get_span_context(self) -> SpanContext:
        """What names it."""
        return SpanContext(self._trace_id, random.getrandbits(64) or 1, is_remote=False)

    @property
    def _trace_id(self) -> int:
        # A thread that a task's own code has started is at none; what is done there is not sampled either.
        trace_id: int = getattr(self._own, "trace_id", 0)
        return trace_id or random.getrandbits(128) or 1


class UnsampledWork(NoWork):
    """The work on a job that is not sampled, which its thread is in from when it is made to its end."""

    __slots__ = ("_token",)

    def __init__(self, context: Context) -> None:
        self._token = contexts.attach(context)

    def end(self, error: BaseException | None = None) -> None:  # noqa: ARG002 - nobody will see it
        """It is over."""
        contexts.detach(self._token)


class SpanOfWork:
    """A span that its thread is in, from when it is made to its end."""

    __slots__ = ("_span", "_token", "is_recorded")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token = contexts.attach(trace.set_span_in_context(span))
        self.is_recorded = span.is_recording()

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Notes what has become known of it."""
        self._span.set_attributes(attributes)

    def learn(self, result: ExecutionResult) -> None:
        """Notes how the attempt came out."""
        if not self.is_recorded:
            return
        self._span.set_attribute("tq.outcome", result.outcome.value)
        if result.error is not None:
            _note_failure(self._span, result.error.code, result.error.message)

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""
        contexts.detach(self._token)
        if self.is_recorded:
            if error is not None:
                _note_failure(self._span, type(error).__name__, str(error))
            self._span.end()


class Delivery(BatchSpanProcessor):
    """Keeps ended spans until they are taken away, and no more than there is room for.

    What has no room is dropped and counted, and what nobody took as well; that is told once, and once more
    when it is over.
    """

    def __init__(self, exporter: SpanExporter, **options: Any) -> None:
        self._lock = threading.Lock()
        self._room = options.get("max_queue_size") or _number("OTEL_BSP_MAX_QUEUE_SIZE", MOST_WAITING)
        self._waiting = 0
        self._under_way = 0
        self._is_failing = self._is_given_up = False
        self.dropped = 0
        super().__init__(_Outlet(exporter, self), **options)

    def on_end(self, span: ReadableSpan) -> None:
        """Keeps a span, if there is room."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            has_room = self._waiting < self._room
            self._waiting += has_room
        if has_room:
            super().on_end(span)
        else:
            self._lose(1, "there are more than can be delivered")

    def shutdown(self) -> None:
        """Delivers what there is."""
        super().shutdown()  # type: ignore[no-untyped-call] # the SDK leaves it untyped
        if self._is_failing and not self._is_given_up:
            logger.warning("traces were not delivered", dropped_spans=self.dropped)

    def give_up(self) -> None:
        """Tells what will not have been delivered when the process ends now."""
        with self._lock:
            left, self._is_given_up = self._waiting + self._under_way, True
        if left:
            self._lose(left, "the process ends before they have arrived")
        if self._is_failing:
            logger.warning("traces were not delivered", dropped_spans=self.dropped)

    def taken(self, spans: int) -> None:
        """So many are on their way."""
        with self._lock:
            self._waiting -= spans
            self._under_way += spans

    def came_out(self, spans: int, reason: str) -> None:
        """So many have arrived, or have not for a reason."""
        with self._lock:
            self._under_way -= spans
        if self._is_given_up:
            return
        if reason:
            self._lose(spans, reason)
            return
        with self._lock:
            was_failing, self._is_failing = self._is_failing, False
        if was_failing:
            logger.info("traces are delivered again", dropped_spans=self.dropped)

    def _lose(self, spans: int, reason: str) -> None:
        with self._lock:
            self.dropped += spans
            was_failing, self._is_failing = self._is_failing, True
        if not was_failing:
            logger.warning("traces cannot be delivered; spans are dropped until they can", reason=reason)


class _Outlet(SpanExporter):
    """Takes spans away, without secrets."""

    def __init__(self, exporter: SpanExporter, delivery: Delivery) -> None:
        self._exporter = exporter
        self._delivery = delivery
        self._said = _LastWords(type(exporter).__module__)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._delivery.taken(len(spans))
        self._said.last = ""
        result = self._exporter.export([_shown(span) for span in spans])
        failed = result is not SpanExportResult.SUCCESS
        self._delivery.came_out(len(spans), (self._said.last or "they were not taken") if failed else "")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _LastWords(logging.Handler):
    """Hears what an exporter says of its failures, every few seconds, in place of who would write it all down."""

    def __init__(self, exporter: str) -> None:
        super().__init__()
        self.last = ""
        source = logging.getLogger(exporter)
        source.handlers, source.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = redact(record.getMessage())


def traceparent_of(span: Span) -> str:
    """The text that names a recorded span, as W3C Trace Context spells it; '' for any other."""
    if not span.is_recording():
        return ""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def span_context_of(traceparent: str) -> SpanContext | None:
    """What such a text names; None for any other."""
    try:
        _version, trace_id, span_id, flags = traceparent.split("-")
        context = SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None


@contextmanager
def _ending(work: SpanOfWork) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        work.end(error)
        raise
    work.end()


def _note_failure(span: Span, error_type: str, message: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, redact(message)))


def _messaging(operation: str, queue: str) -> _Attributes:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
    }


def _of_request(job: Job, request: httpx.Request) -> _Attributes:
    url = request.url
    host = url.host
    place = f"[{host}]" if ":" in host else host
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    shown_port = f":{url.port}" if url.port else ""
    attributes = {
        "http.request.method": request.method,
        # Without login and query; what came from the environment into the path is masked.
        "url.full": redact(f"{url.scheme}://{place}{shown_port}{url.path}"),
        "server.address": host,
        "server.port": port,
    }
    template = _template(job)
    if template:
        attributes["url.template"] = template
    if job.attempt > 1:
        attributes["http.request.resend_count"] = job.attempt - 1
    return attributes


def _template(job: Job) -> str:
    """The path of the task's endpoint, as it is declared."""
    config = job.task.config
    if config is None:
        return ""
    _scheme, separator, rest = config.endpoint.partition("://")
    path = rest.partition("?")[0].partition("#")[0]
    # Where the whole address stands in a variable, nobody can tell where its path begins.
    _place, slash, path = path.partition("/")
    return redact(f"/{path}") if separator and slash else ""


def _error_type(error: ErrorDetail, status: int | None) -> str:
    if status is not None:
        return str(status)
    return "timeout" if error.code == ErrorCode.TIMEOUT else error.code


def _server_of(redis_url: str) -> _Attributes:
    try:
        parts = urlsplit(redis_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if parts.scheme == "unix":
        return {"server.address": parts.path}
    if host is None or "," in parts.netloc or "sentinel" in parts.scheme:
        return {}
    return {"server.address": host, "server.port": port or 6379}


def _trace_ids() -> Mapping[str, object]:
    span = trace.get_current_span()
    if not span.is_recording():
        return {}
    context = span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def resource_of(own: Mapping[str, str | int]) -> Resource:
    """Who tells: as the variables say, and else TaskQueue, with attributes of its own."""
    ours = {"service.name": SERVICE, "service.version": version("taskqueue"), **own}
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})


def _bound_of(sampler: Sampler) -> int | None:
    """Below which a trace's id is sampled, for a sampler that asks for nothing else; None for any other."""
    # A trace that begins with a job has no parent, so of a sampler that asks for one its root decides.
    root = getattr(sampler, "_root", None) if isinstance(sampler, ParentBased) else sampler
    return root.bound if isinstance(root, TraceIdRatioBased) else None


def _names(variable: str) -> list[str]:
    return [name for part in os.environ.get(variable, "").split(",") if (name := part.strip().lower())]


def exporters_of(signal: str) -> list[Any]:
    """What takes traces away, or `METRICS`, as the variables name it.

    Raises:
        LookupError: if no package that is installed knows one of the names.
    """
    return [_exporter(name, signal) for name in _names(f"OTEL_{signal}_EXPORTER") or ["otlp"]]


def _exporter(name: str, signal: str) -> Any:
    if name == "otlp":
        protocol = (
            os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL")
            or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
            or "http/protobuf"
        ).strip()
        name = "otlp_proto_grpc" if protocol == "grpc" else f"otlp_proto_{protocol.partition('/')[0]}"
    group = f"opentelemetry_{signal.lower()}_exporter"
    found = [*entry_points(group=group, name=name)]
    if not found:
        known = sorted(entry_points(group=group).names)
        raise LookupError(
            f"no exporter {name!r} is installed; there are {', '.join(known)}. "
            f"OTEL_{signal}_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL name it"
        )
    return found[0].load()()


def _number(variable: str, default: int) -> int:
    with contextlib.suppress(ValueError):
        return int(os.environ.get(variable, default))
    return default


def _shown(span: ReadableSpan) -> ReadableSpan:
    """The span as it may be shown."""
    status = span.status
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_masked(span.attributes),
        events=[
            Event(redact(event.name), attributes=_masked(event.attributes), timestamp=event.timestamp)
            for event in span.events
        ],
        links=[Link(link.context, _masked(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(status.status_code, redact(status.description) if status.description else None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _masked(attributes: _Attributes | None) -> _Attributes:
    return {name: _masked_value(value) for name, value in (attributes or {}).items()}


def _masked_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Sequence):
        return [redact(part) if isinstance(part, str) else part for part in value]
    return value
