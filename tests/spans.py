"""Spans that were made, kept in memory as an exporter would have got them."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from tq.settings import Settings
from tq.telemetry.otel import Delivery, OpenTelemetry, TraceIds


class Spans:
    """Traces whose spans are kept; `found` is in the order in which they ended."""

    def __init__(self, settings: Settings, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, id_generator=TraceIds(), shutdown_on_exit=False)
        self.provider.add_span_processor(Delivery(self._exporter, schedule_delay_millis=60_000))
        self.traces = OpenTelemetry(self.provider, settings)

    @property
    def found(self) -> list[ReadableSpan]:
        """All that have ended."""
        self.provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name."""
        return [span for span in self.found if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one of a name."""
        [span] = self.named(name)
        return span

    @property
    def text(self) -> str:
        """All that they tell."""
        return "\n".join(span.to_json() + repr(span.status.description) for span in self.found)


@contextmanager
def kept_spans(settings: Settings, sampler: Sampler = ALWAYS_ON) -> Iterator[Spans]:
    """Traces whose spans are kept, until the test is over."""
    spans = Spans(settings, sampler)
    try:
        yield spans
    finally:
        spans.traces.close(within_s=5.0)


def ids_of(span: ReadableSpan) -> tuple[int, int]:
    """Which trace, and which span."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    """Which spans it links to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    """Which span it is a child of."""
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)
