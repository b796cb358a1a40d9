"""`tq bench`: figures for programs and for people."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer

from tests.cli.conftest import REDIS_AWAY, Tq
from tq.cli.bench_load import tell

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
    "cpu_stolen_share",
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
    # So few calls may cost the endpoint and Redis less than a tick of the clock by which Linux counts.
    uncounted = {name for name in LOAD_FIGURES if name.startswith(("endpoint", "redis_cpu", "cpu_stolen"))}
    positive = LOAD_FIGURES - uncounted - {"unaccounted"}
    assert {name for name in positive if figures[name] <= 0} == set()
    assert set(figures["ranges"]) >= LOAD_FIGURES
    assert figures["machine"]["cpus"] >= 1


@pytest.mark.usefixtures("leaves_nothing")
def test_execute_tells_what_a_job_costs_that_is_traced(tq: Tq) -> None:
    answer = tq(
        "bench", "execute", "--json", "--jobs", "200", "--stock-jobs", "0", "--repeat", "2", "--traces", "1"
    )

    assert (answer.code, answer.err) == (0, "")
    assert (answer.document["traces"], answer.document["unaccounted"]) == (1.0, 0)


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


@pytest.mark.usefixtures("leaves_nothing")
def test_a_whole_run_misses_nobody_and_tells_its_rate_beside_the_stock_way(tq: Tq) -> None:
    answer = tq("bench", "run", "--json", "--users", "600", "--stock-jobs", "300", "--repeat", "1")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert (figures["unaccounted"], figures["users"], figures["processes"]) == (0, 600, 2)
    positive = {"jobs_per_second", "rss_mb", "redis_round_trips_per_job", "redis_bytes_per_result"}
    assert {name for name in positive if figures[name] <= 0} == set()


@pytest.mark.usefixtures("leaves_nothing")
def test_a_soak_tells_for_everything_it_watches_whether_it_grows(tq: Tq) -> None:
    answer = tq("bench", "soak", "--json", "--minutes", "0.05", "--per-second", "60")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert (figures["unaccounted"], figures["runs"]) == (0, 4)
    assert figures["jobs"] == 4 * 45
    for name in ("rss_mb", "scheduler_rss_mb", "redis_mb", "open_files"):
        assert figures[name] > 0
        assert {f"{name}_slope_per_hour", f"{name}_slope_noise", f"{name}_is_flat"} <= set(figures)


@pytest.mark.usefixtures("leaves_nothing")
def test_memory_tells_bytes_for_users_and_for_a_run_and_where_they_are(tq: Tq) -> None:
    answer = tq("bench", "memory", "--json", "--users", "5000")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    one, further = (figures[f"bytes_per_user_{name}"] for name in ("with_one_task", "and_further_task"))
    assert 50 < further < one < 300
    assert figures["queued_jobs"] == 5000
    assert 0 < figures["ledger_mb"] < figures["queue_mb"] < 20
    assert {"leaf", "user_leaf"} <= set(figures["bytes_per_user_by_family"])
    assert {"queue", "open"} <= set(figures["kilobytes_of_run_by_family"])


@pytest.mark.usefixtures("leaves_nothing")
def test_scrape_tells_how_long_it_takes_to_read_every_series(tq: Tq) -> None:
    answer = tq("bench", "scrape", "--json", "--tasks", "3", "--repeat", "1")

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert figures["series"] > 250
    assert 0 < figures["scrape_ms"] <= figures["longest_scrape_ms"]
    assert "longest_script_ms" in figures


@pytest.mark.usefixtures("leaves_nothing")
def test_profile_tells_how_much_of_their_throughput_workers_keep_in_pairs_of_slices(tq: Tq) -> None:
    answer = tq(
        *("bench", "profile", "--json", "--pairs", "2", "--seconds", "0.5"),
        *("--users", "200", "--processes", "1"),
    )

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    assert (figures["unaccounted"], figures["pairs"], figures["processes"]) == (0, 2, 1)
    positive = ("kept", "jobs_per_second", "profiled_jobs_per_second")
    assert {name for name in positive if figures[name] <= 0} == set()
    assert set(figures["ranges"]) == set(positive)


@pytest.mark.usefixtures("leaves_nothing")
def test_tick_claims_all_that_is_due_and_tells_how_long_that_takes(tq: Tq) -> None:
    answer = tq(
        "bench", "tick", "--json", "--tasks", "5", "--cohorts", "3", "--cohorts", "30", "--repeat", "2"
    )

    assert (answer.code, answer.err) == (0, "")
    figures = answer.document
    for cohorts in (3, 30):
        assert figures["ranges"][f"all_of_{cohorts}_cohorts_unclaimed"] == [0, 0]
        assert (
            0 < figures[f"nothing_due_of_{cohorts}_cohorts_ms"] < figures[f"all_of_{cohorts}_cohorts_due_ms"]
        )
        assert f"all_of_{cohorts}_cohorts_longest_script_ms" in figures


def test_more_cohorts_than_there_are_time_zones_are_wrong_usage(tq: Tq) -> None:
    answer = tq("bench", "tick", "--cohorts", "5000")

    assert answer.code == 2
    assert answer.err.startswith("error: --cohorts: 5000 are more than the ")


@pytest.mark.usefixtures("leaves_nothing")
def test_several_benches_make_one_report_with_the_machine_told_once(tq: Tq) -> None:
    answer = tq("bench", "all", "--json", "--only", "memory", "--users", "1000")

    assert (answer.code, answer.err) == (0, "")
    assert list(answer.document) == ["machine", "memory"]
    assert answer.document["machine"]["packages"]["dramatiq"]
    assert answer.document["memory"]["users"] == 1000


def test_a_bench_that_there_is_not_is_wrong_usage(tq: Tq) -> None:
    answer = tq("bench", "all", "--only", "fannout")

    assert answer.code == 2
    assert answer.err.startswith("error: --only: there is no 'fannout'; known are fanout, execute, slow,")


def test_a_bench_that_found_somebody_unaccounted_for_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        tell("execute", {"jobs_per_second": 5000, "unaccounted": 1}, as_json=True)

    assert ended.value.exit_code == 1
    assert orjson.loads(capsys.readouterr().out)["unaccounted"] == 1


def test_for_people_each_figure_has_a_row_with_its_median_and_range(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {
        "jobs_per_second": 5200,
        "is_flat": True,
        "by_family": {"leaf": 49.3},
        "ranges": {"jobs_per_second": [4900, 5300]},
        "machine": {"cpus": 2},
    }

    tell("execute", figures, as_json=False)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["execute", "median", "range"],
        ["jobs_per_second", "5,200", "4,900", "-", "5,300"],
        ["is_flat", "yes", "-"],
        ["by_family:", "leaf", "49.3", "-"],
    ]
