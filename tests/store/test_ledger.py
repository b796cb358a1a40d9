"""Who is expected, whose job is open, how each one ended: exact, however often a message is delivered."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.ledgers import counted, summed
from tq.clock import MILLISECOND, duration_ms, to_ms
from tq.models import (
    Envelope,
    Interval,
    JobStatus,
    Priority,
    RunCounts,
    RunId,
    RunStatus,
    TaskId,
    UserId,
    Verdict,
)
from tq.redis_server import RedisServer
from tq.slots import LAST_PLACE
from tq.store import Store
from tq.store.agenda import PutOff
from tq.store.ledger import End, Retry, Step
from tq.store.preferences import Disable

from . import (
    DIGEST,
    HOUR,
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
    fresh_store,
    frozen,
    hold,
    jobs_sent,
    names,
    next_step,
    outbox,
    running,
    share_of,
    users_in,
)

OWN = Interval.hourly()
OWN_COHORT = f"*|{OWN.canonical}"
MINUTE = timedelta(minutes=1)


def again(envelope: Envelope, *, delay: timedelta = MINUTE, spent: int | None = None) -> Retry:
    """A retry that spends an attempt, unless told otherwise."""
    return Retry(envelope, delay, envelope.spent + 1 if spent is None else spent, Priority.NORMAL)


def state_of(store: Store, run_id: RunId, user_id: str) -> str | None:
    """What the open set says of a user's job: `attempt|spent|execute_after|parameters`."""
    state = store.connection.call("HGET", store.keys("open", run_id), user_id)
    assert state is None or isinstance(state, str)
    return state


def one_job(store: Store) -> Envelope:
    """The job of a run for ada alone."""
    distribute(store, running(store, ["ada"], parameters={"a": 1}))
    [job] = jobs_sent(store)
    return job


# --- Fan-out -----------------------------------------------------------------------------------------


def test_a_step_puts_jobs_into_queue_open_set_and_ledger_and_moves_the_cursor(store: Store) -> None:
    run_id = running(store, names(50), parameters={"a": 1})
    wake_at = NOW + timedelta(seconds=3)
    step = replace(next_step(store, run_id, size=20), wake_at=wake_at)

    added = store.ledger.fan_out(run_id, step, Priority.HIGH)

    run = store.runs.get(run_id)
    users = users_in(step)
    assert 0 < len(users) < 50
    assert added == len(users)
    assert [job.user_id for job in jobs_sent(store)] == users
    assert {sent.queue for sent in outbox(store)} == {"high"}
    assert set(store.runs.open_users(run_id)) == set(users)
    assert state_of(store, run_id, users[0]) == f'1|0|0|{to_ms(run.nominal_at)}|{{"a":1}}'
    assert run.counts == RunCounts(expected=len(users), open=len(users))
    assert (run.shares[0].cursor, run.fanned_out) == (step.reached, False)
    assert agenda_entries(store) == {f"d|{run_id}": to_ms(wake_at)}

    later = replace(next_step(store, run_id, size=20), wake_at=wake_at + timedelta(seconds=9))
    store.ledger.fan_out(run_id, later, Priority.HIGH)
    assert agenda_entries(store) == {f"d|{run_id}": to_ms(wake_at)}


def test_a_step_from_where_the_cursor_is_no_more_changes_nothing(store: Store) -> None:
    run_id = running(store, names(50))
    step = next_step(store, run_id, size=20)
    store.ledger.fan_out(run_id, step, Priority.NORMAL)
    before = contents(store)

    assert store.ledger.fan_out(run_id, step, Priority.NORMAL) is None
    assert store.ledger.fan_out(run_id, replace(step, cursor=step.reached + 1), Priority.NORMAL) is None

    assert contents(store) == before


def test_a_share_that_is_done_takes_no_further_step(store: Store) -> None:
    run_id = running(store, names(10))
    distribute(store, run_id)
    before = contents(store)

    beyond = Step(0, LAST_PLACE, LAST_PLACE, done=True, wake_at=NOW)
    assert store.ledger.fan_out(run_id, beyond, Priority.NORMAL) is None

    assert contents(store) == before


def test_a_run_that_is_not_running_takes_no_step(store: Store) -> None:
    run_id = running(store, names(10))
    step = next_step(store, run_id)
    store.connection.call("HSET", store.keys("run", run_id), "status", "cancelled")
    before = contents(store)

    assert store.ledger.fan_out(run_id, step, Priority.NORMAL) is None

    assert contents(store) == before


def test_distributors_that_race_send_every_member_one_message(store: Store) -> None:
    run_id = running(store, names(2000))

    def distributor() -> Callable[[], int]:
        own, sent = another(store), 0

        def work() -> int:
            nonlocal sent
            while not own.runs.get(run_id).fanned_out:
                sent += own.ledger.fan_out(run_id, next_step(own, run_id, size=90), Priority.NORMAL) or 0
            return sent

        return work

    sent = at_once([distributor() for _ in range(3)])

    assert sum(sent) == 2000
    assert Counter(job.user_id for job in jobs_sent(store)) == Counter(names(2000))
    assert store.runs.get(run_id).counts == RunCounts(expected=2000, open=2000)


def test_a_user_whose_job_is_open_gets_no_second_one(store: Store) -> None:
    enable(store, ["ada", "bob"])
    enable(store, ["cyd"], interval=OWN)
    claim(store, share_of(), share_of(OWN_COHORT))
    run_id = store.runs.active(DIGEST)[0]
    store.ledger.fan_out(run_id, next_step(store, run_id), Priority.NORMAL)
    enable(store, ["ada"], interval=OWN)

    added = store.ledger.fan_out(run_id, next_step(store, run_id, share=1), Priority.NORMAL)

    assert added == 1
    assert Counter(job.user_id for job in jobs_sent(store)) == Counter(["ada", "bob", "cyd"])
    assert store.runs.get(run_id).counts == RunCounts(expected=3, open=3)


def test_a_batch_of_any_size_is_sent_in_its_order(store: Store) -> None:
    # More than a command of Redis takes at a time.
    run_id = running(store, names(1203))
    step = next_step(store, run_id, size=5000)

    added = store.ledger.fan_out(run_id, step, Priority.NORMAL)

    assert len(step.batches) == 1
    assert added == 1203
    assert [job.user_id for job in jobs_sent(store)] == users_in(step)
    assert store.runs.get(run_id).counts == RunCounts(expected=1203, open=1203)


def test_each_batch_of_a_step_keeps_its_own_state(store: Store) -> None:
    run_id = running(store, ["ada", "bob"], parameters={"a": 1})
    enable(store, ["cyd"], parameters={"a": 2})
    step = next_step(store, run_id)

    store.ledger.fan_out(run_id, step, Priority.NORMAL)

    assert len(step.batches) == 2
    assert {job.user_id: job.parameters for job in jobs_sent(store)} == {
        **dict.fromkeys(["ada", "bob"], '{"a":1}'),
        "cyd": '{"a":2}',
    }
    assert str(state_of(store, run_id, "bob")).endswith('|{"a":1}')
    assert str(state_of(store, run_id, "cyd")).endswith('|{"a":2}')


def test_a_user_who_is_twice_on_a_page_gets_one_job(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    step = next_step(store, run_id)
    [batch] = step.batches
    twice = replace(batch, user_ids=[*batch.user_ids, UserId("ada")])

    added = store.ledger.fan_out(run_id, replace(step, batches=[twice, batch]), Priority.NORMAL)

    assert added == 2
    assert sorted(job.user_id for job in jobs_sent(store)) == ["ada", "bob"]
    assert store.runs.get(run_id).counts == RunCounts(expected=2, open=2)


def test_members_passed_over_after_the_deadline_are_counted_as_expired(store: Store) -> None:
    run_id = running(store, names(50))
    step = next_step(store, run_id)

    added = store.ledger.fan_out(run_id, replace(step, batches=[], passed_over=50), Priority.NORMAL)

    run = store.runs.get(run_id)
    assert added == 0
    assert run.status is RunStatus.ENDED
    assert run.counts == RunCounts(expected=50, expired=50)
    assert outbox(store) == []


# --- When a run closes -------------------------------------------------------------------------------


def has_closed(store: Store, run_id: RunId) -> bool:
    """Whether a run has ended, and is out of the way of all that looks for work."""
    run, is_active = store.runs.get(run_id), run_id in store.runs.active(DIGEST)
    assert (run.ended_at is not None) == (run.status is RunStatus.ENDED) == (not is_active)
    assert is_active or f"d|{run_id}" not in agenda_entries(store)
    return not is_active


def test_a_run_closes_when_its_last_open_job_ends_after_the_fan_out(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    first, second = jobs_sent(store)
    frozen(store).advance(MINUTE)

    store.ledger.finish([end_of(first)])
    assert not has_closed(store, run_id)
    store.ledger.finish([end_of(second, JobStatus.FAILED)])

    assert has_closed(store, run_id)
    assert store.runs.get(run_id).ended_at == NOW + MINUTE
    assert store.runs.get(run_id).counts == RunCounts(expected=2, success=1, failed=1)
    assert 0 < store.connection.call("TTL", store.keys("run", run_id)) <= 90 * 86_400
    assert 0 < store.connection.call("TTL", store.keys("shares", run_id)) <= 90 * 86_400


def test_a_run_closes_when_its_fan_out_ends_after_all_jobs(store: Store) -> None:
    enable(store, ["ada"])
    enable(store, ["bob"], interval=OWN)
    claim(store, share_of(), share_of(OWN_COHORT))
    [run_id] = store.runs.active(DIGEST)

    store.ledger.fan_out(run_id, next_step(store, run_id), Priority.NORMAL)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])
    assert not has_closed(store, run_id)
    store.preferences.apply([Disable(UserId("bob"), DIGEST)])
    store.ledger.fan_out(run_id, next_step(store, run_id, share=1), Priority.NORMAL)

    assert has_closed(store, run_id)
    assert store.runs.get(run_id).counts == RunCounts(expected=1, success=1)


def test_a_run_for_nobody_closes_as_soon_as_it_is_distributed(store: Store) -> None:
    claim(store, share_of())
    [run_id] = store.runs.active(DIGEST)

    assert distribute(store, run_id) == 0

    assert has_closed(store, run_id)
    assert store.runs.get(run_id).counts == RunCounts()


def test_a_run_with_a_job_that_waits_for_its_retry_stays_open(store: Store) -> None:
    job = one_job(store)

    store.ledger.finish([again(job)])

    assert not has_closed(store, job.run_id)
    store.ledger.finish([end_of(job.next_attempt(spent=1))])
    assert has_closed(store, job.run_id)


# --- Whether an attempt may be made -----------------------------------------------------------------------


def test_an_attempt_goes_ahead_until_the_last_millisecond_of_its_deadline(store: Store) -> None:
    job = one_job(store)

    frozen(store).move_to(NOW + HOUR)
    [in_time] = store.ledger.begin([job])
    frozen(store).advance(MILLISECOND)
    [late] = store.ledger.begin([job])

    assert (in_time.verdict, in_time.now, in_time.deadline_at) == (Verdict.GO, NOW + HOUR, NOW + HOUR)
    assert (late.verdict, late.now) == (Verdict.EXPIRED, NOW + HOUR + MILLISECOND)


def test_each_attempt_is_judged_by_its_own_job_and_share(store: Store) -> None:
    enable(store, ["ada", "bob"])
    enable(store, ["cyd"], interval=OWN)
    claim(store, share_of(), share_of(OWN_COHORT, deadline_at=NOW - MILLISECOND))
    [run_id] = store.runs.active(DIGEST)
    distribute(store, run_id)
    jobs = {job.user_id: job for job in jobs_sent(store)}
    ada, bob, cyd = (jobs[UserId(user)] for user in ("ada", "bob", "cyd"))
    store.ledger.finish([end_of(ada), again(bob)])
    never = Envelope.from_wire([*ada.to_wire()[:2], "email_digest~20200101T000000Z", *ada.to_wire()[3:]])

    permissions = store.ledger.begin([ada, bob, bob.next_attempt(spent=1), cyd, never])

    assert [permission.verdict for permission in permissions] == [
        *(Verdict.ENDED, Verdict.SUPERSEDED, Verdict.GO, Verdict.EXPIRED, Verdict.ENDED)
    ]


def suspect(job: Envelope) -> Envelope:
    """The same job, delivered after the process that had it died."""
    delivered = Envelope.from_wire(job.to_wire())
    delivered.is_suspect = True
    return delivered


def test_a_suspect_may_be_begun_three_times_and_then_has_crashed(store: Store) -> None:
    distribute(store, running(store, ["ada", "bob"]))
    ada, bob = jobs_sent(store)
    store.ledger.begin([ada])

    verdicts = [store.ledger.begin([suspect(ada)], counts_suspects=True)[0].verdict for _ in range(4)]

    assert verdicts == [Verdict.GO, Verdict.GO, Verdict.GO, Verdict.CRASHED]
    assert store.ledger.begin([suspect(bob)], counts_suspects=True)[0].verdict is Verdict.GO


def test_who_has_come_to_an_end_or_to_a_retry_is_no_suspect_any_more(store: Store) -> None:
    job = one_job(store)
    for _ in range(3):
        store.ledger.begin([suspect(job)], counts_suspects=True)
    store.ledger.finish([again(job)])

    verdict = store.ledger.begin([suspect(job.next_attempt(spent=1))], counts_suspects=True)[0].verdict

    assert verdict is Verdict.GO
    assert store.connection.call("HVALS", store.keys("suspects")) == ["1"]


def test_a_suspect_that_may_not_begin_is_not_counted(store: Store) -> None:
    job = one_job(store)
    frozen(store).advance(2 * HOUR)

    for _ in range(5):
        assert store.ledger.begin([suspect(job)], counts_suspects=True)[0].verdict is Verdict.EXPIRED

    assert store.connection.call("EXISTS", store.keys("suspects")) == 0


def test_what_a_process_has_begun_is_noted_until_it_has_come_to_something(store: Store) -> None:
    distribute(store, running(store, ["ada", "bob", "cyd"]))
    ada, bob, cyd = begun = jobs_sent(store)
    hold(store, "worker:1", *begun)
    store.ledger.begin(begun)
    noted = store.connection.call("SMEMBERS", store.keys("begun", "worker:1"))

    store.ledger.finish([end_of(ada), again(bob)])

    assert set(noted) == {job.message_id for job in begun}
    assert store.connection.call("SMEMBERS", store.keys("begun", "worker:1")) == {cyd.message_id}


def test_a_process_may_not_begin_what_it_does_not_hold_any_more(store: Store) -> None:
    distribute(store, running(store, ["ada", "bob"]))
    ada, bob = jobs_sent(store)
    hold(store, "worker:1", ada)
    bob.holder, bob.queue = "worker:1", ada.queue

    verdicts = [permission.verdict for permission in store.ledger.begin([ada, bob])]

    assert verdicts == [Verdict.GO, Verdict.ELSEWHERE]
    assert store.connection.call("SMEMBERS", store.keys("begun", "worker:1")) == {ada.message_id}


def test_asking_changes_nothing(store: Store) -> None:
    job = one_job(store)
    before = contents(store)

    store.ledger.begin([job, job])

    assert contents(store) == before


# --- How attempts came out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", JobStatus)
def test_an_end_that_is_reported_twice_counts_once(store: Store, status: JobStatus) -> None:
    job = one_job(store)
    end = end_of(job, status, reason="paused" if status is JobStatus.SKIPPED else None)

    assert store.ledger.finish([end, end]) == [True, False]
    before = contents(store)
    assert store.ledger.finish([end, again(job)]) == [False, False]

    assert contents(store) == before
    counts = store.runs.get(job.run_id).counts
    assert counts.model_dump(exclude_defaults=True) == {"expected": 1, status.value: 1} | (
        {"skipped_by_reason": {"paused": 1}} if status is JobStatus.SKIPPED else {}
    )
    assert len(store.results.of(DIGEST, job.user_id)) == 1


def test_of_racing_reports_of_one_attempt_one_counts(store: Store) -> None:
    job = one_job(store)
    endings: list[End | Retry] = [end_of(job), end_of(job, JobStatus.FAILED), again(job)] * 4

    recorded = at_once([partial(another(store).ledger.finish, [ending]) for ending in endings])

    assert sum(answer for [answer] in recorded) == 1
    counts = store.runs.get(job.run_id).counts
    assert counts.unaccounted == 0
    assert counts.ended + counts.retries == 1


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_report_of_another_attempt_changes_nothing(store: Store, attempt: int) -> None:
    job = one_job(store)
    store.ledger.finish([again(job)])
    wrong = Envelope.from_wire([*job.to_wire()[:8], attempt, 0, 0, ""])
    before = contents(store)

    assert store.ledger.finish([end_of(wrong), again(wrong)]) == [False, False]

    assert contents(store) == before


def test_a_report_for_a_job_that_never_was_changes_nothing(store: Store) -> None:
    job = one_job(store)
    stranger = Envelope.from_wire([job.task_id, "eve", *job.to_wire()[2:]])
    before = contents(store)

    assert store.ledger.finish([end_of(stranger, JobStatus.FAILED), again(stranger)]) == [False, False]

    assert contents(store) == before


def test_a_retry_waits_on_the_agenda_and_carries_attempt_spent_and_parameters(store: Store) -> None:
    job = one_job(store)
    delay = timedelta(seconds=90)

    assert store.ledger.finish([again(job, delay=delay, spent=0)]) == [True]

    assert agenda_entries(store) == {f"r|{job.run_id}|ada": to_ms(NOW) + duration_ms(delay)}
    assert state_of(store, job.run_id, "ada") == f'2|0|0|{to_ms(job.execute_after)}|{{"a":1}}'
    assert store.runs.get(job.run_id).counts == RunCounts(expected=1, open=1, waiting=1, retries=1)
    assert store.results.of(DIGEST, job.user_id) == []
    frozen(store).advance(delay)
    store.agenda.release_due()
    retried = jobs_sent(store)[-1]
    assert retried.to_wire() == [*job.to_wire()[:8], 2, 0, 0, '{"a":1}']
    assert retried.job_id == job.job_id


@pytest.mark.parametrize("failed_at", [None, NOW + MILLISECOND])
def test_a_retry_carries_when_the_last_spent_attempt_ended(store: Store, failed_at: datetime | None) -> None:
    job = one_job(store)
    store.ledger.finish([again(job)._replace(failed_at=failed_at)])
    frozen(store).advance(MINUTE)

    store.agenda.release_due()

    assert jobs_sent(store)[-1].failed_at == failed_at


# --- Jobs that wait for their retry -------------------------------------------------------------------------


def waiting(store: Store, run_id: RunId) -> int:
    return store.runs.get(run_id).counts.waiting


def test_a_job_waits_from_its_failure_until_its_retry_is_in_the_queue(store: Store) -> None:
    distribute(store, running(store, names(5)))
    first, second, *_ = jobs_sent(store)

    store.ledger.finish([again(first), again(first), again(second, delay=HOUR)])
    both = waiting(store, first.run_id)
    frozen(store).advance(MINUTE)
    store.agenda.release_due()

    assert (both, waiting(store, first.run_id)) == (2, 1)


def end_as_success(store: Store, job: Envelope) -> None:
    store.ledger.finish([end_of(job.next_attempt(spent=1))])


def switch_off(store: Store, job: Envelope) -> None:
    store.preferences.apply([Disable(job.user_id, job.task_id)])


@pytest.mark.parametrize("end", [end_as_success, switch_off])
def test_a_job_that_ends_while_its_retry_waits_leaves_nothing_on_the_agenda(
    store: Store, end: Callable[[Store, Envelope], None]
) -> None:
    distribute(store, running(store, ["ada", "bob"]))
    jobs = jobs_sent(store)
    store.ledger.finish([again(job) for job in jobs])

    end(store, jobs[0])

    assert waiting(store, jobs[0].run_id) == 1
    assert list(agenda_entries(store)) == [f"r|{jobs[1].run_id}|{jobs[1].user_id}"]
    assert store.connection.call("HLEN", store.keys("agenda_messages")) == 1


def test_a_retry_that_fails_before_its_time_waits_once(store: Store) -> None:
    job = one_job(store)
    store.ledger.finish([again(job)])

    store.ledger.finish([again(job.next_attempt(spent=1))])

    assert waiting(store, job.run_id) == 1


def test_a_batch_is_recorded_one_by_one(store: Store) -> None:
    distribute(store, running(store, names(5)))
    first, second, third, *_ = jobs_sent(store)

    recorded = store.ledger.finish(
        [end_of(first), end_of(first), again(second), end_of(second.next_attempt(spent=1)), end_of(third)]
    )

    assert recorded == [True, False, True, True, True]
    assert store.runs.get(first.run_id).counts == RunCounts(expected=5, success=3, open=2, retries=1)


# --- A user is switched off while a run is under way ---------------------------------------------------------


def disable_ada(store: Store) -> None:
    store.preferences.apply([Disable(UserId("ada"), DIGEST)])


def forget_ada(store: Store) -> None:
    store.preferences.forget(UserId("ada"))


@pytest.mark.parametrize("switch_off", [disable_ada, forget_ada])
def test_the_open_jobs_of_a_user_who_is_switched_off_end_and_close_their_runs(
    store: Store, switch_off: Callable[[Store], None]
) -> None:
    run_id = running(store, ["ada", "bob"])
    claim(store, share_of(), run_id=RunId("email_digest~m1"))
    for run in store.runs.active(DIGEST):
        distribute(store, run)
    store.ledger.finish([end_of(job) for job in jobs_sent(store) if job.user_id == "bob"])
    [ada, *_] = [job for job in jobs_sent(store) if job.user_id == "ada"]

    switch_off(store)

    for run in (run_id, RunId("email_digest~m1")):
        assert has_closed(store, run)
        assert store.runs.get(run).counts == RunCounts(
            expected=2, success=1, skipped=1, skipped_by_reason={"disabled": 1}
        )
    assert store.ledger.begin([ada])[0].verdict is Verdict.ENDED
    assert store.ledger.finish([end_of(ada)]) == [False]


def test_a_job_that_was_skipped_has_a_result_that_says_so(store: Store) -> None:
    job = one_job(store)
    store.ledger.finish([again(job)])
    frozen(store).advance(HOUR)

    disable_ada(store)

    assert store.results.of(DIGEST, UserId("ada")) == [
        end_of(
            job,
            JobStatus.SKIPPED,
            reason="disabled",
            started_at=None,
            ended_at=NOW + HOUR,
            duration=timedelta(0),
            attempts=1,
        ).result
    ]


def test_switching_one_task_off_leaves_jobs_of_other_tasks_and_users_open(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)

    store.preferences.apply([Disable(UserId("bob"), DIGEST), Disable(UserId("ada"), TaskId("other"))])

    assert list(store.runs.open_users(run_id)) == ["ada"]
    assert store.runs.is_open([run_id], UserId("ada"))
    assert not store.runs.is_open([run_id], UserId("bob"))


# --- Any order of anything --------------------------------------------------------------------------------------


class Deliveries(RuleBasedStateMachine):
    """A run whose messages are delivered late, twice and out of order, beside a model that counts."""

    url: ClassVar[str]
    users = names(12)

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.store = self._open.enter_context(fresh_store(self.url))
        self.steps: list[Step] = []
        self.done = [False, False]
        self.attempts: dict[str, int] = {}
        self.counted = Counter[str]()
        self.known = set(self.users)
        self.paused: dict[tuple[str, TaskId | None], datetime | None] = {}

    def teardown(self) -> None:
        self._open.close()

    @initialize()
    def claim(self) -> None:
        enable(self.store, self.users[::2])
        enable(self.store, self.users[1::2], interval=OWN)
        claim(self.store, share_of(), share_of(OWN_COHORT))
        [self.run_id] = self.store.runs.active(DIGEST)

    def is_paused(self, user: str) -> bool:
        ends = [self.paused.get((user, task), NOW) for task in (None, DIGEST)]
        return any(end is None or end > self.store.clock.now() for end in ends)

    @property
    def has_ended(self) -> bool:
        return all(self.done) and not self.attempts

    @rule(share=st.integers(0, 1), size=st.integers(1, 4))
    def distribute(self, share: int, size: int) -> None:
        step = next_step(self.store, self.run_id, share=share, size=size)
        added = self.store.ledger.fan_out(self.run_id, step, Priority.NORMAL)
        if self.done[share]:
            assert added is None
            return
        paused = [user for user in users_in(step) if self.is_paused(user)]
        new = [user for user in users_in(step) if user not in paused]
        assert added == len(new)
        self.attempts |= dict.fromkeys(new, 1)
        self.counted["expected"] += len(new) + len(paused)
        self.counted["skipped"] += len(paused)
        self.done[share] = step.done
        self.steps.append(step)

    @precondition(lambda self: bool(self.steps))
    @rule(data=st.data())
    def distribute_once_more(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(self.steps))
        if step.cursor != step.reached:
            assert self.store.ledger.fan_out(self.run_id, step, Priority.NORMAL) is None

    @precondition(lambda self: bool(jobs_sent(self.store)))
    @rule(data=st.data(), status=st.none() | st.sampled_from(JobStatus))
    def deliver(self, data: st.DataObject, status: JobStatus | None) -> None:
        job = data.draw(st.sampled_from(jobs_sent(self.store)))
        attempt = self.attempts.get(job.user_id)
        [permission] = self.store.ledger.begin([job])
        if attempt is None:
            assert permission.verdict is Verdict.ENDED
        else:
            assert permission.verdict is (Verdict.GO if attempt == job.attempt else Verdict.SUPERSEDED)
        [recorded] = self.store.ledger.finish([again(job) if status is None else end_of(job, status)])
        assert recorded == (permission.verdict is Verdict.GO)
        if recorded and status is None:
            self.attempts[job.user_id] = job.attempt + 1
            self.counted["retries"] += 1
        elif recorded and status is not None:
            del self.attempts[job.user_id]
            self.counted[status.value] += 1

    @rule(seconds=st.integers(1, 80))
    def time_passes(self, seconds: int) -> None:
        frozen(self.store).advance(timedelta(seconds=seconds))
        self.store.agenda.release_due()

    @rule(user=st.sampled_from(users), forget=st.booleans())
    def switch_off(self, user: str, forget: bool) -> None:
        if forget:
            self.store.preferences.forget(UserId(user))
            self.known.discard(user)
            self.paused = {scope: end for scope, end in self.paused.items() if scope[0] != user}
        else:
            self.store.preferences.apply([Disable(UserId(user), DIGEST)])
        if self.attempts.pop(user, None):
            self.counted["skipped"] += 1

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data(), whole=st.booleans(), seconds=st.none() | st.integers(1, 80))
    def pause(self, data: st.DataObject, whole: bool, seconds: int | None) -> None:
        user = data.draw(st.sampled_from(sorted(self.known)))
        task = None if whole else DIGEST
        until = None if seconds is None else self.store.clock.now() + timedelta(seconds=seconds)
        self.store.user_pauses.pause(UserId(user), task, until=until)
        self.paused[user, task] = until
        if self.attempts.pop(user, None):
            self.counted["skipped"] += 1

    @rule(user=st.sampled_from(users), whole=st.booleans())
    def resume(self, user: str, whole: bool) -> None:
        task = None if whole else DIGEST
        end = self.paused.pop((user, task), NOW)
        lasted = end is None or end > self.store.clock.now()
        assert self.store.user_pauses.resume(UserId(user), task) == lasted

    @precondition(lambda self: bool(jobs_sent(self.store)))
    @rule(data=st.data(), seconds=st.integers(0, 80))
    def put_off(self, data: st.DataObject, seconds: int) -> None:
        job = data.draw(st.sampled_from(jobs_sent(self.store)))
        message = ListTransport("").job_message(job, Priority.NORMAL)
        put_off = self.store.agenda.put_off([PutOff(job, message, timedelta(seconds=seconds))])
        assert put_off == (self.attempts.get(job.user_id) == job.attempt)

    @invariant()
    def the_agenda_has_open_jobs_only_and_waiting_counts_the_retries(self) -> None:
        if not hasattr(self, "run_id"):
            return
        entries = agenda_entries(self.store)
        retries = {entry.split("|")[2] for entry in entries if entry.startswith("r|")}
        put_off = {entry.split("|")[2] for entry in entries if entry.startswith("p|")}
        assert self.store.runs.get(self.run_id).counts.waiting == len(retries)
        assert retries | put_off <= set(self.attempts)
        assert set(entries) == set(self.store.connection.client.hkeys(self.store.keys("agenda_messages")))

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        if not hasattr(self, "run_id"):
            return
        run = self.store.runs.get(self.run_id)
        assert run.counts.unaccounted == 0
        assert run.counts.model_copy(update={"skipped_by_reason": {}, "waiting": 0}) == RunCounts(
            open=len(self.attempts), **self.counted
        )
        assert set(self.store.runs.open_users(self.run_id)) == set(self.attempts)
        assert [share.done for share in run.shares] == self.done
        assert (run.status is RunStatus.ENDED) == self.has_ended
        assert has_closed(self.store, self.run_id) == self.has_ended
        assert counted(self.store.totals.read([]).totals) == summed(self.store.runs.latest())


def test_every_expected_job_is_open_or_ended_whatever_is_delivered_when(redis_server: RedisServer) -> None:
    class DeliveriesHere(Deliveries):
        url = redis_server.url

    run_state_machine_as_test(
        DeliveriesHere,
        settings=hypothesis_settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
