"""`tq alerts`: what is printed can be used as it is, and a test alert is sent."""

import json

import pytest
import yaml

from tests.alerts.receiver import SECRET_PATH, Receiver
from tests.cli.conftest import REDIS_AWAY, Tq


@pytest.fixture(autouse=True)
def _without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)


def test_rules_are_printed_as_they_are(tq: Tq) -> None:
    answer = tq("alerts", "rules")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("# Alerting rules for Prometheus")
    assert yaml.safe_load(answer.out)["groups"]


def test_a_dashboard_is_printed_as_it_is(tq: Tq) -> None:
    answer = tq("alerts", "dashboard")

    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["title"] == "TaskQueue"


def test_a_test_alert_is_sent_and_the_answer_told(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("TQ_ALERT_WEBHOOK", receiver.url)
        told, document = tq("alerts", "test"), tq("alerts", "test", "--json").document
        receiver.answer = lambda _call: (404, {})
        refused, as_json = tq("alerts", "test"), tq("alerts", "test", "--json")
        receiver.answer = lambda _call: (301, {"Location": receiver.url})
        elsewhere = tq("alerts", "test")

    assert (told.code, told.out, told.err) == (0, "sent: 127.0.0.1 answered 204 No Content\n", "")
    assert document == {"taken": True, "answer": "127.0.0.1 answered 204 No Content"}
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "error: the webhook did not take the alert: 127.0.0.1 answered 404 Not Found\n"
    assert (as_json.code, as_json.document["taken"]) == (1, False)
    assert "301 Moved Permanently; redirects are not followed" in elsewhere.err
    assert receiver.told == [("test", "firing")] * 5


def test_a_webhook_that_is_away_is_told_without_its_path(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_ALERT_WEBHOOK", f"http://127.0.0.1:1{SECRET_PATH}")

    answer = tq("alerts", "test")

    assert answer.code == 1
    assert answer.err == "error: the webhook did not take the alert: 127.0.0.1:1 refused the connection\n"


def test_without_a_webhook_a_test_is_wrong_usage(tq: Tq) -> None:
    answer = tq("alerts", "test")

    assert answer.code == 2
    assert answer.err.startswith("error: TQ_ALERT_WEBHOOK is not set; ")


@pytest.mark.parametrize("variable", ["TQ_ALERT_WEBHOOK", "TQ_HEARTBEAT_URL"])
def test_the_addresses_are_shown_nowhere(tq: Tq, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, f"https://hooks.example.com{SECRET_PATH}")

    shown = tq("settings", "--json")

    [value] = [setting["value"] for setting in shown.document if setting["variable"] == variable]
    assert value == "***"
    assert "hooks.example.com" not in shown.out + tq("settings").out


@pytest.mark.parametrize("variable", ["TQ_ALERT_WEBHOOK", "TQ_HEARTBEAT_URL"])
@pytest.mark.parametrize(
    "value", ["hooks.example.com/planted-4711", "ftp://planted-4711/x", "https:///planted-4711"]
)
def test_what_is_no_web_address_is_told_without_it(
    tq: Tq, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    answer = tq("settings")

    assert answer.code == 2
    assert answer.err.startswith(f"error: {variable}: not a web address; write https://host/path")
    assert "planted-4711" not in answer.err


def test_an_empty_address_is_none(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_HEARTBEAT_URL", "")

    [value] = [
        each["value"] for each in tq("settings", "--json").document if each["variable"] == "TQ_HEARTBEAT_URL"
    ]

    assert value is None
