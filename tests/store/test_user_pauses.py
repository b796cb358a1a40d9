"""A user whom operators have paused gets no job, and is accounted for all the same."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tq.errors import InvalidInput, UserNotFound
from tq.models import (
    Interval,
    JobStatus,
    Priority,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    TaskId,
    UserId,
    Verdict,
)
from tq.store import Store
from tq.store.agenda import PutOff
from tq.store.ledger import Retry
from tq.store.orders import Pause
from tq.store.preferences import Disable, Enable, Relocate
from tq.store.user_pauses import PausesOfUser

from . import (
    DIGEST,
    HOUR,
    NINE,
    NOW,
    ListTransport,
    agenda_entries,
    another,
    at_once,
    claim,
    contents,
    distribute,
    enable,
    end_of,
    frozen,
    jobs_sent,
    keys_of,
    names,
    next_step,
    running,
    share_of,
)

ADA, BOB = UserId("ada"), UserId("bob")
SYNC = TaskId("hourly_sync")
MILLISECOND = timedelta(milliseconds=1)
BOTH_SCOPES = pytest.mark.parametrize("task_id", [None, DIGEST], ids=["user", "task of user"])


def paused_counts(expected: int, paused: int, **others: int) -> RunCounts:
    """Counts of a run in which so many were skipped because they were paused."""
    return RunCounts(expected=expected, skipped=paused, skipped_by_reason={"paused": paused}, **others)


def questions_of(store: Store, action: Callable[[], object]) -> Counter[str]:
    """Which reading commands Redis carries out for an action, within scripts, and how often."""
    store.connection.call("CONFIG", "RESETSTAT")
    action()
    statistics = store.connection.client.info("commandstats")
    asking = ("exists", "hget", "hmget", "hgetall", "hexists", "hlen")
    return Counter(
        {name: statistics[f"cmdstat_{name}"]["calls"] for name in asking if f"cmdstat_{name}" in statistics}
    )


# --- What is ordered -----------------------------------------------------------------------------


@BOTH_SCOPES
def test_a_pause_says_why_since_when_by_whom_and_until_when(store: Store, task_id: TaskId | None) -> None:
    enable(store, ["ada"])

    store.user_pauses.pause(ADA, task_id, reason="on holiday", by="ada@ops", until=NOW + HOUR)

    pause = Pause("on holiday", "ada@ops", NOW, NOW + HOUR)
    expected = PausesOfUser(None, {DIGEST: pause}) if task_id else PausesOfUser(pause, {})
    assert another(store).user_pauses.of(ADA) == expected
    assert store.user_pauses.of(BOB) == PausesOfUser(None, {})


@BOTH_SCOPES
def test_who_pauses_what_is_paused_changes_why_and_until_when_but_not_since_when(
    store: Store, task_id: TaskId | None
) -> None:
    enable(store, ["ada"])
    store.user_pauses.pause(ADA, task_id, reason="on holiday", by="ada@ops", until=NOW + HOUR)
    frozen(store).advance(HOUR / 2)

    store.user_pauses.pause(ADA, task_id, reason="ill", by="bob@ops")

    found = store.user_pauses.of(ADA)
    assert [found.everything, *found.tasks.values()][-1] == Pause("ill", "bob@ops", NOW, None)


def test_the_pauses_of_a_user_and_of_the_users_tasks_are_each_for_themselves(store: Store) -> None:
    enable(store, ["ada"])
    enable(store, ["ada"], SYNC)
    store.user_pauses.pause(ADA)
    store.user_pauses.pause(ADA, DIGEST)

    assert store.user_pauses.resume(ADA)
    assert not store.user_pauses.resume(ADA)
    assert not store.user_pauses.resume(ADA, SYNC)

    found = store.user_pauses.of(ADA)
    assert (found.everything, list(found.tasks)) == (None, [DIGEST])
    assert store.user_pauses.resume(ADA, DIGEST)
    assert store.user_pauses.of(ADA) == PausesOfUser(None, {})


@BOTH_SCOPES
def test_a_pause_is_over_at_its_end_to_the_millisecond_and_then_forgotten(
    store: Store, task_id: TaskId | None
) -> None:
    run_id = running(store, names(2))
    first, second = (UserId(user) for user in names(2))
    store.user_pauses.pause(first, task_id, until=NOW + HOUR)
    store.user_pauses.pause(second, task_id, until=NOW + HOUR + MILLISECOND)

    frozen(store).advance(HOUR)
    distribute(store, run_id)

    assert [job.user_id for job in jobs_sent(store)] == [first]
    assert store.connection.call("HLEN", store.keys("user_pauses")) == 1
    assert not store.user_pauses.resume(first, task_id)
    frozen(store).advance(MILLISECOND)
    assert store.user_pauses.of(second) == PausesOfUser(None, {})
    assert store.keys("user_pauses") not in keys_of(store)


def test_a_pause_that_would_be_over_already_is_refused_and_changes_nothing(store: Store) -> None:
    distribute(store, running(store, ["ada"]))
    before = contents(store)

    with pytest.raises(InvalidInput, match=r"until: 2026-11-24T09:45:00Z is past; write an instant"):
        store.user_pauses.pause(ADA, until=NOW)

    assert contents(store) == before


def test_whom_or_what_there_is_not_cannot_be_paused(store: Store) -> None:
    enable(store, ["ada"])
    before = contents(store)

    with pytest.raises(UserNotFound, match="user 'bob' has no task enabled or disabled"):
        store.user_pauses.pause(BOB)
    with pytest.raises(InvalidInput, match="user 'ada' never had 'hourly_sync' enabled or disabled"):
        store.user_pauses.pause(ADA, SYNC)

    assert contents(store) == before


def test_who_is_deleted_leaves_no_pause_to_another_of_that_name(store: Store) -> None:
    enable(store, ["ada"])
    enable(store, ["ada"], SYNC)
    store.preferences.apply([Disable(ADA, SYNC)])
    for task_id in (None, DIGEST, SYNC):
        store.user_pauses.pause(ADA, task_id)

    store.preferences.forget(ADA)

    assert store.keys("user_pauses") not in keys_of(store)


@pytest.mark.parametrize(
    "changes",
    [
        [Disable(ADA, DIGEST), Enable(ADA, DIGEST)],
        [Enable(ADA, DIGEST, interval=Interval.hourly())],
        [Relocate(ADA, "Asia/Tokyo")],
    ],
    ids=["disabled and enabled", "interval", "zone"],
)
@BOTH_SCOPES
def test_a_pause_outlasts_every_other_change_of_the_user(
    store: Store, task_id: TaskId | None, changes: list[Disable | Enable | Relocate]
) -> None:
    enable(store, ["ada"])
    store.user_pauses.pause(ADA, task_id)
    before = store.user_pauses.of(ADA)

    store.preferences.apply(changes)

    assert store.user_pauses.of(ADA) == before
    claim(store, share_of("*|*"), kind=RunKind.MANUAL)
    [run_id] = store.runs.active(DIGEST)
    assert distribute(store, run_id) == 0
    assert store.runs.get(run_id).counts == paused_counts(1, 1)


# --- What is open when the pause begins ------------------------------------------------------------


@BOTH_SCOPES
def test_the_open_jobs_of_a_user_who_is_paused_end_and_close_their_runs(
    store: Store, task_id: TaskId | None
) -> None:
    run_id = running(store, ["ada", "bob"])
    asked = RunId("email_digest~m1")
    claim(store, share_of(), run_id=asked)
    for run in (run_id, asked):
        distribute(store, run)
    store.ledger.finish([end_of(job) for job in jobs_sent(store) if job.user_id == BOB])
    under_way = [job for job in jobs_sent(store) if job.user_id == ADA]

    store.user_pauses.pause(ADA, task_id)

    for run in (run_id, asked):
        assert store.runs.get(run).status is RunStatus.ENDED
        assert store.runs.get(run).counts == paused_counts(2, 1, success=1)
    assert {permission.verdict for permission in store.ledger.begin(under_way)} == {Verdict.ENDED}
    assert store.ledger.finish([end_of(job) for job in under_way]) == [False, False]
    assert store.ledger.finish([Retry(job, HOUR, 1, Priority.NORMAL) for job in under_way]) == [False, False]
    assert agenda_entries(store) == {}


def test_what_waits_on_the_agenda_for_a_user_ends_with_the_pause(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    ada, bob = sorted(jobs_sent(store), key=lambda job: job.user_id)
    store.ledger.finish([Retry(ada, HOUR, 1, Priority.NORMAL)])
    message = ListTransport("").job_message(bob, Priority.NORMAL)
    store.agenda.put_off([PutOff(bob, message, HOUR)])
    frozen(store).advance(HOUR / 2)

    store.user_pauses.pause(ADA)
    store.user_pauses.pause(BOB, DIGEST)

    assert agenda_entries(store) == {}
    assert store.connection.call("HLEN", store.keys("agenda_messages")) == 0
    assert store.runs.get(run_id).counts == paused_counts(2, 2, retries=1)
    [result] = store.results.of(DIGEST, ADA)
    assert (
        result
        == end_of(
            ada,
            JobStatus.SKIPPED,
            reason="paused",
            started_at=None,
            ended_at=NOW + HOUR / 2,
            duration=timedelta(0),
            attempts=1,
        ).result
    )


def test_pausing_one_task_leaves_jobs_of_other_tasks_and_users_open(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    enable(store, ["ada"], SYNC)

    store.user_pauses.pause(ADA, SYNC)
    store.user_pauses.pause(BOB)

    assert list(store.runs.open_users(run_id)) == ["ada"]


def test_a_job_whose_end_is_about_to_be_recorded_keeps_it(store: Store) -> None:
    run_id = running(store, ["ada"])
    distribute(store, run_id)
    [job] = jobs_sent(store)
    store.preferences.apply([Disable(ADA, DIGEST, reason="the endpoint answered 410 Gone", sparing=run_id)])

    store.user_pauses.pause(ADA)

    assert store.ledger.finish([end_of(job, JobStatus.FAILED)]) == [True]
    assert store.runs.get(run_id).counts == RunCounts(expected=1, failed=1)


# --- What comes to the user in the pause ------------------------------------------------------------


@BOTH_SCOPES
def test_who_is_paused_gets_no_job_and_is_counted_with_a_result(store: Store, task_id: TaskId | None) -> None:
    run_id = running(store, ["ada", "bob"])
    store.user_pauses.pause(ADA, task_id)

    sent = distribute(store, run_id)

    assert sent == 1
    assert [job.user_id for job in jobs_sent(store)] == [BOB]
    run = store.runs.get(run_id)
    assert run.counts == paused_counts(2, 1, open=1)
    assert [share.open for share in run.shares] == [1]
    [result] = store.results.of(DIGEST, ADA)
    assert (result.run_id, result.status, result.reason) == (run_id, JobStatus.SKIPPED, "paused")
    assert (result.scheduled_at, result.ended_at, result.started_at, result.attempts) == (NINE, NOW, None, 0)


def test_a_run_of_nobody_but_paused_users_closes_with_its_last_step(store: Store) -> None:
    run_id = running(store, ["ada"])
    store.user_pauses.pause(ADA)

    distribute(store, run_id)

    run = store.runs.get(run_id)
    assert (run.status, run.counts) == (RunStatus.ENDED, paused_counts(1, 1))
    assert run_id not in store.runs.active(DIGEST)


def test_the_pause_of_another_task_or_one_that_is_resumed_keeps_nobody_from_a_job(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    enable(store, ["ada"], SYNC)
    store.user_pauses.pause(ADA, SYNC)
    store.user_pauses.pause(BOB)
    store.user_pauses.resume(BOB)

    assert distribute(store, run_id) == 2


def test_who_is_paused_and_switched_off_since_the_page_was_read_is_not_expected(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    step = next_step(store, run_id)
    store.user_pauses.pause(ADA)
    store.preferences.apply([Disable(ADA, DIGEST)])

    store.ledger.fan_out(run_id, step, Priority.NORMAL)

    assert store.runs.get(run_id).counts == RunCounts(expected=1, open=1)
    assert store.results.of(DIGEST, ADA) == []


def test_a_step_that_comes_twice_skips_nobody_twice(store: Store) -> None:
    run_id = running(store, names(3))
    store.user_pauses.pause(UserId(names(3)[0]))
    step = replace(next_step(store, run_id), done=False)

    store.ledger.fan_out(run_id, step, Priority.NORMAL)
    again = store.ledger.fan_out(run_id, step, Priority.NORMAL)

    assert again is None
    assert store.runs.get(run_id).counts == paused_counts(3, 1, open=2)


def test_of_any_number_of_members_those_who_are_paused_are_found(store: Store) -> None:
    everybody = names(1300)
    paused = set(everybody[::90])
    run_id = running(store, everybody)
    for index, user in enumerate(sorted(paused)):
        store.user_pauses.pause(UserId(user), DIGEST if index % 2 else None)

    sent = distribute(store, run_id, size=5000)

    assert sent == len(everybody) - len(paused)
    assert {str(job.user_id) for job in jobs_sent(store)} == set(everybody) - paused
    assert store.runs.get(run_id).counts == paused_counts(1300, len(paused), open=sent)


def test_a_step_asks_once_whether_anybody_is_paused_and_if_so_once_more_who(store: Store) -> None:
    enable(store, names(400))
    enable(store, ["ada"], SYNC)

    def spread(run: str) -> Counter[str]:
        claim(store, share_of(), run_id=RunId(run))
        step = next_step(store, RunId(run))
        return questions_of(store, lambda: store.ledger.fan_out(RunId(run), step, Priority.NORMAL))

    spread("email_digest~m1")  # has Redis know the script
    before = spread("email_digest~m2")
    store.user_pauses.pause(ADA)
    paused = spread("email_digest~m3")
    store.user_pauses.resume(ADA)
    afterwards = spread("email_digest~m4")

    assert before["exists"] == 1
    assert paused - before == Counter({"hmget": 1})
    assert afterwards == before


def test_whoever_races_a_paused_user_is_skipped_once_and_has_no_open_job(store: Store) -> None:
    everybody = names(60)
    run_id = running(store, everybody)

    def spread() -> None:
        distribute(another(store), run_id, size=5)

    def pause() -> None:
        for user in everybody[:40]:
            store.user_pauses.pause(UserId(user))

    at_once([spread, spread, pause, pause])

    assert sorted(store.runs.open_users(run_id)) == everybody[40:]
    assert store.runs.get(run_id).counts == paused_counts(60, 40, open=20)
