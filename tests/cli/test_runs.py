"""`tq trigger`, `tq runs` and `tq results`: what was started, and what became of it."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.cli.conftest import Tq
from tq.models import Overlap, RunId, RunKind, TaskId, UserId, scheduled_run_id
from tq.pipeline import distribute
from tq.runtime import Runtime
from tq.store.planning import ShareClaim
from tq.store.preferences import Cohort, Disable, Enable

SYNC = TaskId("hourly_sync")
HOUR = timedelta(hours=1)
Work = Callable[[], int]


@pytest.fixture(autouse=True)
def _three_enabled(runtime: Runtime) -> None:
    runtime.store.preferences.apply([Enable(UserId(name), SYNC) for name in ("ada", "bob", "eve")])


def claim_hourly(runtime: Runtime, *, hours_ago: int, lasts: timedelta = HOUR) -> RunId:
    """Claims the run that was due so many hours ago, as the scheduler does; it has so long from now on."""
    planning = runtime.store.planning
    runtime.definitions.publish(planning.look(limit=0))
    look = planning.look(limit=0)
    definition, task = runtime.definitions.in_force(look.fingerprint)[SYNC]
    nominal_at = look.now.replace(minute=0, second=0, microsecond=0) - hours_ago * HOUR
    run_id = scheduled_run_id(SYNC, nominal_at)
    share = ShareClaim(str(Cohort()), start_at=look.now, spread=timedelta(0), deadline_at=look.now + lasts)
    planning.claim(
        run_id,
        task=task,
        definition=definition,
        kind=RunKind.SCHEDULE,
        nominal_at=nominal_at,
        overlap=Overlap.REPLACE,
        shares=[share],
        distribution=runtime.transport.distribution_message(run_id),
        distribute_in=HOUR,
    )
    return run_id


def test_a_run_is_started_for_everybody(tq: Tq, work: Work) -> None:
    started = tq("trigger", "hourly_sync", "--json")
    work()
    ended = tq("runs", "show", started.document["run_id"], "--json").document

    assert (started.code, started.err) == (0, "")
    assert (started.document["status"], started.document["kind"]) == ("running", "manual")
    assert ended["status"] == "ended"
    assert (ended["expected"], ended["success"], ended["failed"]) == (3, 2, 1)
    assert (ended["open"], ended["unaccounted"]) == (0, 0)
    assert [(share["reached_percent"], share["done"]) for share in ended["shares"]] == [(100.0, True)]


def test_a_run_is_started_for_those_named(tq: Tq, work: Work) -> None:
    run_id = tq(
        "trigger", "hourly_sync", "--user", "ada", "--user", "eve", "--user", "ada", "--json"
    ).document["run_id"]
    work()

    ended = tq("runs", "show", run_id, "--json").document
    assert (ended["expected"], ended["success"]) == (2, 2)


def test_the_same_key_starts_one_run(tq: Tq) -> None:
    first = tq("trigger", "hourly_sync", "--key", "monday", "--json").document["run_id"]
    second = tq("trigger", "hourly_sync", "--key", "monday", "--json").document["run_id"]
    other = tq("trigger", "hourly_sync", "--key", "tuesday", "--json").document["run_id"]

    assert first == second != other
    assert len(tq("runs", "list", "--json").document) == 2


def test_people_are_told_how_to_follow_a_run(tq: Tq) -> None:
    answer = tq("trigger", "hourly_sync", "--key", "monday")

    run_id = tq("runs", "list", "--json").document[0]["run_id"]
    assert answer.out.startswith(f"run {run_id}, started at ")
    assert answer.out.endswith(f", is running; see tq runs watch {run_id}\n")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("hourly_snc",), 1, "no task 'hourly_snc' among the 2 defined; did you mean 'hourly_sync'?"),
        (("hourly_sync", "--user", "zoe"), 2, "user 'zoe' does not have 'hourly_sync' enabled"),
        (("hourly_sync", "--user", "../etc"), 2, "'../etc' cannot be the id of a user"),
        (("email_digest",), 2, "nobody has 'email_digest' enabled"),
    ],
)
def test_what_cannot_be_started_is_told(tq: Tq, words: tuple[str, ...], code: int, told: str) -> None:
    answer = tq("trigger", *words, "--json")

    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(f"error: {told}")
    assert tq("runs", "list", "--json").document == []


def test_the_latest_runs_are_listed_first(tq: Tq) -> None:
    keys = ("one", "two", "three")
    started = [tq("trigger", "hourly_sync", "--key", key, "--json").document["run_id"] for key in keys]

    listed = tq("runs", "list", "--task", "hourly_sync", "--limit", "2", "--json").document
    told = tq("runs", "list").out

    assert [run["run_id"] for run in listed] == [started[2], started[1]]
    assert all(run_id in told for run_id in started)


def test_runs_of_an_unknown_task_are_an_error(tq: Tq) -> None:
    assert tq("runs", "list", "--task", "hourly_snc").code == 1
    assert tq("runs", "list", "--task", "email_digest", "--json").document == []


def test_an_unknown_run_is_an_error(tq: Tq) -> None:
    for words in (("runs", "show", "x"), ("runs", "watch", "x", "--json")):
        answer = tq(*words)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("error: run 'x' is not known; see tq runs list")


def test_the_ledger_of_a_run_adds_up_before_everybodys_eyes(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    work()
    told = tq("runs", "show", run_id).out

    assert "3 expected, 2 + 1 + 0 + 0 + 0 + 0 = 3: everybody is accounted for" in told
    assert "everybody" in told
    assert "100 %" in told


def test_those_whose_jobs_are_open_are_named(tq: Tq, runtime: Runtime, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    distribute(runtime, RunId(run_id))

    all_of_them = tq("runs", "show", run_id, "--json").document
    some = tq("runs", "show", run_id, "--open", "1").out
    work()
    none = tq("runs", "show", run_id)

    assert all_of_them["open_users"] == ["ada", "bob", "eve"]
    assert all_of_them["open"] == 3
    assert ", and 2 more (--open names them)\n" in some
    assert "open: " not in none.out


def test_skipped_jobs_are_told_by_reason(tq: Tq, runtime: Runtime, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    distribute(runtime, RunId(run_id))
    runtime.store.preferences.apply([Disable(UserId("ada"), SYNC)])
    work()

    ended = tq("runs", "show", run_id, "--json").document
    assert (ended["skipped"], ended["skipped_by_reason"]) == (1, {"disabled": 1})
    assert "  disabled" in tq("runs", "show", run_id).out


def test_a_cancelled_run_makes_no_calls_and_says_why(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]

    answer = tq("runs", "cancel", run_id, "--reason", "by mistake")

    assert answer.out == (
        f"{run_id} is cancelled; calls under way end, what else is open ends as cancelled\n"
    )
    assert "being cancelled (by mistake)" in tq("runs", "show", run_id).out
    work()
    ended = tq("runs", "show", run_id, "--json").document
    assert (ended["status"], ended["reason"]) == ("cancelled", "by mistake")
    assert (ended["expected"], ended["cancelled"], ended["unaccounted"]) == (3, 3, 0)


def test_a_run_that_has_ended_or_never_was_cannot_be_cancelled(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    work()

    ended, unknown = tq("runs", "cancel", run_id), tq("runs", "cancel", "no-such-run")

    assert (ended.code, ended.err) == (
        2,
        f"error: run '{run_id}' is ended, there is nothing left to cancel\n",
    )
    assert (unknown.code, unknown.out) == (1, "")
    assert "run 'no-such-run' is not known" in unknown.err


def test_watching_an_ended_run_ends_at_once(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    work()

    told = tq("runs", "watch", run_id)
    objects = tq("runs", "watch", run_id, "--json")

    assert (told.code, told.out) == (0, f"{run_id}: ended, 3 expected: 2 success, 1 failed\n")
    assert [run["status"] for run in objects.objects] == ["ended"]


def test_results_of_a_user_and_failures_of_a_task_are_shown(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    work()

    ada = tq("results", "hourly_sync", "ada", "--json").document
    failures = tq("results", "hourly_sync", "--failures", "--json").document
    told = tq("results", "hourly_sync", "--failures").out

    assert [(result["run_id"], result["status"], result["attempts"]) for result in ada] == [
        (run_id, "success", 1)
    ]
    assert ada[0]["ended_at"].endswith("Z")
    assert [(result["user_id"], result["error"]["code"]) for result in failures] == [("bob", "HTTP_400")]
    assert "no such address" in told


def test_where_there_are_no_results_it_is_said_why(tq: Tq) -> None:
    nothing_yet = tq("results", "hourly_sync", "ada")
    none_failed = tq("results", "hourly_sync", "--failures", "--json")
    unknown_user = tq("results", "hourly_sync", "zoe")
    unknown_task = tq("results", "hourly_snc", "ada")

    assert (nothing_yet.code, nothing_yet.out) == (0, "no results of hourly_sync are kept\n")
    assert none_failed.document == []
    assert (unknown_user.code, unknown_task.code) == (1, 1)
    assert unknown_user.err.startswith("error: user 'zoe'")
    assert unknown_task.err.startswith("error: no task 'hourly_snc'")


def test_a_run_that_goes_on_tells_when_it_is_expected_to_end(tq: Tq, work: Work) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]

    going_on = tq("runs", "show", run_id, "--json").document
    [listed] = tq("runs", "list", "--json").document
    told, listed_told = tq("runs", "show", run_id).out, tq("runs", "list").out
    work()
    ended = tq("runs", "show", run_id, "--json").document

    assert going_on["claimed_at"] <= going_on["expected_end_at"] <= going_on["deadline_at"]
    assert listed["expected_end_at"] is not None
    assert (going_on["held"], listed["held"]) == (None, None)
    assert "expected end 20" in told
    assert "expected end 20" in listed_told
    assert (ended["expected_end_at"], ended["held"]) == (None, None)


def test_people_are_told_where_a_run_was_cut_and_where_the_next_began(tq: Tq, runtime: Runtime) -> None:
    first = claim_hourly(runtime, hours_ago=2)
    distribute(runtime, first, room=1)
    second = claim_hourly(runtime, hours_ago=1)

    cut, following = (tq("runs", "show", run_id, "--json").document for run_id in (first, second))
    told, following_told = (tq("runs", "show", run_id).out for run_id in (first, second))

    [its], [next_] = cut["shares"], following["shares"]
    assert (its["begins_at_percent"], next_["cut_at_percent"]) == (0, None)
    assert 0 < its["cut_at_percent"] == next_["begins_at_percent"] <= 33.4
    at = f"{its['cut_at_percent']:g} %"
    assert f"users in all time zones: cut at {at} of this run's order, where the next run begins\n" in told
    begun = f"begun at {at} of the usual order, with those whom the run before did not reach\n"
    assert f"users in all time zones: {begun}" in following_told
    assert "begun at" not in told
    assert "cut at" not in following_told


def test_of_a_run_that_will_be_cut_it_is_told_that_the_next_goes_on(tq: Tq, runtime: Runtime) -> None:
    run_id = claim_hourly(runtime, hours_ago=1, lasts=timedelta(0))

    told = tq("runs", "show", run_id).out

    late = "at its deadline, before everybody is served; the next run begins with those who are left"
    assert late in " ".join(told.split())


def test_of_a_run_that_is_held_people_are_told_why(tq: Tq, runtime: Runtime) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    runtime.store.orders.pause(SYNC, reason="maintenance", by="ada")

    document = tq("runs", "show", run_id, "--json").document

    assert document["expected_end_at"] is None
    assert document["held"] == "paused by ada: maintenance"
    assert "held: paused by ada: maintenance" in tq("runs", "show", run_id).out
    assert "held: paused by ada: maintenance" in tq("runs", "list").out


def test_who_follows_a_run_is_told_when_it_is_expected_to_end(
    tq: Tq, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    # While the command waits for the next look, the run is worked.
    monkeypatch.setattr("tq.cli.runs.time.sleep", lambda _seconds: work())

    first, *_, last = tq("runs", "watch", run_id).out.splitlines()

    assert f"{run_id}: running, 0 expected: none ended; expected end 20" in first
    assert last == f"{run_id}: ended, 3 expected: 2 success, 1 failed"
