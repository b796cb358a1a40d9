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
