"""`tq bench`: figures for programs and for people."""

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
