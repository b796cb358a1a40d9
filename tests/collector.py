"""A collector as anyone's: takes spans and metrics by OTLP over HTTP, and understands them."""

import gzip
import threading
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.serving import Answer, Request, Serving

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Received:
    """A span, and who has told of it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    text: str = field(repr=False)

    @property
    def ids(self) -> tuple[str, str]:
        """Which trace, and which span."""
        return self.trace_id, self.span_id


class Collector(Serving):
    """Serves on loopback for as long as it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[Received] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self._lock = threading.Lock()

    def respond(self, request: Request) -> Answer:
        """Takes spans and metrics, at their paths and as protobuf."""
        body = request.body
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        take = {"/v1/traces": self._take, "/v1/metrics": self._take_metrics}.get(request.path)
        is_right = take is not None and request.headers["Content-Type"] == PROTOBUF
        if take is not None and is_right:
            take(body)
        told = ExportTraceServiceResponse().SerializeToString()
        return Answer(200 if is_right else 404, {"Content-Type": PROTOBUF}, told)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.origin

    @property
    def spans(self) -> list[Received]:
        """All that have arrived."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Received]:
        """Those of a name."""
        return [span for span in self.spans if span.name == name]

    def _take_metrics(self, body: bytes) -> None:
        self.metrics.append(ExportMetricsServiceRequest.FromString(body))

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        found = [
            Received(
                name=span.name,
                kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                attributes=_values(span.attributes),
                resource=_values(by_resource.resource.attributes),
                text=str(span) + str(by_resource.resource),
            )
            for by_resource in request.resource_spans
            for by_scope in by_resource.scope_spans
            for span in by_scope.spans
        ]
        with self._lock:
            self._spans += found


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
