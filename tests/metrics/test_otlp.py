"""The figures, as a collector gets them by OTLP."""

from collections.abc import Iterator

import pytest
from loguru import logger
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, ResourceMetrics

from tests.collector import Collector
from tests.metrics.conftest import Begin, scraped
from tests.waiting import eventually
from tq.metrics import Meter, open_export
from tq.metrics.otlp import Export
from tq.testing import Journey, make_task

ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the variables name."""
    with Collector() as collector:
        monkeypatch.setenv(ENDPOINT, f"{collector.url}/v1/metrics")
        yield collector


@pytest.fixture
def journey(begin: Begin) -> Journey:
    """A run of two users is over."""
    journey = begin(make_task(window=0), at="2026-11-24T08:59:30")
    for user in ("ada", "bob"):
        journey.enable(user, "email_digest")
    journey.until("2026-11-24T09:01")
    return journey


def opened(journey: Journey) -> Export:
    export = open_export(Meter(journey.runtime), "ours")
    assert export is not None
    return export


def received(collector: Collector) -> tuple[ResourceMetrics, dict[str, Metric]]:
    """Who has told last, and what."""
    [told] = collector.metrics[-1].resource_metrics
    return told, {metric.name: metric for scope in told.scope_metrics for metric in scope.metrics}


def test_a_collector_is_told_what_a_scrape_finds(collector: Collector, journey: Journey) -> None:
    scrape = scraped(journey)

    opened(journey).tell()

    told, metrics = received(collector)
    assert {attribute.key: attribute.value.string_value for attribute in told.resource.attributes} | {
        "service.name": "taskqueue",
        "service.instance.id": "ours",
    } == {attribute.key: attribute.value.string_value for attribute in told.resource.attributes}
    assert metrics.keys() == scrape.families.keys()
    jobs = metrics["tq_jobs"].sum
    assert jobs.is_monotonic
    assert sorted(point.as_double or point.as_int for point in jobs.data_points) == [0, 0, 0, 0, 2]
    [duration] = metrics["tq_attempt_duration_seconds"].histogram.data_points
    assert (duration.count, sum(duration.bucket_counts)) == (2, 2)
    assert metrics["tq_attempt_duration_seconds"].unit == "s"
    assert not duration.HasField("max")
    open_jobs = metrics["tq_jobs_open"].gauge.data_points
    assert [point.as_double or point.as_int for point in open_jobs] == [
        scrape.of("tq_jobs_open", task="email_digest")
    ]


def test_a_process_that_ends_tells_once_more(collector: Collector, journey: Journey) -> None:
    export = opened(journey)
    export.start()

    export.stop()

    assert len(collector.metrics) == 1


def test_figures_are_told_as_often_as_the_variable_says(
    collector: Collector, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    export = opened(journey)

    export.start()

    eventually(lambda: len(collector.metrics) >= 3)
    export.stop()


def test_nothing_is_told_where_nobody_is_named(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_export(Meter(journey.runtime), "ours") is None

    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318/v1/metrics")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert open_export(Meter(journey.runtime), "ours") is None


def test_a_collector_that_takes_nothing_is_told_of_once_and_its_return_once(
    collector: Collector, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.strip()), format="{message}")
    monkeypatch.setenv(ENDPOINT, f"{collector.url}/nowhere")
    export = opened(journey)
    monkeypatch.setenv(ENDPOINT, f"{collector.url}/v1/metrics")
    there = opened(journey)

    export.tell()
    export.tell()
    export._exporters = there._exporters
    export.tell()

    logger.remove(sink)
    assert [line for line in lines if line.startswith("metrics")] == [
        "metrics cannot be delivered",
        "metrics are delivered again",
    ]


@pytest.mark.parametrize("asked_for", ["delta", "LowMemory"])
def test_sums_since_ever_are_told_whatever_is_preferred_and_the_log_says_so(
    asked_for: str, collector: Collector, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.strip()), format="{message}")
    opened(journey)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative")
    opened(journey)
    assert lines == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", asked_for)
    export = opened(journey)
    logger.remove(sink)
    export.tell()
    export.tell()

    [line] = lines
    assert line.startswith("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE has no effect")
    assert "cumulativetodelta" in line
    _, metrics = received(collector)
    jobs = metrics["tq_jobs"].sum
    assert jobs.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert sum(point.as_double or point.as_int for point in jobs.data_points) == 2


def test_a_variable_without_meaning_is_told_and_nothing_is_exported(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "smoke-signals")

    assert open_export(Meter(journey.runtime), "ours") is None
