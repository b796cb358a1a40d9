"""What has stalled is found and set going again; what is over ends, and what is under way is left alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tq.clock import to_ms
from tq.models import Envelope, JobStatus, Priority, RunCounts, RunId, RunStatus, UserId, Verdict
from tq.store import QueuedMessage, Store
from tq.store.agenda import PutOff
from tq.store.ledger import Retry
from tq.store.mending import Sweep

from . import (
    DIGEST,
    HOUR,
    NOW,
    agenda_entries,
    another,
    claim,
    distribute,
    enable,
    end_of,
    frozen,
    have_queued,
    jobs_sent,
    names,
    next_step,
    running,
    share_of,
)

GRACE = timedelta(minutes=1)
MINUTE = timedelta(minutes=1)


def open_run(store: Store, users: int) -> tuple[RunId, list[Envelope]]:
    """A run whose jobs have all been sent, and their messages with somebody."""
    run_id = running(store, names(users))
    distribute(store, run_id)
    jobs = jobs_sent(store)
    for job in jobs:
        have_queued(store, message_of(store, job))
    return run_id, jobs


def message_of(store: Store, job: Envelope) -> QueuedMessage:
    return store.mending._transport.job_message(job, Priority.NORMAL)


def swept(store: Store, run_id: RunId) -> Sweep:
    return store.mending.sweep(run_id, "0", grace=GRACE)


# --- Lost messages -------------------------------------------------------------------------------


def test_a_job_whose_message_is_nowhere_gets_one_again(store: Store) -> None:
    run_id = running(store, ["ada"])
    distribute(store, run_id)
    [job] = jobs_sent(store)

    restored = store.mending.restore(store.runs.get(run_id), swept(store, run_id).adrift, Priority.NORMAL)
    store.agenda.release_due()

    assert restored == 1
    first, second = jobs_sent(store)
    assert second.to_wire() == first.to_wire() == job.to_wire()
    assert store.vitals.signs().mended == {"messages": 1}


def test_a_job_whose_message_waits_or_is_worked_on_is_left_alone(store: Store) -> None:
    run_id, jobs = open_run(store, 300)

    sweep = swept(store, run_id)
    restored = store.mending.restore(store.runs.get(run_id), sweep.adrift, Priority.NORMAL)

    assert {user for user, _ in sweep.adrift} <= {job.user_id for job in jobs}
    assert restored == 0
    assert len(jobs_sent(store)) == 300


@pytest.mark.parametrize("kind", ["retry", "put off"])
def test_a_job_that_stands_on_the_agenda_is_not_adrift(store: Store, kind: str) -> None:
    run_id = running(store, ["ada"])
    distribute(store, run_id)
    [job] = jobs_sent(store)
    if kind == "retry":
        store.ledger.finish([Retry(job, MINUTE, 1, Priority.NORMAL)])
    else:
        store.agenda.put_off([PutOff(job, message_of(store, job), MINUTE)])

    assert swept(store, run_id).adrift == []


def test_a_job_that_ends_between_the_look_and_the_mending_stays_ended(store: Store) -> None:
    run_id = running(store, ["ada"])
    distribute(store, run_id)
    [job] = jobs_sent(store)
    run, adrift = store.runs.get(run_id), swept(store, run_id).adrift

    store.ledger.finish([end_of(job)])

    assert store.mending.restore(run, adrift, Priority.NORMAL) == 0
    assert store.agenda.release_due() == 0


def test_every_open_job_is_seen_in_one_round_of_sweeps(store: Store) -> None:
    run_id = running(store, names(1300))
    distribute(store, run_id)

    seen, cursor = set[str](), "0"
    while True:
        sweep = store.mending.sweep(run_id, cursor, grace=GRACE)
        seen |= {user for user, _ in sweep.adrift}
        cursor = sweep.cursor
        if cursor == "0":
            break

    assert seen == set(names(1300))


# --- Runs that nobody follows --------------------------------------------------------------------


def test_a_run_that_nothing_calls_for_is_called_for_again(store: Store) -> None:
    run_id = running(store, names(10))
    store.connection.call("ZREM", store.keys("agenda"), f"d|{run_id}")

    assert store.mending.follow(run_id)

    assert agenda_entries(store) == {f"d|{run_id}": to_ms(NOW)}
    assert store.vitals.signs().mended == {"distributions": 1}
    assert store.agenda.release_due() == 1


def test_a_run_that_is_called_for_or_fanned_out_is_left_alone(store: Store) -> None:
    waiting = running(store, names(10))
    before = agenda_entries(store)

    assert not store.mending.follow(waiting)

    assert agenda_entries(store) == before
    distribute(store, waiting)
    assert not store.mending.follow(waiting)


def test_runs_of_all_tasks_are_known_until_they_end(store: Store) -> None:
    run_id, jobs = open_run(store, 2)

    assert store.mending.running() == [run_id]
    store.ledger.finish([end_of(job) for job in jobs])
    assert store.mending.running() == []


# --- Jobs whose time is over ---------------------------------------------------------------------


def test_a_job_that_waits_beyond_its_deadline_ends_as_expired_and_closes_its_run(store: Store) -> None:
    run_id, jobs = open_run(store, 2)
    store.ledger.finish([Retry(jobs[0], HOUR, 1, Priority.NORMAL), end_of(jobs[1])])
    frozen(store).move_to(NOW + HOUR + MINUTE)

    assert swept(store, run_id).ended == 1

    run = store.runs.get(run_id)
    assert run.status is RunStatus.ENDED
    assert run.counts == RunCounts(expected=2, success=1, expired=1, retries=1)
    assert store.results.of(DIGEST, jobs[0].user_id)[0].status is JobStatus.EXPIRED
    assert store.agenda.size() == 0


def test_a_call_that_may_be_under_way_has_its_time_beyond_the_deadline(store: Store) -> None:
    run_id, _ = open_run(store, 1)
    frozen(store).move_to(NOW + HOUR + GRACE - MINUTE / 2)

    assert swept(store, run_id).ended == 0
    frozen(store).advance(MINUTE)
    assert swept(store, run_id).ended == 1


def test_a_job_whose_deadline_passes_in_a_pause_is_skipped(store: Store) -> None:
    run_id, jobs = open_run(store, 1)
    store.ledger.finish([Retry(jobs[0], HOUR, 1, Priority.NORMAL)])
    store.orders.pause(DIGEST, reason="a test", by="ada")
    frozen(store).move_to(NOW + 2 * HOUR)

    assert swept(store, run_id).ended == 1

    counts = store.runs.get(run_id).counts
    assert (counts.skipped, counts.skipped_by_reason, counts.unaccounted) == (1, {"paused": 1}, 0)


# --- Cancelled runs ------------------------------------------------------------------------------


def test_of_a_cancelled_run_no_attempt_may_begin(store: Store) -> None:
    run_id, jobs = open_run(store, 3)

    assert store.runs.cancel(run_id, reason="by mistake") == "running"

    assert [permission.verdict for permission in store.ledger.begin(jobs)] == [Verdict.CANCELLED] * 3


def test_what_waits_of_a_cancelled_run_ends_and_what_is_under_way_keeps_its_end(store: Store) -> None:
    run_id, (waiting, calling) = open_run(store, 2)
    store.ledger.finish([Retry(waiting, HOUR, 1, Priority.NORMAL)])
    store.runs.cancel(run_id, reason="by mistake")

    assert swept(store, run_id).ended == 1
    store.ledger.finish([end_of(calling)])

    run = store.runs.get(run_id)
    assert (run.status, run.reason, run.cancelled_at) == (RunStatus.CANCELLED, "by mistake", NOW)
    assert run.counts == RunCounts(expected=2, success=1, cancelled=1, retries=1)


def test_a_cancelled_run_sends_nobody_and_counts_whom_it_has_not_reached(store: Store) -> None:
    run_id = running(store, names(50))
    step = next_step(store, run_id)
    store.runs.cancel(run_id, reason="")

    assert store.ledger.fan_out(run_id, step, Priority.NORMAL) is None
    assert store.ledger.fan_out(run_id, replace(step, batches=[], passed_over=50), Priority.NORMAL) == 0

    run = store.runs.get(run_id)
    assert jobs_sent(store) == []
    assert run.status is RunStatus.CANCELLED
    assert run.counts == RunCounts(expected=50, cancelled=50)


def test_cancelling_calls_for_the_distribution_at_once(store: Store) -> None:
    enable(store, ["ada"])
    claim(store, share_of(), distribute_in=HOUR)
    [run_id] = store.runs.active(DIGEST)

    store.runs.cancel(run_id, reason="")

    assert agenda_entries(store) == {f"d|{run_id}": to_ms(NOW)}


def test_a_run_that_has_ended_is_not_cancelled(store: Store) -> None:
    run_id, jobs = open_run(store, 1)
    store.ledger.finish([end_of(jobs[0])])

    assert store.runs.cancel(run_id, reason="too late") == "ended"
    assert store.runs.cancel(RunId("no-such-run"), reason="") == ""
    assert store.runs.get(run_id).status is RunStatus.ENDED


def test_the_first_reason_stays(store: Store) -> None:
    run_id, _ = open_run(store, 1)

    store.runs.cancel(run_id, reason="first")
    store.runs.cancel(run_id, reason="second")

    assert store.runs.get(run_id).reason == "first"


# --- Who looks -----------------------------------------------------------------------------------


def test_one_process_at_a_time_looks_and_another_takes_over_from_one_that_is_gone(store: Store) -> None:
    lasts = timedelta(seconds=10)

    assert store.mending.is_mine("a", lasts=lasts)
    assert not another(store).mending.is_mine("b", lasts=lasts)
    frozen(store).advance(timedelta(seconds=8))
    assert store.mending.is_mine("a", lasts=lasts)
    frozen(store).advance(timedelta(seconds=11))
    assert another(store).mending.is_mine("b", lasts=lasts)
    assert not store.mending.is_mine("a", lasts=lasts)


def test_a_user_id_comes_back_from_its_state_unchanged(store: Store) -> None:
    odd = UserId("o'brien:7@x")
    enable(store, [odd], parameters={"text": "a|b"})
    claim(store, share_of())
    [run_id] = store.runs.active(DIGEST)
    distribute(store, run_id)
    [before] = jobs_sent(store)

    store.mending.restore(store.runs.get(run_id), swept(store, run_id).adrift, Priority.NORMAL)
    store.agenda.release_due()

    assert jobs_sent(store)[1].to_wire() == before.to_wire()
