"""A run that was cut: the next one of the same users begins with those whom it did not reach."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from tq.clock import MILLISECOND
from tq.models import (
    Envelope,
    Interval,
    JobStatus,
    Overlap,
    Priority,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    UserId,
    scheduled_run_id,
)
from tq.slots import LAST_PLACE, place_of, position_of
from tq.store import Store
from tq.store.ledger import Retry, Step
from tq.store.preferences import Enable

from . import (
    DIGEST,
    EVERYBODY,
    HOUR,
    NINE,
    NOW,
    another,
    at_once,
    claim,
    contents,
    distribute,
    enable,
    end_of,
    frozen,
    hold,
    jobs_sent,
    names,
    next_step,
    running,
    share_of,
    users_in,
)

RUN = scheduled_run_id(DIGEST, NINE)
TEN, ELEVEN = NINE + HOUR, NINE + 2 * HOUR
AT_TEN, AT_ELEVEN = scheduled_run_id(DIGEST, TEN), scheduled_run_id(DIGEST, ELEVEN)
OWN = Interval.hourly()
GRACE = timedelta(0)


def in_order(users: list[str], *, first: int = 0) -> list[str]:
    """Users in the order in which a run meets them that begins at a place."""
    return sorted(users, key=lambda user: position_of(place_of(DIGEST, UserId(user)), first))


def place(user: str) -> int:
    return place_of(DIGEST, UserId(user))


def send_some(store: Store, run_id: RunId, number: int, *, share: int = 0) -> list[Envelope]:
    """Fans out about so many more members of a share."""
    before = len(jobs_sent(store))
    store.ledger.fan_out(run_id, next_step(store, run_id, share=share, size=number), Priority.NORMAL)
    return jobs_sent(store)[before:]


def succeed(store: Store, *jobs: Envelope) -> None:
    store.ledger.finish([end_of(job) for job in jobs])


def begin_calls(store: Store, *jobs: Envelope) -> None:
    """Has a process begin the calls of jobs."""
    hold(store, "worker:1", *jobs)
    store.ledger.begin(jobs)


def expire(store: Store, *jobs: Envelope) -> None:
    """Has jobs end whose deadline came before a worker."""
    store.ledger.finish([end_of(job, JobStatus.EXPIRED, attempts=0) for job in jobs])


def pass_over_the_rest(store: Store, run_id: RunId, *, size: int = 1000) -> None:
    """What distribution does when the deadline has come."""
    while not store.runs.get(run_id).shares[0].done:
        step = next_step(store, run_id, size=size)
        left = len(users_in(step))
        store.ledger.fan_out(run_id, replace(step, batches=[], passed_over=left), Priority.NORMAL)


def claim_at(
    store: Store, run_id: RunId, cohort: str = EVERYBODY, *, overlap: Overlap = Overlap.REPLACE
) -> int:
    """Claims the run of ten or eleven o'clock half an hour later; returns at which place it begins."""
    nominal = TEN if run_id == AT_TEN else ELEVEN
    frozen(store).move_to(nominal + HOUR / 2)
    share = share_of(cohort, deadline_at=nominal + 1.25 * HOUR)
    claim(store, share, nominal_at=nominal, overlap=overlap)
    return store.runs.get(run_id).shares[0].first


# --- Where the next one begins -------------------------------------------------------------------------


def test_a_run_that_replaces_another_begins_where_that_one_stopped(store: Store) -> None:
    running(store, names(200))
    sent = send_some(store, RUN, 60)
    succeed(store, *sent)
    stopped = store.runs.get(RUN).shares[0].cursor + 1

    assert claim_at(store, AT_TEN) == stopped

    assert store.runs.get(RUN).shares[0].unreached == stopped
    distribute(store, AT_TEN, size=30)
    met = [job.user_id for job in jobs_sent(store)[len(sent) :]]
    assert Counter(met) == Counter(names(200))
    rest = in_order(names(200), first=stopped)[: 200 - len(sent)]
    assert set(met[: len(rest)]) == set(rest)
    assert not {job.user_id for job in sent} & set(rest)


def test_whose_jobs_no_worker_had_come_to_are_the_first_of_the_next_run(store: Store) -> None:
    running(store, names(200))
    sent = sorted(send_some(store, RUN, 60), key=lambda job: place(job.user_id))
    succeed(store, *sent[:25], *sent[30:40])

    assert claim_at(store, AT_TEN) == place(sent[25].user_id)


def test_who_waits_for_a_retry_was_reached(store: Store) -> None:
    running(store, names(200))
    sent = sorted(send_some(store, RUN, 60), key=lambda job: place(job.user_id))
    store.ledger.finish([Retry(job, HOUR, 1, Priority.NORMAL) for job in sent[:20]])
    succeed(store, *sent[20:])

    assert claim_at(store, AT_TEN) == store.runs.get(RUN).shares[0].cursor + 1


@pytest.mark.parametrize("ends_by", ["a worker", "a sweep"])
def test_after_a_deadline_the_next_run_begins_with_whoever_had_no_call(store: Store, ends_by: str) -> None:
    run_id = running(store, names(200))
    sent = sorted(send_some(store, run_id, 60), key=lambda job: place(job.user_id))
    succeed(store, *sent[:40])
    frozen(store).move_to(NOW + HOUR + MILLISECOND)
    pass_over_the_rest(store, run_id, size=50)
    if ends_by == "a worker":
        expire(store, *sent[40:])
    else:
        store.mending.sweep(run_id, "0", grace=GRACE)

    counts = store.runs.get(run_id).counts
    assert store.runs.get(run_id).status is RunStatus.ENDED
    assert counts == RunCounts(expected=200, success=40, expired=160)
    assert claim_at(store, AT_ELEVEN, overlap=Overlap.SKIP) == place(sent[40].user_id)


def test_a_run_whose_last_jobs_only_came_too_late_was_cut(store: Store) -> None:
    run_id = running(store, names(50))
    distribute(store, run_id)
    sent = sorted(jobs_sent(store), key=lambda job: place(job.user_id))
    succeed(store, *sent[:45])
    frozen(store).move_to(NOW + HOUR + MILLISECOND)
    expire(store, *sent[45:])

    assert claim_at(store, AT_ELEVEN) == place(sent[45].user_id)


def test_a_run_of_which_nobody_was_reached_is_followed_by_one_of_the_same_order(store: Store) -> None:
    run_id = running(store, names(50))
    frozen(store).move_to(NOW + HOUR + MILLISECOND)
    pass_over_the_rest(store, run_id)

    assert store.runs.get(run_id).shares[0].unreached == 0
    assert claim_at(store, AT_ELEVEN) == 0


def test_runs_that_are_cut_again_and_again_reach_everybody_in_turn(store: Store) -> None:
    users = names(200)
    enable(store, users)
    reached: list[str] = []
    for hour in range(5):
        nominal = NINE + hour * HOUR
        frozen(store).move_to(nominal + HOUR / 2)
        claim(store, share_of(deadline_at=nominal + 2 * HOUR), nominal_at=nominal)
        run_id = scheduled_run_id(DIGEST, nominal)
        sent = [job for _ in range(3) for job in send_some(store, run_id, 30)]
        first = store.runs.get(run_id).shares[0].first
        sent.sort(key=lambda job: position_of(place(job.user_id), first))
        # Ten are queued when the next run comes.
        succeed(store, *sent[:-10])
        reached += [job.user_id for job in sent[:-10]]

    cycle = in_order(users)
    assert reached == (cycle * 2)[: len(reached)]
    assert len(reached) > 200


def test_the_run_after_one_that_was_not_cut_has_the_usual_order(store: Store) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    assert claim_at(store, AT_TEN) > 0
    before = len(jobs_sent(store))
    distribute(store, AT_TEN)
    succeed(store, *jobs_sent(store)[before:])

    assert claim_at(store, AT_ELEVEN) == 0


# --- What is no cut --------------------------------------------------------------------------------------


def test_calls_that_are_under_way_when_all_were_sent_are_no_cut(store: Store) -> None:
    running(store, names(50))
    distribute(store, RUN)
    sent = jobs_sent(store)
    succeed(store, *sent[:45])
    begin_calls(store, *sent[45:])

    assert claim_at(store, AT_TEN) == 0
    assert store.runs.get(RUN).shares[0].unreached is None


def test_more_jobs_than_calls_under_way_are_a_cut(store: Store) -> None:
    running(store, names(50))
    distribute(store, RUN)
    sent = sorted(jobs_sent(store), key=lambda job: place(job.user_id))
    succeed(store, *sent[:40])
    begin_calls(store, *sent[40:45])

    assert claim_at(store, AT_TEN) == place(sent[40].user_id)


def test_a_call_that_hangs_at_the_beginning_of_each_run_does_not_hold_them_there(store: Store) -> None:
    users = in_order(names(200))
    running(store, users)
    first_sent = sorted(send_some(store, RUN, 60), key=lambda job: place(job.user_id))
    succeed(store, *first_sent[:20])
    hanging = first_sent[20].user_id
    assert claim_at(store, AT_TEN) == place(hanging)

    sent = sorted(
        send_some(store, AT_TEN, 60), key=lambda job: position_of(place(job.user_id), place(hanging))
    )
    begin_calls(store, sent[0])
    succeed(store, *sent[1:30])

    assert sent[0].user_id == hanging
    assert claim_at(store, AT_ELEVEN) == place(sent[30].user_id)


def test_a_run_that_was_cancelled_counts_as_if_it_had_not_been(store: Store) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    first = claim_at(store, AT_TEN)
    succeed(store, *send_some(store, AT_TEN, 60))
    store.runs.cancel(AT_TEN, reason="")

    assert first > 0
    assert claim_at(store, AT_ELEVEN) == first
    assert store.runs.get(AT_TEN).shares[0].unreached is None


def test_a_run_beside_which_another_may_go_is_not_cut_by_it(store: Store) -> None:
    enable(store, names(200))
    claim(store, share_of(deadline_at=NINE + 5 * HOUR))
    succeed(store, *send_some(store, RUN, 60))

    assert claim_at(store, AT_TEN, overlap=Overlap.ALLOW) == 0
    assert store.runs.get(RUN).shares[0].unreached is None


def test_a_run_whose_deadline_comes_just_after_the_claim_beside_it_is_as_good_as_cut(store: Store) -> None:
    enable(store, names(200))
    claim(store, share_of(deadline_at=TEN + HOUR / 2 + timedelta(seconds=1)))
    succeed(store, *send_some(store, RUN, 60))

    assert claim_at(store, AT_TEN, overlap=Overlap.ALLOW) == store.runs.get(RUN).shares[0].cursor + 1


@pytest.mark.parametrize("reason", ["paused", "missed"])
def test_a_run_that_is_skipped_leaves_it_to_the_next_to_go_on(store: Store, reason: str) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    stopped = store.runs.get(RUN).shares[0].cursor + 1
    frozen(store).move_to(TEN + HOUR / 2)
    claim(store, share_of(skip=reason), nominal_at=TEN)

    assert claim_at(store, AT_ELEVEN) == stopped


def test_a_run_that_was_asked_for_begins_as_usual_and_hands_nothing_on(store: Store) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    asked = RunId("email_digest~m1")
    claim(store, share_of(), run_id=asked, kind=RunKind.MANUAL, overlap=Overlap.ALLOW)
    send_some(store, asked, 20)

    assert store.runs.get(asked).shares[0].first == 0
    assert claim_at(store, AT_TEN) == store.runs.get(RUN).shares[0].cursor + 1


# --- Who comes and goes --------------------------------------------------------------------------------------


def test_a_cohort_that_is_new_begins_at_its_start(store: Store) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    enable(store, names(100), interval=OWN)

    assert claim_at(store, AT_TEN, f"*|{OWN.canonical}") == 0


def test_each_cohort_begins_where_its_own_share_stopped(store: Store) -> None:
    enable(store, names(100))
    enable(store, names(100, prefix="own"), interval=OWN)
    claim(store, share_of(), share_of(f"*|{OWN.canonical}"))
    for share, number in enumerate((30, 70)):
        succeed(store, *send_some(store, RUN, number, share=share))
    cursors = [share.cursor for share in store.runs.get(RUN).shares]
    frozen(store).move_to(TEN + HOUR / 2)

    claim(store, share_of(f"*|{OWN.canonical}"), share_of(), nominal_at=TEN)

    assert [share.first for share in store.runs.get(AT_TEN).shares] == [cursors[1] + 1, cursors[0] + 1]


def test_who_leaves_the_cohort_of_a_run_that_begins_elsewhere_keeps_the_place_if_not_met_yet(
    store: Store,
) -> None:
    users = in_order(names(200))
    running(store, users)
    succeed(store, *send_some(store, RUN, 120))
    first = claim_at(store, AT_TEN)
    before = len(jobs_sent(store))
    send_some(store, AT_TEN, 40)
    met = {job.user_id for job in jobs_sent(store)[before:]}
    cycle = in_order(users, first=first)
    movers = [cycle[2], cycle[-1], users[0], cycle[len(met)]]

    store.preferences.apply([Enable(UserId(user), DIGEST, interval=OWN) for user in movers])
    distribute(store, AT_TEN)

    assert cycle[2] in met
    assert not {cycle[-1], users[0], cycle[len(met)]} & met
    assert Counter(job.user_id for job in jobs_sent(store)[before:]) == Counter(users)


def test_who_comes_after_a_cut_is_met_where_their_place_is(store: Store) -> None:
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 60))
    enable(store, names(50, prefix="new"))
    first = claim_at(store, AT_TEN)
    before = len(jobs_sent(store))

    pages = []
    while not store.runs.get(AT_TEN).shares[0].done:
        pages.append([position_of(place(job.user_id), first) for job in send_some(store, AT_TEN, 20)])

    everybody = Counter([*names(200), *names(50, prefix="new")])
    assert Counter(job.user_id for job in jobs_sent(store)[before:]) == everybody
    assert all(max(one) < min(following) for one, following in pairwise(filter(None, pages)))


# --- The cursor is the fence, wherever the order begins ------------------------------------------------------------


def rotated(store: Store) -> RunId:
    """The run of ten o'clock, which begins where that of nine was cut."""
    running(store, names(200))
    succeed(store, *send_some(store, RUN, 120))
    assert claim_at(store, AT_TEN) > 0
    return AT_TEN


def test_a_step_of_a_run_that_begins_elsewhere_is_taken_once(store: Store) -> None:
    run_id = rotated(store)
    taken: list[Step] = []
    while not store.runs.get(run_id).fanned_out:
        step = next_step(store, run_id, size=30)
        store.ledger.fan_out(run_id, step, Priority.NORMAL)
        taken.append(step)
        before = contents(store)
        # Whoever comes second, or again after a crash.
        assert [store.ledger.fan_out(run_id, one, Priority.NORMAL) for one in taken] == [None] * len(taken)
        assert contents(store) == before

    assert taken[-1].reached == LAST_PLACE
    assert [step.cursor for step in taken] == [-1, *(step.reached for step in taken[:-1])]
    assert store.runs.get(run_id).counts == RunCounts(expected=200, open=200)
    assert Counter(job.user_id for job in jobs_sent(store) if job.run_id == run_id) == Counter(names(200))


def test_distributors_that_race_over_a_run_that_begins_elsewhere_send_every_member_one_message(
    store: Store,
) -> None:
    run_id = rotated(store)

    def distributor() -> Callable[[], int]:
        own, sent = another(store), 0

        def work() -> int:
            nonlocal sent
            while not own.runs.get(run_id).fanned_out:
                sent += own.ledger.fan_out(run_id, next_step(own, run_id, size=9), Priority.NORMAL) or 0
            return sent

        return work

    sent = at_once([distributor() for _ in range(3)])

    assert sum(sent) == 200
    assert Counter(job.user_id for job in jobs_sent(store) if job.run_id == run_id) == Counter(names(200))
    assert store.runs.get(run_id).counts == RunCounts(expected=200, open=200)


def test_how_many_are_left_of_a_run_that_begins_elsewhere_counts_who_is_listed_with_it(store: Store) -> None:
    run_id = rotated(store)
    store.preferences.apply([Enable(UserId(user), DIGEST, interval=OWN) for user in names(200)])

    left, expected = [sum(store.runs.members_left(store.runs.get(run_id)))], [200]
    while not store.runs.get(run_id).fanned_out:
        expected.append(expected[-1] - len(send_some(store, run_id, 50)))
        left.append(sum(store.runs.members_left(store.runs.get(run_id))))

    assert left == expected
    assert expected[-1] == 0


def test_a_run_of_which_no_beginning_is_noted_has_the_usual_order(store: Store) -> None:
    # So it is with all that an earlier version claimed.
    running(store, names(50))

    assert not {"0:first", "0:unreached"} & set(store.connection.call("HKEYS", store.keys("shares", RUN)))

    [share] = store.runs.get(RUN).shares
    assert (share.first, share.unreached) == (0, None)
    assert [job.user_id for job in send_some(store, RUN, 1000)] == in_order(names(50))
