"""Figures by OTLP, the same as a scrape finds, for who collects that way.

One process tells for the whole system. Where several do, they say the same under the same name, so nothing
is counted twice. That takes sums since ever: increases that two processes tell would be added up.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from loguru import logger
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tq.errors import StoreError
from tq.metrics.families import Family
from tq.metrics.meter import Figures, Meter, Series
from tq.telemetry.otel import exporters_of, resource_of

INTERVAL_MS = 60_000  # the standard's own, where OTEL_METRIC_EXPORT_INTERVAL says nothing
LAST_DELIVERY_S = 2.0
_SINCE_EVER = 0  # counters outlive every process; when they began is not known
_ADDED_UP = AggregationTemporality.CUMULATIVE
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


class Export:
    """Reads and tells every minute, in a thread of its own."""

    def __init__(self, meter: Meter, exporters: Sequence[Any], resource: Resource, *, every_s: float) -> None:
        self._meter = meter
        self._exporters = exporters
        self._resource = resource
        self._every_s = every_s
        self._stopping = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="metrics-export", daemon=True)

    def start(self) -> None:
        """Begins to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tells once more, as far as that takes no longer than two seconds, and ends."""
        self._stopping.set()
        self._thread.join(LAST_DELIVERY_S)

    def tell(self) -> None:
        """Tells everything once; trouble that lasts is logged once, and its end."""
        try:
            told = told_of(self._meter.read(), self._resource, now_ns=time.time_ns())
        except StoreError as error:
            self._note(str(error))
            return
        results = [exporter.export(told) for exporter in self._exporters]
        self._note("" if all(result is MetricExportResult.SUCCESS for result in results) else "not taken")

    def _note(self, reason: str) -> None:
        if reason and not self._is_failing:
            logger.warning("metrics cannot be delivered", reason=reason)
        elif self._is_failing and not reason:
            logger.info("metrics are delivered again")
        self._is_failing = bool(reason)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.tell()
        self.tell()


def open_wanted(meter: Meter, namespace: str, environ: Mapping[str, str]) -> Export | None:
    """What tells as OpenTelemetry's variables ask for; None if one of them has no meaning here, which is told."""
    for name, value in environ.items():
        os.environ.setdefault(name, value)  # where the SDK looks
    try:
        exporters = exporters_of("METRICS")
        every_s = int(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or INTERVAL_MS) / 1000
    except (LookupError, ValueError) as error:
        logger.error("metrics are not exported: a variable has no meaning here", reason=str(error))
        return None
    temporality = environ.get(TEMPORALITY, "").strip()
    if temporality.lower() not in ("", "cumulative"):
        logger.warning(
            f"{TEMPORALITY} has no effect: what several processes tell alike can only be told as sums since ever; "
            "have the collector make increases of them (its processor cumulativetodelta)",
            asked_for=temporality,
        )
    # The whole system is one instance, whichever process tells.
    return Export(meter, exporters, resource_of({"service.instance.id": namespace}), every_s=every_s)


def told_of(figures: Figures, resource: Resource, *, now_ns: int) -> MetricsData:
    """The figures as OpenTelemetry has them."""
    scope = InstrumentationScope("taskqueue", version("taskqueue"))
    metrics = [_metric(family, series, now_ns) for family, series in figures.items() if series]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])


def _metric(family: Family, series: Series, now_ns: int) -> Metric:
    data: Sum | Gauge | Histogram
    if family.kind == "histogram":
        points = [_histogram(family, values, numbers, now_ns) for values, numbers in series]
        data = Histogram(points, _ADDED_UP)
    else:
        numbers_of = [
            NumberDataPoint(_attributes(family, values), _SINCE_EVER, now_ns, numbers[0])
            for values, numbers in series
        ]
        data = (
            Sum(numbers_of, _ADDED_UP, is_monotonic=True) if family.kind == "counter" else Gauge(numbers_of)
        )
    # Who stores it as Prometheus does adds the suffix again.
    return Metric(family.name.removesuffix("_total"), family.help, family.unit, data)


def _histogram(
    family: Family, values: tuple[str, ...], numbers: Sequence[float], now_ns: int
) -> HistogramDataPoint:
    counts = [int(number) for number in numbers[:-1]]
    return HistogramDataPoint(
        attributes=_attributes(family, values),
        start_time_unix_nano=_SINCE_EVER,
        time_unix_nano=now_ns,
        count=sum(counts),
        sum=numbers[-1],
        bucket_counts=counts,
        explicit_bounds=family.bounds,
        # Not known, and left out then, whatever the types say.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


def _attributes(family: Family, values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(family.labels, values, strict=True))
