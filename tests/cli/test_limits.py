"""`tq limits`, `tq tasks limit|pause|resume`: what holds and why, and what an operator orders about it."""

import getpass
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TASKS, Tq
from tq.clock import iso
from tq.limits import EVERY_TASK, KINDS, limit_everything, limit_of
from tq.models import RunId, TaskId, UserId
from tq.runtime import Runtime
from tq.store.limits import Answer, Ask, Report, Request
from tq.store.preferences import Enable

DIGEST, SYNC = TaskId("email_digest"), TaskId("hourly_sync")
ME = f"{getpass.getuser()}@{socket.gethostname()}"
SCOPES = pytest.mark.parametrize(
    ("order", "scope"),
    [(("limits", "--set"), EVERY_TASK), (("tasks", "limit", "email_digest"), DIGEST)],
    ids=["all tasks", "a task"],
)


def exchange(runtime: Runtime, task_id: TaskId = SYNC, **fields: Any) -> Answer:
    """What the limiter answers to a worker that has three jobs waiting and one under way."""
    limit = limit_of(runtime.registry.current.get(task_id), runtime.settings)
    ask = Ask(task_id, limit, **{"slots": 3, "weight": 4, "waiting": 3, "in_use": 1, **fields})
    return runtime.store.limits.exchange(
        Request("worker:1", limit_everything(runtime.settings), slots=3, tasks=[ask], waiting=3, in_use=1)
    )


def document_of(tq: Tq, scope: str) -> dict[str, Any]:
    """How a scope stands, as programs read it."""
    document = tq("limits", "--json").document
    return next(row for row in [document["everything"], *document["tasks"]] if row["scope"] == scope)


# --- Looking ---------------------------------------------------------------------------------------


def test_limits_are_shown_of_all_tasks_together_and_of_each(tq: Tq, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(
        TASKS.replace("retries: 0", "rate_limit: 30/m\n    concurrency: 2")
        + "  - id: report\n    interval: {type: daily}\n"
        "    rate_limit: {base: 50, min: 25, max: 100}\n    config: {endpoint: https://example.com}\n"
    )

    document = tq("limits", "--json").document
    told = tq("limits").out

    everything, rows = document["everything"], document["tasks"]
    assert (everything["scope"], everything["configured"], everything["effective"]) == ("*", 100, 100)
    assert [(row["scope"], row["configured"], row["concurrency"]) for row in rows] == [
        ("email_digest", None, None),
        ("hourly_sync", 0.5, 2),
        ("report", {"base": 50, "min": 25, "max": 100}, None),
    ]
    assert [(row["strategy"], row["ceiling"], row["effective"]) for row in rows] == [
        ("adaptive", 100, 50),
        ("adaptive", 0.5, 0.25),
        ("stepped", 100, 50),
    ]
    assert told.splitlines()[1].startswith("all tasks     100/s  ")
    assert "30/m, 2 at a time" in told
    assert "50/s, from 25/s in trouble to 100/s when all is well" in told


def test_what_is_under_way_and_how_it_goes_is_shown(tq: Tq, runtime: Runtime) -> None:
    exchange(runtime, counts=[3, *[0] * (len(KINDS) - 2), 1])

    row = document_of(tq, SYNC)

    assert (row["in_use"], row["waiting"], row["error_rate"]) == (1, 3, 0.25)
    assert (row["state"], row["why"], row["until"]) == ("closed", "starting halfway up", None)
    whole = document_of(tq, EVERY_TASK)
    assert (whole["in_use"], whole["waiting"], whole["error_rate"]) == (1, 3, 0.25)
    assert "25.0%" in tq("limits").out


def test_the_document_has_the_same_keys_for_every_scope(tq: Tq) -> None:
    document = tq("limits", "--json").document

    keys = (
        "scope declared configured concurrency strategy ordered paused ceiling effective state why until "
        "in_use waiting pace error_rate"
    )
    assert all(" ".join(row) == keys for row in [document["everything"], *document["tasks"]])


def test_a_task_that_must_wait_has_no_rate_and_says_until_when(tq: Tq, runtime: Runtime) -> None:
    granted = exchange(runtime)
    refused = Report(granted.scopes[SYNC].epoch, probe=False, overload=1, hold=300)
    exchange(runtime, reports=[refused])

    row = document_of(tq, SYNC)

    assert row["effective"] == 0
    assert row["why"] == "the endpoint asked for a wait (Retry-After)"
    assert row["until"].endswith("Z")
    assert "none" in tq("limits").out
    assert document_of(tq, DIGEST)["effective"] == 50


# --- Rates -------------------------------------------------------------------------------------------


@SCOPES
def test_an_ordered_rate_is_a_ceiling_until_it_is_reset(tq: Tq, order: tuple[str, ...], scope: str) -> None:
    answer = tq(*order, "80/s", "--json")
    shown = document_of(tq, scope)
    reset = tq(*[word for word in order if word != "--set"], "--reset", "--json").document

    assert (answer.code, answer.document["scope"]) == (0, scope)
    assert answer.document["ordered"] == shown["ordered"]
    assert {key: shown["ordered"][key] for key in ("rate", "pinned", "by")} == {
        "rate": 80,
        "pinned": False,
        "by": ME,
    }
    assert (shown["ceiling"], reset["ceiling"], reset["ordered"]) == (80, 100, None)


@pytest.mark.parametrize(
    ("written", "rate"), [("50/s", 50), ("30/m", 0.5), ("0.5/s", 0.5), ("3600/h", 1), ("12", 12)]
)
def test_a_rate_is_ordered_as_it_is_written_in_definitions(tq: Tq, written: str, rate: float) -> None:
    assert tq("tasks", "limit", "email_digest", written, "--json").document["ordered"]["rate"] == rate


@SCOPES
def test_a_pinned_rate_is_the_effective_one_and_says_by_whom(
    tq: Tq, order: tuple[str, ...], scope: str
) -> None:
    tq(*order, "60/s", "--pin")

    row = document_of(tq, scope)
    assert (row["effective"], row["strategy"], row["why"]) == (60, "pinned", f"pinned by {ME}")
    assert f"60/s pinned by {ME}" in tq("limits").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("tasks", "limit", "email_digest", "50/s"),
            "email_digest: at most 50/s, until tq tasks limit email_digest --reset\n",
        ),
        (
            ("tasks", "limit", "email_digest", "0.5/s", "--pin"),
            "email_digest: exactly 30/m, until tq tasks limit email_digest --reset\n",
        ),
        (("limits", "--set", "200/s"), "all tasks: at most 200/s, until tq limits --reset\n"),
        (
            ("tasks", "limit", "email_digest", "400/s"),
            (
                "email_digest: at most 400/s, until tq tasks limit email_digest --reset\n"
                "all tasks: at most 100/s together; see tq limits\n"
            ),
        ),
        (
            ("tasks", "limit", "email_digest", "--reset"),
            "email_digest: no rate was ordered; it has what is configured, no limit but that of all tasks\n",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_order_is_told_with_the_way_back(tq: Tq, words: tuple[str, ...], told: str) -> None:
    answer = tq(*words)

    assert (answer.code, answer.out, answer.err) == (0, told, "")


def test_the_way_back_leads_to_what_is_configured(tq: Tq) -> None:
    tq("limits", "--set", "200/s")

    assert tq("limits", "--reset").out == "all tasks: what is configured, 100/s\n"


def test_of_three_steps_an_order_is_the_middle_one(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQ_RATE_STRATEGY", "stepped")

    answer = tq("tasks", "limit", "email_digest", "50/s")

    assert answer.out.startswith("email_digest: 50/s, 25/s in trouble, 100/s when all is well, until ")
    assert document_of(tq, DIGEST)["ceiling"] == 100


def test_a_task_never_has_more_than_all_tasks_together(tq: Tq) -> None:
    tq("limits", "--set", "20/s")

    row = document_of(tq, DIGEST)

    assert (row["ceiling"], row["effective"]) == (20, 10)


def test_an_order_reaches_the_workers(tq: Tq, runtime: Runtime) -> None:
    exchange(runtime)

    tq("tasks", "limit", "hourly_sync", "7/s", "--pin")

    assert exchange(runtime).scopes[SYNC].rate == 7


def test_one_task_can_be_looked_at_alone(tq: Tq) -> None:
    answer = tq("tasks", "limit", "email_digest")

    assert len(answer.out.splitlines()) == 2
    assert tq("tasks", "limit", "email_digest", "--json").document == document_of(tq, DIGEST)


# --- Pauses ------------------------------------------------------------------------------------------


def test_a_task_is_paused_and_resumed(tq: Tq, runtime: Runtime) -> None:
    paused = tq("tasks", "pause", "hourly_sync", "--reason", "they move house")
    held = exchange(runtime)
    shown = document_of(tq, SYNC)
    resumed = tq("tasks", "resume", "hourly_sync")

    assert (paused.code, paused.out) == (0, f"hourly_sync: paused by {ME}: they move house\n")
    assert held.grants == []
    assert (shown["effective"], shown["why"]) == (0, f"paused by {ME}: they move house")
    assert shown["paused"]["reason"] == "they move house"
    assert (resumed.code, resumed.out) == (0, "hourly_sync: resumed\n")
    assert exchange(runtime).grants


def test_everything_is_paused_and_resumed(tq: Tq, runtime: Runtime) -> None:
    paused = tq("tasks", "pause", "--all", "--json").document
    held = exchange(runtime)
    shown = document_of(tq, SYNC)
    resumed = tq("tasks", "resume", "--all", "--json").document

    assert (paused["scope"], paused["paused"]["by"], paused["paused"]["until"]) == ("*", ME, None)
    assert held.grants == []
    assert (shown["effective"], shown["why"], shown["paused"]) == (0, f"all tasks paused by {ME}", None)
    assert resumed == {"scope": "*", "resumed": True}
    assert exchange(runtime).grants


def test_a_pause_can_end_by_itself_at_an_instant(tq: Tq, runtime: Runtime) -> None:
    until = runtime.store.now().replace(microsecond=0) + timedelta(hours=1)

    answer = tq("tasks", "pause", "hourly_sync", "--until", iso(until))

    assert answer.out == f"hourly_sync: paused by {ME} until {until:%Y-%m-%d %H:%M:%S} UTC\n"
    assert document_of(tq, SYNC)["until"] == iso(until)


def test_a_pause_can_end_by_itself_after_a_time(tq: Tq, runtime: Runtime) -> None:
    before = runtime.store.now()

    paused = tq("tasks", "pause", "hourly_sync", "--for", "2h", "--json").document["paused"]

    since, until = (datetime.fromisoformat(paused[name]) for name in ("since", "until"))
    assert before + timedelta(hours=2) <= until
    assert abs(until - since - timedelta(hours=2)) < timedelta(minutes=1)


def test_a_task_that_is_not_paused_stays_so(tq: Tq) -> None:
    assert tq("tasks", "resume", "hourly_sync").out == "hourly_sync: not paused, and nothing was changed\n"
    assert tq("tasks", "resume", "hourly_sync", "--json").document == {
        "scope": "hourly_sync",
        "resumed": False,
    }


def test_who_resumes_a_task_is_told_if_all_tasks_are_still_paused(tq: Tq) -> None:
    tq("tasks", "pause", "hourly_sync")
    tq("tasks", "pause", "--all", "--reason", "they move house")

    assert tq("tasks", "resume", "hourly_sync").out == (
        "hourly_sync: resumed\n"
        f"all tasks: still paused by {ME}: they move house; end that with tq tasks resume --all\n"
    )


@pytest.mark.parametrize("what", ["hourly_sync", "--all"])
def test_the_tasks_say_that_they_are_paused(tq: Tq, what: str) -> None:
    tq("tasks", "pause", what, "--reason", "they move house")

    listed = {task["id"]: task["paused"] for task in tq("tasks", "list", "--json").document}
    assert listed["hourly_sync"]["reason"] == "they move house"
    assert (listed["email_digest"] is None) == (what == "hourly_sync")
    assert tq("tasks", "show", "hourly_sync", "--json").document["paused"] == listed["hourly_sync"]
    for told in (tq("tasks", "list"), tq("tasks", "show", "hourly_sync")):
        assert f"paused by {ME}: they move house" in told.out


@pytest.mark.parametrize("what", ["hourly_sync", "--all"])
def test_a_run_that_is_started_in_a_pause_waits_for_its_end_and_says_so(
    tq: Tq, runtime: Runtime, work: Callable[[], int], what: str
) -> None:
    runtime.store.preferences.apply([Enable(UserId("ada"), SYNC)])
    tq("tasks", "pause", what, "--reason", "they move house")

    told = tq("trigger", "hourly_sync").out
    run_id = RunId(told.split()[1].rstrip(","))
    work()

    assert f", is running, but waits: paused by {ME}: they move house; see tq runs watch " in told
    assert tq("runs", "show", run_id, "--json").document["held"].startswith("paused by")
    assert runtime.store.runs.get(run_id).counts.ended == 0


# --- What cannot be done -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("limits", "--set", "fast"), "--set: 'fast' is not a rate; write calls per second"),
        (("limits", "--set", "0"), "--set: '0' is too small; write more than 0"),
        (("limits", "--pin"), "--pin says how a rate is held; give it with --set"),
        (("limits", "--set", "1/s", "--reset"), "--reset goes back to what is configured, and --set orders"),
        (("tasks", "limit", "email_digest", "50/d"), "RATE: '50/d' is not a rate; write calls per second"),
        (("tasks", "limit", "email_digest", "--pin"), "--pin says how a rate is held; give it with RATE"),
        (("tasks", "limit", "email_digest", "1/s", "--reset"), "--reset goes back to what is configured"),
        (("tasks", "limit", "../etc", "1/s"), "'../etc' cannot be the id of a task"),
        (("tasks", "pause"), "name a task, or say --all for all tasks; one of the two"),
        (("tasks", "pause", "email_digest", "--all"), "name a task, or say --all"),
        (("tasks", "resume"), "name a task, or say --all"),
        (("tasks", "pause", "--all", "--until", "tomorrow"), "--until: 'tomorrow' is not an instant"),
        (("tasks", "pause", "--all", "--until", "2020-01-01"), "until: 2020-01-01T00:00:00Z is past; write"),
        (("tasks", "pause", "--all", "--for", "0s"), "--for: '0s' is too short; write at least 1s"),
        (
            ("tasks", "pause", "--all", "--for", "1h", "--until", "2099-01-01"),
            "a pause ends --until an instant",
        ),
        (("tasks", "pause", "--all", "--reason", "x" * 201), "--reason: has 201 characters"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_ordered_is_wrong_usage_and_orders_nothing(
    tq: Tq, runtime: Runtime, words: tuple[str, ...], told: str
) -> None:
    answer = tq(*words)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {told}")
    assert runtime.store.orders.in_force() == ({}, {})


@pytest.mark.parametrize(
    "words",
    [
        ("limit", "email_digst"),
        ("limit", "email_digst", "1/s"),
        ("pause", "email_digst"),
        ("resume", "email_digst"),
    ],
    ids=" ".join,
)
def test_nothing_is_ordered_for_a_task_that_is_not_known(
    tq: Tq, runtime: Runtime, words: tuple[str, ...]
) -> None:
    answer = tq("tasks", *words)

    assert answer.code == 1
    assert answer.err == "error: no task 'email_digst' among the 2 defined; did you mean 'email_digest'?\n"
    assert runtime.store.orders.in_force() == ({}, {})


def test_what_was_ordered_for_a_task_can_be_withdrawn_when_it_is_declared_no_more(
    tq: Tq, runtime: Runtime
) -> None:
    runtime.store.orders.set_rate("gone_task", 5)
    runtime.store.orders.pause("gone_task")

    row = document_of(tq, "gone_task")
    told = tq("limits").out
    resumed, reset = tq("tasks", "resume", "gone_task"), tq("tasks", "limit", "gone_task", "--reset")

    assert (row["declared"], row["ordered"]["rate"]) == (False, 5)
    assert "not declared here" in told
    assert (resumed.code, reset.code) == (0, 0)
    assert runtime.store.orders.in_force() == ({}, {})


def test_a_user_without_a_name_is_told_by_number(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)

    paused = tq("tasks", "pause", "--all", "--json").document["paused"]

    assert paused["by"] == f"4711@{socket.gethostname()}"


def test_an_order_for_all_tasks_can_be_given_where_the_tasks_file_cannot_be_read(
    tq: Tq, tmp_path: Path
) -> None:
    (tmp_path / "tasks.yaml").write_text("tasks: [")

    answer = tq("limits", "--set", "20/s")

    assert (answer.code, answer.err) == (0, "")
    assert "20/s" in answer.out
