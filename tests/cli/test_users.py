"""`tq users`: one user at a time."""

import getpass
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Tq
from tq.errors import UserNotFound
from tq.models import RunId, UserId
from tq.runtime import Runtime
from tq.store.user_pauses import PausesOfUser

ADA = UserId("ada")
ME = f"{getpass.getuser()}@{socket.gethostname()}"


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


# --- Pauses ------------------------------------------------------------------------------------------


def test_a_user_is_paused_and_resumed(tq: Tq, runtime: Runtime) -> None:
    tq("users", "enable", "ada", "email_digest")

    paused = tq("users", "pause", "ada", "--reason", "on  holiday")
    shown = tq("users", "show", "ada", "--json").document
    told = tq("users", "show", "ada").out
    resumed = tq("users", "resume", "ada")

    assert (paused.code, paused.out) == (0, f"ada: paused by {ME}: on holiday\n")
    assert (shown["paused"]["reason"], shown["paused"]["by"], shown["paused"]["until"]) == (
        "on holiday",
        ME,
        None,
    )
    assert "paused" not in shown["tasks"]["email_digest"]
    assert f"\nada: paused by {ME}: on holiday\n" in told
    assert (resumed.code, resumed.out) == (0, "ada: resumed\n")
    assert runtime.store.user_pauses.of(ADA).everything is None


def test_a_users_task_is_paused_and_resumed(tq: Tq, runtime: Runtime) -> None:
    tq("users", "enable", "ada", "email_digest")
    before = runtime.store.now()

    paused = tq("users", "pause", "ada", "email_digest", "--for", "2h", "--json").document
    shown = tq("users", "show", "ada", "--json").document
    told = tq("users", "show", "ada").out
    resumed = tq("users", "resume", "ada", "email_digest", "--json").document

    assert (paused["user_id"], paused["task_id"], paused["paused"]["by"]) == ("ada", "email_digest", ME)
    assert before + timedelta(hours=2) <= datetime.fromisoformat(paused["paused"]["until"])
    assert shown["tasks"]["email_digest"]["paused"] == paused["paused"]
    assert "paused" not in shown
    assert f"paused by {ME} until " in told
    assert resumed == {"user_id": "ada", "task_id": "email_digest", "resumed": True}
    assert runtime.store.user_pauses.of(ADA).tasks == {}


def test_the_jobs_of_a_user_who_is_paused_are_skipped(
    tq: Tq, runtime: Runtime, work: Callable[[], int]
) -> None:
    for user in ("ada", "cyd"):
        tq("users", "enable", user, "hourly_sync")
    tq("users", "pause", "ada", "hourly_sync")

    run_id = RunId(tq("trigger", "hourly_sync").out.split()[1].rstrip(","))
    work()

    counts = runtime.store.runs.get(run_id).counts
    assert (counts.success, counts.skipped_by_reason) == (1, {"paused": 1})
    assert tq("results", "hourly_sync", "ada", "--json").document[0]["reason"] == "paused"


def test_who_ends_one_pause_is_told_of_those_that_are_left(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest")
    tq("users", "enable", "ada", "hourly_sync")
    tq("users", "pause", "ada")
    tq("users", "pause", "ada", "email_digest", "--reason", "too many")

    one = tq("users", "resume", "ada", "hourly_sync")
    all_of_them = tq("users", "resume", "ada")

    assert one.out == (
        "hourly_sync of ada: not paused, and nothing was changed\n"
        f"ada: still paused by {ME}; end that with tq users resume ada\n"
    )
    assert all_of_them.out == (
        "ada: resumed\n"
        f"email_digest of ada: still paused by {ME}: too many; end that with tq users resume ada email_digest\n"
    )


def test_a_user_who_is_paused_and_deleted_is_forgotten_with_the_pause(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest")
    tq("users", "pause", "ada")
    tq("users", "delete", "ada", "--yes")
    tq("users", "enable", "ada", "email_digest")

    assert "paused" not in tq("users", "show", "ada", "--json").document


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nobody",), 1, "user 'nobody' has no task enabled or disabled; see tq users enable --help"),
        (("ada", "email_digst"), 1, "no task 'email_digst' among the 2 defined"),
        (("ada", "email_digest"), 2, "user 'ada' never had 'email_digest' enabled or disabled"),
        (("a/b",), 2, "'a/b' cannot be the id of a user"),
        (("ada", "a/b"), 2, "'a/b' cannot be the id of a task"),
        (("ada", "--until", "tomorrow"), 2, "--until: 'tomorrow' is not an instant"),
        (("ada", "--until", "2020-01-01"), 2, "until: 2020-01-01T00:00:00Z is past"),
        (("ada", "--for", "0s"), 2, "--for: '0s' is too short; write at least 1s"),
        (("ada", "--for", "1h", "--until", "2099-01-01"), 2, "a pause ends --until an instant"),
        (("ada", "--reason", "x" * 201), 2, "--reason: has 201 characters"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_whom_and_what_to_pause_must_be_known_and_when_it_ends_to_come(
    tq: Tq, runtime: Runtime, words: tuple[str, ...], code: int, told: str
) -> None:
    tq("users", "enable", "ada", "hourly_sync")

    answer = tq("users", "pause", *words)

    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(f"error: {told}")
    assert runtime.store.user_pauses.of(ADA) == PausesOfUser(None, {})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nobody",), "user 'nobody' has no task enabled or disabled"),
        (("ada", "email_digst"), "no task 'email_digst' among the 2 defined"),
    ],
)
def test_whom_or_what_to_resume_must_be_known(tq: Tq, words: tuple[str, ...], told: str) -> None:
    tq("users", "enable", "ada", "hourly_sync")

    answer = tq("users", "resume", *words)

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"error: {told}")
