"""A run is claimed once for each nominal instant, whoever else claims it at the same time."""

from datetime import datetime, timedelta
from functools import partial

import pytest

from tq.clock import MILLISECOND, to_ms
from tq.errors import RunNotFound
from tq.limits import EVERY_TASK
from tq.models import (
    Interval,
    JobStatus,
    Overlap,
    Priority,
    Run,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    Share,
    TaskId,
    Verdict,
    scheduled_run_id,
)
from tq.store import Store
from tq.store.planning import Due, Move, ShareClaim
from tq.testing.builders import make_task

from . import (
    DIGEST,
    EVERYBODY,
    HOUR,
    NINE,
    NOW,
    agenda_entries,
    another,
    at_once,
    claim,
    contents,
    definition_of,
    distribute,
    due_entries,
    enable,
    end_of,
    frozen,
    jobs_sent,
    names,
    next_step,
    publish,
    running,
    share_of,
)

LOCAL = make_task(DIGEST, interval=Interval.daily(at="09:00", timezone="user"))
ZONES = ["Asia/Tokyo", "Europe/Berlin", "America/New_York"]
RUN = scheduled_run_id(DIGEST, NINE)
TEN = NINE + HOUR
AT_TEN = scheduled_run_id(DIGEST, TEN)
DAY = timedelta(days=1)


def dues_in_zones(store: Store) -> list[Due]:
    """What is due where three zones have ten users each."""
    publish(store, 1, LOCAL)
    for zone in ZONES:
        enable(store, names(10, prefix=zone[:2]), timezone=zone)
    frozen(store).advance(MILLISECOND)
    return list(store.planning.look().due)


def share_due(due: Due, **fields: object) -> ShareClaim:
    """The share of a cohort that is due, and due again a day later."""
    return share_of(str(due.cohort), due=due, next_look=NINE + DAY, **fields)


def runs_of(store: Store) -> list[RunId]:
    """All runs of the digest, newest first."""
    return [run.id for run in store.runs.latest(task_id=DIGEST)]


# --- Once ------------------------------------------------------------------------------------------


def test_a_claimed_run_has_all_that_is_known_of_it(store: Store) -> None:
    dues = dues_in_zones(store)
    spread = timedelta(minutes=30)

    answer = claim(store, *(share_due(due, spread=spread) for due in dues), task=LOCAL)

    now = NOW + MILLISECOND
    shares = tuple(
        Share(cohort=str(due.cohort), start_at=NINE, spread=spread, deadline_at=NOW + HOUR) for due in dues
    )
    assert answer == (3, 3)
    assert store.runs.get(RUN) == Run(
        id=RUN,
        task_id=DIGEST,
        kind=RunKind.SCHEDULE,
        status=RunStatus.RUNNING,
        nominal_at=NINE,
        claimed_at=now,
        deadline_at=NOW + HOUR,
        definition=definition_of(LOCAL),
        shares=shares,
    )
    assert [run.id for run in store.runs.latest()] == [RUN]
    assert store.runs.active(DIGEST) == [RUN]
    assert due_entries(store) == {f"{DIGEST}|{zone}|default": to_ms(NINE + DAY) for zone in ZONES}
    assert agenda_entries(store) == {f"d|{RUN}": to_ms(now) + 5000}


def test_of_twenty_claimers_one_wins_and_the_run_has_each_share_once(store: Store) -> None:
    shares = [share_due(due) for due in dues_in_zones(store)]

    answers = at_once([partial(claim, another(store), *shares, task=LOCAL) for _ in range(20)])

    assert sorted(answers) == [(0, 0)] * 19 + [(3, 3)]
    assert sorted(share.cohort for share in store.runs.get(RUN).shares) == sorted(
        f"{zone}|default" for zone in ZONES
    )


def test_claimers_of_different_shares_make_one_run_that_has_each_share_once(store: Store) -> None:
    shares = [share_due(due) for due in dues_in_zones(store)]
    pairs = [(0, 1), (1, 2), (2, 0)] * 4

    answers = at_once([partial(claim, another(store), shares[a], shares[b], task=LOCAL) for a, b in pairs])

    run = store.runs.get(RUN)
    assert sum(claimed for claimed, _ in answers) == 3
    assert sorted(share.cohort for share in run.shares) == sorted(f"{zone}|default" for zone in ZONES)
    assert distribute(store, RUN) == 30


def test_a_claim_of_what_has_moved_on_changes_nothing(store: Store) -> None:
    [due, *_] = dues_in_zones(store)
    store.planning.move_on([Move(due, NINE + DAY)])
    before = contents(store)

    assert claim(store, share_due(due), task=LOCAL) == (0, 0)

    assert contents(store) == before
    with pytest.raises(RunNotFound, match=f"run '{RUN}' is not known; see tq runs list"):
        store.runs.get(RUN)


def test_a_claim_takes_only_those_shares_that_nobody_took(store: Store) -> None:
    dues = dues_in_zones(store)
    store.planning.move_on([Move(dues[1], NINE + DAY)])

    assert claim(store, *(share_due(due) for due in dues), task=LOCAL) == (2, 2)

    assert [share.cohort for share in store.runs.get(RUN).shares] == [
        str(dues[0].cohort),
        str(dues[2].cohort),
    ]


def test_a_run_of_hundreds_of_cohorts_is_claimed_whole(store: Store) -> None:
    # More than one script claims at a time.
    own = [Interval.cron(f"{number % 60} {number // 60} * * *") for number in range(450)]
    publish(store, 1, LOCAL)
    for interval in own:
        enable(store, [f"at {interval.expression}"], interval=interval)
    frozen(store).advance(MILLISECOND)
    dues = store.planning.look().due
    cohorts = {f"*|{interval.canonical}" for interval in own}

    first, second = (claim(store, *(share_due(due) for due in dues)) for _ in range(2))

    run = store.runs.get(RUN)
    assert (first, second) == ((450, 450), (0, 0))
    assert len(run.shares) == 450
    assert {share.cohort for share in run.shares} == cohorts
    assert set(due_entries(store).values()) == {to_ms(NINE + DAY)}

    follower = claim(store, *(share_of(cohort) for cohort in cohorts), nominal_at=TEN)

    assert follower == (450, 450)
    assert {share.deadline_at for share in store.runs.get(RUN).shares} == {store.clock.now()}


def test_a_run_that_was_asked_for_twice_by_one_key_exists_once(store: Store) -> None:
    enable(store, ["ada"])
    run_id = RunId("email_digest~m1")
    asking = [
        partial(claim, another(store), share_of(), run_id=run_id, kind=RunKind.MANUAL) for _ in range(8)
    ]

    answers = at_once(asking)
    before = contents(store)
    again = claim(store, share_of(), run_id=run_id, kind=RunKind.MANUAL)

    assert sorted(answers) == [(0, 0)] * 7 + [(1, 1)]
    assert again == (0, 0)
    assert contents(store) == before


# --- Shares that come later --------------------------------------------------------------------------


def test_shares_that_are_claimed_later_are_added_to_the_same_run(store: Store) -> None:
    dues = dues_in_zones(store)
    claim(store, share_due(dues[0]), task=LOCAL)
    frozen(store).advance(timedelta(minutes=1))

    late = share_due(dues[1], start_at=NOW, deadline_at=NOW + 2 * HOUR)
    assert claim(store, late, task=LOCAL) == (1, 1)
    assert claim(store, share_due(dues[2]), task=LOCAL) == (1, 1)

    run = store.runs.get(RUN)
    assert [share.cohort for share in run.shares] == [str(due.cohort) for due in dues]
    assert run.shares[1].start_at == NOW
    assert run.claimed_at == NOW + MILLISECOND
    assert run.deadline_at == NOW + 2 * HOUR


def test_a_run_waits_for_all_its_shares_whenever_they_were_claimed(store: Store) -> None:
    dues = dues_in_zones(store)
    claim(store, share_due(dues[0]), task=LOCAL)
    claim(store, share_due(dues[1]), task=LOCAL)

    store.ledger.fan_out(RUN, next_step(store, RUN, share=0), Priority.NORMAL)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])

    assert store.runs.get(RUN).status is RunStatus.RUNNING
    assert f"d|{RUN}" in agenda_entries(store)
    assert distribute(store, RUN) == 10


def test_a_late_share_opens_a_run_again_that_had_ended(store: Store) -> None:
    dues = dues_in_zones(store)
    claim(store, share_due(dues[0]), task=LOCAL)
    distribute(store, RUN)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])
    assert store.runs.get(RUN).status is RunStatus.ENDED
    assert store.connection.call("TTL", store.keys("run", RUN)) > 0

    claim(store, share_due(dues[1]), task=LOCAL)

    run = store.runs.get(RUN)
    assert (run.status, run.ended_at, run.fanned_out) == (RunStatus.RUNNING, None, False)
    assert store.runs.active(DIGEST) == [RUN]
    assert [store.connection.call("TTL", store.keys(kind, RUN)) for kind in ("run", "shares")] == [-1, -1]
    assert distribute(store, RUN) == 10
    store.ledger.finish([end_of(job) for job in jobs_sent(store)[10:]])
    assert store.runs.get(RUN).counts == RunCounts(expected=20, success=20)
    assert store.runs.get(RUN).status is RunStatus.ENDED


def test_a_late_share_that_is_skipped_leaves_a_run_that_has_ended_as_it_is(store: Store) -> None:
    dues = dues_in_zones(store)
    claim(store, share_due(dues[0]), task=LOCAL)
    distribute(store, RUN)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])

    assert claim(store, share_due(dues[1], skip="missed"), task=LOCAL) == (1, 0)

    run = store.runs.get(RUN)
    assert (run.status, run.fanned_out) == (RunStatus.ENDED, True)
    assert run.counts == RunCounts(expected=20, success=10, skipped=10, skipped_by_reason={"missed": 10})
    assert store.connection.call("TTL", store.keys("shares", RUN)) > 0


# --- Shares that are skipped ---------------------------------------------------------------------------


def test_a_skipped_share_counts_all_its_members_by_reason(store: Store) -> None:
    dues = dues_in_zones(store)
    enable(store, ["one_more"], timezone=dues[0].cohort.zone)

    answer = claim(store, share_due(dues[0], skip="missed"), share_due(dues[1], skip="paused"), task=LOCAL)

    run = store.runs.get(RUN)
    assert answer == (2, 0)
    assert (run.status, run.reason, run.ended_at) == (RunStatus.SKIPPED, "paused", NOW + MILLISECOND)
    assert run.counts == RunCounts(expected=21, skipped=21, skipped_by_reason={"missed": 11, "paused": 10})
    assert store.runs.active(DIGEST) == []
    assert agenda_entries(store) == {}
    assert 0 < store.connection.call("TTL", store.keys("run", RUN)) <= 90 * DAY.total_seconds()
    assert 0 < store.connection.call("TTL", store.keys("shares", RUN)) <= 90 * DAY.total_seconds()


def test_a_skipped_run_is_carried_out_for_a_share_that_comes_later(store: Store) -> None:
    dues = dues_in_zones(store)
    claim(store, share_due(dues[0], skip="missed"), task=LOCAL)

    claim(store, share_due(dues[1]), task=LOCAL)

    run = store.runs.get(RUN)
    assert (run.status, run.reason) == (RunStatus.RUNNING, None)
    assert distribute(store, RUN) == 10
    assert store.runs.get(RUN).counts.expected == 20


# --- The last run of the same users has not ended --------------------------------------------------------


def claim_at_ten(store: Store, overlap: Overlap, cohort: str = EVERYBODY) -> tuple[int, int]:
    """Claims the run after the one of nine o'clock, at half past ten."""
    frozen(store).move_to(TEN + HOUR / 2)
    deadline = TEN + 2 * HOUR
    return claim(store, share_of(cohort, deadline_at=deadline), nominal_at=TEN, overlap=overlap)


def deadline_of_nine(store: Store) -> datetime:
    """Until when the first share of the run of nine o'clock may take."""
    return store.runs.get(RUN).shares[0].deadline_at


def test_a_new_run_replaces_the_last_one_whose_deadline_becomes_the_claim(store: Store) -> None:
    running(store, names(4))
    distribute(store, RUN)

    assert claim_at_ten(store, Overlap.REPLACE) == (1, 1)

    assert deadline_of_nine(store) == TEN + HOUR / 2
    frozen(store).advance(MILLISECOND)
    verdicts = [permission.verdict for permission in store.ledger.begin(jobs_sent(store))]
    assert verdicts == [Verdict.EXPIRED] * 4


def test_replacing_never_gives_the_last_run_more_time(store: Store) -> None:
    enable(store, names(4))
    claim(store, share_of(deadline_at=NINE + HOUR))

    claim_at_ten(store, Overlap.REPLACE)

    assert deadline_of_nine(store) == NINE + HOUR


def test_a_new_run_is_skipped_while_the_last_one_has_not_ended(store: Store) -> None:
    running(store, names(4))

    assert claim_at_ten(store, Overlap.SKIP) == (1, 0)

    run = store.runs.get(AT_TEN)
    assert (run.status, run.reason) == (RunStatus.SKIPPED, "overlap")
    assert run.counts == RunCounts(expected=4, skipped=4, skipped_by_reason={"overlap": 4})
    assert deadline_of_nine(store) == NOW + HOUR
    assert store.runs.active(DIGEST) == [RUN]


def test_a_new_run_goes_beside_the_last_one_where_that_is_allowed(store: Store) -> None:
    running(store, names(4))

    assert claim_at_ten(store, Overlap.ALLOW) == (1, 1)

    assert deadline_of_nine(store) == NOW + HOUR
    assert set(store.runs.active(DIGEST)) == {RUN, AT_TEN}


def test_each_cohort_is_judged_by_its_own_share_of_the_last_run(store: Store) -> None:
    dues_in_zones(store)
    cohorts = [f"{zone}|default" for zone in ZONES]
    claim(store, *(share_of(cohort) for cohort in cohorts), task=LOCAL)
    distribute(store, RUN)
    store.ledger.finish([end_of(job) for job in jobs_sent(store) if job.share == 1])

    again = [share_of(cohort) for cohort in cohorts]
    answer = claim(store, *again, task=LOCAL, nominal_at=TEN, overlap=Overlap.SKIP)

    assert answer == (3, 1)
    assert [share.done for share in store.runs.get(AT_TEN).shares] == [True, False, True]


@pytest.mark.parametrize("overlap", Overlap)
def test_a_run_that_has_ended_is_in_nobodys_way(store: Store, overlap: Overlap) -> None:
    running(store, names(4))
    distribute(store, RUN)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])

    assert claim_at_ten(store, overlap) == (1, 1)

    assert deadline_of_nine(store) == NOW + HOUR
    assert store.runs.get(RUN).counts == RunCounts(expected=4, success=4)


@pytest.mark.parametrize("overlap", Overlap)
def test_other_users_of_the_task_are_in_nobodys_way(store: Store, overlap: Overlap) -> None:
    running(store, names(4))
    enable(store, ["bob"], interval=Interval.hourly())

    assert claim_at_ten(store, overlap, f"*|{Interval.hourly().canonical}") == (1, 1)

    assert deadline_of_nine(store) == NOW + HOUR


def test_a_skipped_run_does_not_hide_the_one_that_is_still_running(store: Store) -> None:
    running(store, names(4))
    claim_at_ten(store, Overlap.SKIP)
    eleven = TEN + HOUR

    answer = claim(store, share_of(), nominal_at=eleven, overlap=Overlap.SKIP)

    assert answer == (1, 0)
    assert store.runs.get(scheduled_run_id(DIGEST, eleven)).reason == "overlap"


@pytest.mark.parametrize("overlap", Overlap)
def test_runs_that_were_asked_for_replace_nothing_and_are_replaced_by_nothing(
    store: Store, overlap: Overlap
) -> None:
    running(store, names(4))
    asked = RunId("email_digest~m1")

    assert claim(store, share_of(), run_id=asked, kind=RunKind.MANUAL, overlap=overlap) == (1, 1)
    assert deadline_of_nine(store) == NOW + HOUR

    distribute(store, RUN)
    nine = [job for job in jobs_sent(store) if job.run_id == RUN]
    store.ledger.finish([end_of(job, JobStatus.SUCCESS) for job in nine])
    assert claim_at_ten(store, overlap) == (1, 1)
    assert store.runs.get(asked).shares[0].deadline_at == NOW + HOUR


# --- Pauses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [DIGEST, EVERY_TASK])
def test_an_occurrence_in_a_pause_is_skipped_for_everybody(store: Store, scope: str) -> None:
    enable(store, names(4))
    frozen(store).move_to(NINE)
    store.orders.pause(scope)
    frozen(store).move_to(NOW)

    assert claim(store, share_of()) == (1, 0)

    run = store.runs.get(RUN)
    assert (run.status, run.reason) == (RunStatus.SKIPPED, "paused")
    assert run.counts == RunCounts(expected=4, skipped=4, skipped_by_reason={"paused": 4})
    assert agenda_entries(store) == {}


def test_an_occurrence_from_before_a_pause_is_a_run_that_waits(store: Store) -> None:
    enable(store, names(4))
    frozen(store).move_to(NINE + MILLISECOND)
    store.orders.pause(DIGEST)

    assert claim(store, share_of()) == (1, 1)
    assert claim(store, share_of(), nominal_at=TEN) == (1, 0)


@pytest.mark.parametrize("other", [TaskId("hourly_sync"), TaskId("email")])
def test_an_occurrence_of_a_task_that_is_not_paused_is_claimed(store: Store, other: TaskId) -> None:
    enable(store, names(4))
    frozen(store).move_to(NINE)
    store.orders.pause(other)

    assert claim(store, share_of()) == (1, 1)


def test_an_occurrence_at_the_end_of_a_pause_is_claimed(store: Store) -> None:
    enable(store, names(4))
    frozen(store).move_to(NINE - HOUR)
    store.orders.pause(DIGEST, until=NINE)
    frozen(store).move_to(NOW)

    assert claim(store, share_of()) == (1, 1)


@pytest.mark.parametrize("pauses_again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("is_resumed", [False, True], ids=["ended", "resumed"])
def test_an_occurrence_in_a_pause_is_skipped_though_that_is_over(
    store: Store, is_resumed: bool, pauses_again: bool
) -> None:
    enable(store, names(4))
    frozen(store).move_to(NINE)
    store.orders.pause(DIGEST, until=None if is_resumed else NINE + HOUR / 2)
    frozen(store).move_to(NINE + HOUR / 2)
    if is_resumed:
        store.orders.resume(DIGEST)
    if pauses_again:
        store.orders.pause(DIGEST)
    frozen(store).move_to(NOW)

    assert claim(store, share_of()) == (1, 0)
    assert store.runs.get(RUN).reason == "paused"


@pytest.mark.parametrize("overlap", Overlap)
def test_an_occurrence_in_a_pause_leaves_the_run_before_it_its_time(store: Store, overlap: Overlap) -> None:
    running(store, names(4))
    store.orders.pause(DIGEST)

    assert claim_at_ten(store, overlap) == (1, 0)

    assert deadline_of_nine(store) == NOW + HOUR
    assert store.runs.get(AT_TEN).reason == "paused"


def test_a_run_that_is_asked_for_in_a_pause_is_claimed_and_waits(store: Store) -> None:
    enable(store, names(4))
    store.orders.pause(DIGEST)

    assert claim(store, share_of(), nominal_at=NOW, run_id=RunId("email_digest~m1"), kind=RunKind.MANUAL) == (
        1,
        1,
    )


# --- Retention -------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_for_ninety_days(store: Store) -> None:
    enable(store, names(1))
    for day in (0, 1, 90, 91):
        frozen(store).move_to(NINE + day * DAY)
        claim(store, share_of(), nominal_at=NINE + day * DAY)

    expected = [scheduled_run_id(DIGEST, NINE + day * DAY) for day in (91, 90)]
    assert runs_of(store) == expected
    assert [run.id for run in store.runs.latest()] == expected
    assert [run.id for run in store.runs.latest(limit=1)] == expected[:1]


def test_runs_of_one_task_are_not_among_those_of_another(store: Store) -> None:
    other = make_task("hourly_sync", interval=Interval.hourly())
    enable(store, ["ada"])
    claim(store, share_of())
    frozen(store).advance(MILLISECOND)
    claim(store, share_of(), task=other)

    assert runs_of(store) == [RUN]
    assert [run.task_id for run in store.runs.latest()] == [TaskId("hourly_sync"), DIGEST]
