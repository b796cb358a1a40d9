"""`tq tasks`: what is declared, what of it may be read, and when it falls due."""

from pathlib import Path

import pytest

from tests.cli.conftest import Tq
from tq.runtime import Runtime


def test_the_list_says_how_often_and_for_how_many(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest")
    tq("users", "enable", "bob", "email_digest", "--timezone", "Europe/Berlin")

    told = tq("tasks", "list").out
    listed = tq("tasks", "list", "--json").document

    assert "every day at 09:00 in each user's time zone" in told
    assert [(task["id"], task["enabled"]) for task in listed] == [("email_digest", 2), ("hourly_sync", 0)]
    assert listed[0]["interval"] == {"type": "daily", "timezone": "user", "at_time": "09:00"}


def test_a_task_is_shown_without_what_may_be_secret(tq: Tq) -> None:
    for answer in (tq("tasks", "show", "email_digest"), tq("tasks", "show", "email_digest", "--json")):
        assert answer.code == 0
        assert "application/json" in answer.out
        assert "planted" not in answer.out
        assert "API_TOKEN" not in answer.out

    config = tq("tasks", "show", "email_digest", "--json").document["config"]
    assert config["headers"] == {
        "Content-Type": "application/json",
        "Authorization": "***",
        "X-Api-Key": "***",
    }


def test_a_task_is_shown_with_those_who_follow_it_and_when_they_fall_due(tq: Tq) -> None:
    tq("users", "enable", "ada", "hourly_sync", "--timezone", "Asia/Tokyo")
    tq("users", "enable", "bob", "hourly_sync", "--interval", '{"type": "daily", "at_time": "08:30"}')

    shown = tq("tasks", "show", "hourly_sync", "--json").document

    assert shown["enabled"] == 2
    own, default = sorted(shown["cells"], key=lambda cell: cell["zone"], reverse=True)
    assert (own["zone"], own["interval"], own["users"]) == ("UTC", "daily/1/08:30@UTC", 1)
    assert own["next_at"].endswith("T08:30:00Z")
    assert (default["zone"], default["interval"], default["users"]) == ("Asia/Tokyo", "default", 1)
    assert default["next_at"] == shown["next"][0]["nominal_at"]


def test_a_task_is_in_force_once_the_scheduler_has_published_it(tq: Tq, runtime: Runtime) -> None:
    before = tq("tasks", "show", "hourly_sync", "--json").document["in_force"]

    runtime.definitions.publish(runtime.store.planning.look(limit=0))

    after = tq("tasks", "show", "hourly_sync", "--json").document["in_force"]
    assert (before, after) == (False, True)


def test_an_unknown_task_is_told_with_what_was_probably_meant(tq: Tq) -> None:
    answer = tq("tasks", "show", "email_digst")

    assert answer.code == 1
    assert answer.err == "error: no task 'email_digst' among the 2 defined; did you mean 'email_digest'?\n"


def test_valid_definitions_are_counted(tq: Tq, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "tasks:\n  - {id: a, interval: {type: hourly}, config: {endpoint: https://example.com}}\n"
    )

    assert tq("tasks", "validate").out == "2 tasks are valid\n"
    assert tq("tasks", "validate", "one.yaml").out == "1 task is valid\n"
    assert tq("tasks", "validate", "one.yaml", "--json").document == {"valid": True, "tasks": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "tasks:\n  - {id: a, interval: {type: dayly}, config: {endpoint: https://e.com}}",
            "did you mean daily?",
        ),
        ("tasks: [", "not YAML"),
    ],
)
def test_a_broken_tasks_file_is_wrong_usage(tq: Tq, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)

    answer = tq("tasks", "validate", "broken.yaml", "--json")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: broken.yaml:")
    assert told in answer.err


def test_a_tasks_file_that_is_not_there_is_wrong_usage(tq: Tq) -> None:
    answer = tq("tasks", "validate", "nowhere.yaml")

    assert answer.code == 2
    assert answer.err.startswith("error: nowhere.yaml: there is no such file")


def test_the_next_occurrences_are_a_document_of_nominal_instants(tq: Tq) -> None:
    answer = tq("tasks", "next", "hourly_sync", "--after", "2026-01-01T10:30:00Z", "--count", "2", "--json")

    assert answer.code == 0
    assert answer.document == [{"nominal_at": "2026-01-01T11:00:00Z"}, {"nominal_at": "2026-01-01T12:00:00Z"}]


@pytest.mark.parametrize(
    ("after", "zone", "expected"),
    [
        ("2026-01-01T10:00:00Z", "UTC", "2026-01-02T09:00:00Z"),
        ("2026-01-01T08:59:59", "UTC", "2026-01-01T09:00:00Z"),  # without a zone: in UTC
        ("2026-01-01T09:00:00+00:00", "UTC", "2026-01-02T09:00:00Z"),  # strictly later
        ("2026-01-01T10:30:00+02:00", "UTC", "2026-01-01T09:00:00Z"),
        ("2026-01-01t08:00:00z", "UTC", "2026-01-01T09:00:00Z"),
        ("2026-03-28T12:00:00Z", "Europe/Berlin", "2026-03-29T07:00:00Z"),  # the clocks have changed
        ("2026-07-01T00:00:00Z", "America/New_York", "2026-07-01T13:00:00Z"),
    ],
)
def test_the_zone_of_a_user_decides_when_a_task_falls_due(
    tq: Tq, after: str, zone: str, expected: str
) -> None:
    answer = tq(
        "tasks", "next", "email_digest", "--after", after, "--count", "1", "--timezone", zone, "--json"
    )

    assert answer.document == [{"nominal_at": expected}]


def test_five_occurrences_after_now_are_shown_unless_asked_otherwise(tq: Tq) -> None:
    assert len(tq("tasks", "next", "hourly_sync", "--json").document) == 5
    assert len(tq("tasks", "next", "hourly_sync").out.splitlines()) == 6


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--after", "yesterday", "--after: 'yesterday' is not an instant; write RFC 3339"),
        ("--after", "0001-01-01T00:00:00+14:00", "--after: '0001-01-01T00:00:00+14:00' is not an instant"),
        ("--timezone", "Mars/Olympus", "--timezone: 'Mars/Olympus' is not a time zone"),
        ("--timezone", "user", "--timezone: 'user' is not a time zone"),
        (
            "--after",
            "9999-12-31T23:30:00Z",
            "task 'hourly_sync' never falls due after 9999-12-31 23:30:00 UTC",
        ),
    ],
)
def test_what_cannot_be_used_names_the_option(tq: Tq, option: str, value: str, told: str) -> None:
    answer = tq("tasks", "next", "hourly_sync", option, value)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {told}")


def test_an_expression_that_never_matches_is_an_error(tq: Tq, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(
        'tasks:\n  - {id: never, interval: {type: cron, expression: "0 0 */31 * 1#5"}, config: {endpoint: https://e.com}}\n'
    )

    answer = tq("tasks", "next", "never")

    assert answer.code == 2
    assert answer.err.startswith("error: task 'never' never falls due after")
    assert answer.err.count("\n") == 1
