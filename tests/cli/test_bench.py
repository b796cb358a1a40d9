"""`tq bench`: figures for programs and for people."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import REDIS_AWAY, Tq

FIGURES = {
    "goodput",
    "waste",
    "redis_per_request",
    "backoff_s",
    "recovery_s",
    "peak_1s",
    "small_task_p99_wait_s",
}


def test_the_figures_of_each_strategy_in_each_scenario_are_printed_as_json(tq: Tq) -> None:
    answer = tq("bench", "limiter", "--json", "--seeds", "1", "--scenario", "batches", "--scenario", "outage")

    assert (answer.code, answer.err) == (0, "")
    assert list(answer.document) == ["adaptive", "stepped", "original"]
    for scenarios in answer.document.values():
        assert list(scenarios) == ["batches", "outage"]
        assert all(set(figures) == FIGURES for figures in scenarios.values())
        assert scenarios["batches"]["goodput"] == pytest.approx(1.0, abs=0.01)
        assert scenarios["batches"]["backoff_s"] is None
        assert 1 <= scenarios["outage"]["backoff_s"] <= 180
        assert 1 <= scenarios["outage"]["recovery_s"] <= 180


def test_for_people_there_is_a_row_for_each_and_a_mean(tq: Tq) -> None:
    answer = tq("bench", "limiter", "--seeds", "1,2", "--scenario", "fair", "--strategy", "original")

    assert (answer.code, answer.err) == (0, "")
    heading, *rows = answer.out.splitlines()
    assert heading.split()[:4] == ["strategy", "scenario", "goodput", "waste"]
    assert [row.split()[:2] for row in rows] == [["original", "fair"], ["original", "mean"]]


def test_it_needs_no_redis_but_its_own(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)

    answer = tq("bench", "limiter", "--seeds", "1", "--scenario", "batches", "--strategy", "adaptive")

    assert (answer.code, answer.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scenario", "rain"), "error: --scenario: there is no 'rain'; known are steady160, step,"),
        (
            ("--strategy", "best"),
            "error: --strategy: there is no 'best'; known are adaptive, stepped, original",
        ),
        (("--seeds", "1;2"), "error: --seeds: '1;2' is not a list of whole numbers; write for example 1,2,3"),
        (("--seeds", ""), "error: --seeds: '' is not a list of whole numbers"),
    ],
)
def test_what_there_is_not_is_wrong_usage(tq: Tq, words: tuple[str, ...], told: str) -> None:
    answer = tq("bench", "limiter", *words)

    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(told)


LOAD_FIGURES = {
    "jobs_per_second",
    "stock_jobs_per_second",
    "ratio",
    "rss_mb",
    "redis_round_trips_per_job",
    "cpu_us_per_job",
    "redis_cpu_us_per_job",
    "endpoint_cpu_us_per_job",
    "endpoint_cpu_share",
    "unaccounted",
}


def children() -> set[int]:
    """The processes that this one has started and that live."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in found.split()}


@pytest.fixture
def leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test in which whatever is started ends, and whatever is written to a temporary place is gone at its end."""
    before = children()
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert children() <= before
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("leaves_nothing")
def test_execute_tells_what_a_job_costs_beside_the_stock_way(tq: Tq) -> None:
    answer = tq("bench", "execute", "--json", "--jobs", "200", "--stock-jobs", "50", "--repeat", "1")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert set(figures) >= LOAD_FIGURES
    assert figures["unaccounted"] == 0
    assert (figures["bench"], figures["jobs"], figures["processes"]) == ("execute", 200, 2)
    positive = LOAD_FIGURES - {"unaccounted"}
    assert {name for name in positive if figures[name] <= 0} == set()
    assert set(figures["ranges"]) >= LOAD_FIGURES
    assert figures["machine"]["cpus"] >= 1


@pytest.mark.usefixtures("leaves_nothing")
def test_latency_tells_how_long_a_job_waits_for_its_call_beside_the_stock_way(tq: Tq) -> None:
    answer = tq("bench", "latency", "--json", "--per-second", "40", "--seconds", "1", "--repeat", "1")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert figures["unaccounted"] == 0
    for way in ("", "stock_"):
        p50, p90, p99 = (figures[f"{way}enqueue_to_start_{name}_ms"] for name in ("p50", "p90", "p99"))
        assert 0 < p50 <= p90 <= p99
        assert 0 < figures[f"{way}jobs_per_second"] < 60
    assert {name for name in ("ratio", "rss_mb", "redis_round_trips_per_job") if figures[name] <= 0} == set()


@pytest.mark.usefixtures("leaves_nothing")
def test_fanout_reaches_everybody_each_time_and_tells_its_rate_and_memory(tq: Tq) -> None:
    answer = tq("bench", "fanout", "--json", "--users", "3000", "--stock-jobs", "100", "--repeat", "2")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert (figures["ranges"]["unaccounted"], figures["users"], figures["repeat"]) == ([0, 0], 3000, 2)
    positive = {"jobs_per_second", "stock_jobs_per_second", "ratio", "rss_mb", "redis_round_trips_per_job"}
    assert {name for name in positive if figures[name] <= 0} == set()
    assert figures["redis_round_trips_per_job"] < 0.1
