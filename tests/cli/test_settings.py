"""`tq settings`: every setting, its value, and where that comes from."""

from pathlib import Path

import pytest

from tests.cli.conftest import PASSWORD, REDIS_AWAY, Tq


def test_every_setting_is_shown_with_its_source(
    tq: Tq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)
    (tmp_path / ".env").write_text("TQ_RESULT_TTL=36h\n")

    answer = tq("settings", "--json")

    shown = {setting["variable"]: (setting["value"], setting["source"]) for setting in answer.document}
    assert shown["TQ_REDIS_URL"] == ("redis://:***@127.0.0.1:1/0", "environment")
    assert shown["TQ_RESULT_TTL"] == ("1d12h", ".env")
    assert shown["TQ_ALLOW_PRIVATE_ENDPOINTS"] == ("false", "default")
    assert shown["LOG_LEVEL"] == ("INFO", "default")
    assert shown["LOG_FORMAT"] == (None, "default")
    assert all(setting["description"] for setting in answer.document)


@pytest.mark.parametrize(
    "url",
    [REDIS_AWAY, f"redis://127.0.0.1:1/0?password={PASSWORD}", f"rediss://ada:{PASSWORD}@127.0.0.1:1/0"],
)
def test_a_password_is_never_shown(tq: Tq, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", url)

    assert PASSWORD not in tq("settings").out
    assert PASSWORD not in tq("settings", "--json").out


def test_the_rate_of_everything_is_calls_per_second_however_it_is_written(
    tq: Tq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_RATE_LIMIT", "30/m")
    monkeypatch.setenv("TQ_RATE_STRATEGY", "stepped")

    shown = {setting["variable"]: setting["value"] for setting in tq("settings", "--json").document}

    assert (shown["TQ_RATE_LIMIT"], shown["TQ_RATE_STRATEGY"]) == (0.5, "stepped")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TQ_RATE_LIMIT", "fast", "'fast' is not a rate; write calls per second, or with a unit: 50, 50/s"),
        ("TQ_RATE_LIMIT", "0/s", "'0/s' is too small; write more than 0"),
        ("TQ_RATE_LIMIT", "", "'' is not a rate"),
        ("TQ_RATE_STRATEGY", "fixed", "Input should be 'adaptive' or 'stepped' (found 'fixed')"),
    ],
)
def test_a_rate_that_cannot_be_used_is_told_with_its_variable(
    tq: Tq, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)

    answer = tq("tasks", "list")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {variable}: {told}")
    assert answer.err.count(repr(value)) == 1


def test_a_switch_that_is_neither_on_nor_off_is_told_with_what_it_may_be(
    tq: Tq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUG_REDIS", "maybe")

    answer = tq("settings")

    assert (answer.code, answer.err) == (2, "error: DEBUG_REDIS: neither true nor false (found 'maybe')\n")
