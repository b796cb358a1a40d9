"""`tq users`: one user at a time."""

from typing import Any

import pytest

from tests.cli.conftest import Tq
from tq.errors import UserNotFound
from tq.models import UserId
from tq.runtime import Runtime

ADA = UserId("ada")


def test_a_task_is_switched_on_with_everything_that_belongs_to_it(tq: Tq) -> None:
    interval = '{"type": "weekly", "weekday": "fri", "at_time": "17:00", "timezone": "user"}'
    answer = tq(
        "users", "enable", "ada", "email_digest", "--timezone", "Europe/Berlin", "--interval", interval,
        "--parameters", '{"lang": "de"}', "--param", "count=5", "--param", "note=a=b", "--json",
    )  # fmt: skip

    settings = {
        "enabled": True,
        "interval": {"type": "weekly", "weekday": "fri", "at_time": "17:00", "timezone": "user"},
        "parameters": {"lang": "de", "count": 5, "note": "a=b"},
    }
    assert answer.code == 0
    assert answer.document == {
        "user_id": "ada",
        "task_id": "email_digest",
        "timezone": "Europe/Berlin",
        **settings,
        "changed": True,
    }
    assert tq("users", "show", "ada", "--json").document == {
        "user_id": "ada",
        "timezone": "Europe/Berlin",
        "tasks": {"email_digest": settings},
    }


def test_what_is_not_given_stays_as_it_was(tq: Tq) -> None:
    tq(
        "users",
        "enable",
        "ada",
        "email_digest",
        "--timezone",
        "Asia/Tokyo",
        "--every",
        "hourly",
        "--param",
        "a=1",
    )

    again = tq("users", "enable", "ada", "email_digest", "--json").document

    assert (again["timezone"], again["interval"], again["parameters"]) == (
        "Asia/Tokyo",
        {"type": "hourly"},
        {"a": 1},
    )
    assert again["changed"] is False


@pytest.mark.parametrize(
    ("written", "interval"),
    [
        ("hourly", {"type": "hourly"}),
        ("daily", {"type": "daily", "timezone": "user"}),
        ("daily 08:00", {"type": "daily", "at_time": "08:00", "timezone": "user"}),
        ('{"type": "daily", "at_time": "08:00"}', {"type": "daily", "at_time": "08:00"}),
        ("default", None),
    ],
)
def test_an_interval_can_be_written_short(tq: Tq, written: str, interval: dict[str, Any] | None) -> None:
    tq("users", "enable", "ada", "email_digest", "--every", "minutely")

    tq("users", "enable", "ada", "email_digest", "--interval", written)

    assert tq("users", "show", "ada", "--json").document["tasks"]["email_digest"]["interval"] == interval


def test_parameters_can_be_taken_away(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest", "--param", "a=1")

    tq("users", "enable", "ada", "email_digest", "--parameters", "{}")

    assert tq("users", "show", "ada", "--json").document["tasks"]["email_digest"]["parameters"] == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("../etc", "email_digest"), "'../etc' cannot be the id of a user; write 1 to 100 letters"),
        (("ada\n", "email_digest"), "'ada\\n' cannot be the id of a user"),
        (("ada", "../etc"), "'../etc' cannot be the id of a task"),
        (("ada", "email_digest", "--timezone", "Europe/Berlim"), "--timezone: 'Europe/Berlim' is not a time zone; did you mean Europe/Berlin?"),
        (("ada", "email_digest", "--interval", "dayly"), "--interval.type: 'dayly' is not one of the choices"),
        (("ada", "email_digest", "--interval", "daily at eight"), "--interval: 'daily at eight' is not an interval"),
        (("ada", "email_digest", "--interval", "daily 25:00"), "--interval.at_time: '25:00' is not a time of day"),
        (("ada", "email_digest", "--interval", ""), "--interval.type: '' is not one of the choices"),
        (("ada", "email_digest", "--interval", "{"), "--interval: not JSON"),
        (("ada", "email_digest", "--interval", '{"type": "daily", "at": "1"}'), "--interval.at: is not a known key"),
        (("ada", "email_digest", "--interval", '{"type":"cron","expression":"0 0 */31 * 1#5"}'), "--interval: cron expression '0 0 */31 * 1#5' never matches"),
        (("ada", "email_digest", "--parameters", "[1]"), "--parameters: not a JSON object"),
        (("ada", "email_digest", "--parameters", "x"), "--parameters: not JSON"),
        (("ada", "email_digest", "--parameters", '{"x": "' + "y" * 1_000_000 + '"}'), "--parameters: parameters have 1,000,008 bytes as JSON; at most 16,384 are allowed"),
        (("ada", "email_digest", "--param", "novalue"), "--param: 'novalue' is not a parameter; write key=value"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_and_changes_nothing(
    tq: Tq, runtime: Runtime, words: tuple[str, ...], told: str
) -> None:
    answer = tq("users", "enable", *words)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {told}")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 500
    with pytest.raises(UserNotFound):
        runtime.store.preferences.get(ADA)


def test_a_task_that_is_not_declared_cannot_be_switched_on(tq: Tq, runtime: Runtime) -> None:
    answer = tq("users", "enable", "ada", "email_digst")

    assert answer.code == 1
    assert "did you mean 'email_digest'?" in answer.err
    with pytest.raises(UserNotFound):
        runtime.store.preferences.get(ADA)


def test_a_task_that_is_switched_off_keeps_its_settings_and_a_reason(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest", "--every", "hourly", "--param", "a=1")

    off = tq("users", "disable", "ada", "email_digest", "--reason", "asked for it", "--json").document

    assert (off["enabled"], off["reason"], off["changed"]) == (False, "asked for it", True)
    assert (off["interval"], off["parameters"]) == ({"type": "hourly"}, {"a": 1})


def test_switching_off_what_is_off_changes_nothing(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest")

    answer = tq("users", "disable", "ada", "hourly_sync")

    assert answer.code == 0
    assert answer.out == "hourly_sync is disabled for ada (UTC) already; nothing has changed\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nobody", "email_digest"), 1, "user 'nobody' has no task enabled or disabled"),
        (("ada", "email_digst"), 1, "no task 'email_digst' among the 2 defined"),
        (
            ("ada", "email_digest", "--reason", "x" * 201),
            2,
            "--reason: has 201 characters; write at most 200",
        ),
    ],
)
def test_whom_or_what_to_switch_off_must_be_known(
    tq: Tq, words: tuple[str, ...], code: int, told: str
) -> None:
    tq("users", "enable", "ada", "hourly_sync")

    answer = tq("users", "disable", *words)

    assert answer.code == code
    assert answer.err.startswith(f"error: {told}")


def test_a_user_is_shown_to_people_as_a_table(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest", "--timezone", "Europe/Berlin", "--every", "daily 08:00")
    tq("users", "enable", "ada", "hourly_sync", "--param", "city=:tada:[b]Bonn[/b]")

    answer = tq("users", "show", "ada")

    assert answer.out.startswith("ada lives in Europe/Berlin\n")
    assert "every day at 08:00 (Europe/Berlin)" in answer.out
    assert '{"city":":tada:[b]Bonn[/b]"}' in answer.out


def test_a_user_is_deleted_when_that_is_confirmed(tq: Tq, runtime: Runtime) -> None:
    tq("users", "enable", "ada", "email_digest")

    unasked = tq("users", "delete", "ada")
    confirmed = tq("users", "delete", "ada", "--yes", "--json")

    assert (unasked.code, unasked.out) == (2, "")
    assert "say --yes" in unasked.err
    assert confirmed.document == {"user_id": "ada", "deleted": True}
    with pytest.raises(UserNotFound):
        runtime.store.preferences.get(ADA)
    assert tq("users", "delete", "ada", "--yes").code == 1
