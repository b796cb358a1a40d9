"""A collector as anyone's: takes spans and metrics by OTLP over HTTP, and understands them."""

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


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


class Collector:
    """Serves on loopback for as long as it is entered."""

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                take = {"/v1/traces": collector._take, "/v1/metrics": collector._take_metrics}.get(self.path)
                is_right = take is not None and self.headers["Content-Type"] == "application/x-protobuf"
                if take is not None and is_right:
                    take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if is_right else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *_args: object) -> None:  # noqa: A002 - the names are http.server's
                """Keeps quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

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

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
