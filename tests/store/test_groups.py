"""Many jobs are asked for and told of at once, and each is judged as if it had come alone."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tq.models import (
    Envelope,
    Interval,
    JobStatus,
    Permission,
    Priority,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    UserId,
    Verdict,
)
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.agenda import PutOff
from tq.store.ledger import End, Retry

from . import (
    DIGEST,
    NOW,
    ListTransport,
    agenda_entries,
    claim,
    distribute,
    enable,
    end_of,
    fresh_store,
    hold,
    jobs_sent,
    names,
    running,
    share_of,
    values,
)

OWN = Interval.hourly()
OWN_COHORT = f"*|{OWN.canonical}"
MANUAL = RunId("email_digest~m1")
MINUTE = timedelta(minutes=1)
HOLDERS = ("worker:1", "worker:2")


def two_runs(store: Store) -> list[Envelope]:
    """The jobs of a run with two shares, of which one is over, and of one on request; by run and user."""
    enable(store, ["ada", "bob"])
    enable(store, ["cyd"], interval=OWN)
    claim(store, share_of(), share_of(OWN_COHORT, deadline_at=NOW - MINUTE))
    claim(store, share_of(), run_id=MANUAL, kind=RunKind.MANUAL)
    for run_id in store.runs.active(DIGEST):
        distribute(store, run_id)
    return sorted(jobs_sent(store), key=lambda job: (job.run_id, job.user_id))


def attempt_of(job: Envelope, attempt: int) -> Envelope:
    """So many attempts later."""
    again = Envelope.from_wire(job.to_wire())
    for spent in range(1, attempt):
        again = again.next_attempt(spent=spent)
    return again


@dataclass(frozen=True)
class Told:
    """What comes to the ledger of one of the jobs."""

    job: int
    attempt: int = 1
    holder: str = HOLDERS[0]
    is_suspect: bool = False
    status: JobStatus | None = JobStatus.SUCCESS  # None for a retry

    def envelope(self, jobs: Sequence[Envelope]) -> Envelope:
        """The attempt as its process knows it."""
        made = attempt_of(jobs[self.job], self.attempt)
        made.holder, made.is_suspect = self.holder, self.is_suspect
        made.queue = Priority.NORMAL.value if self.holder else ""
        return made

    def ending(self, jobs: Sequence[Envelope]) -> End | Retry:
        """How the attempt came out."""
        made = self.envelope(jobs)
        if self.status is None:
            return Retry(made, self.attempt * MINUTE, self.attempt, Priority.NORMAL)
        return end_of(made, self.status, reason="paused" if self.status is JobStatus.SKIPPED else None)


many_told = st.lists(
    st.builds(
        Told,
        job=st.integers(0, 4),
        attempt=st.sampled_from([1, 1, 1, 2, 3]),
        holder=st.sampled_from(["", *HOLDERS]),
        is_suspect=st.booleans(),
        status=st.none() | st.sampled_from(JobStatus),
    ),
    max_size=14,
)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    begun=many_told,
    finished=many_told.filter(bool),
    held=st.sets(st.tuples(st.sampled_from(HOLDERS), st.integers(0, 4))),
    put_off=st.sets(st.integers(0, 4)),
    cancelled=st.booleans(),
)
@example(
    begun=[Told(0, is_suspect=True, holder="")] * 5,
    finished=[Told(0), Told(0), Told(1, status=None), Told(1, 2, status=JobStatus.FAILED)],
    held={(HOLDERS[0], 0)},
    put_off={0},
    cancelled=False,
)
def test_a_group_comes_out_as_its_jobs_would_one_by_one(
    redis_server: RedisServer,
    begun: list[Told],
    finished: list[Told],
    held: set[tuple[str, int]],
    put_off: set[int],
    cancelled: bool,
) -> None:
    with ExitStack() as stack:
        outcomes = []
        for size in (1, len(begun) + len(finished)):
            store = stack.enter_context(fresh_store(redis_server.url))
            jobs = two_runs(store)
            message = ListTransport("").job_message
            store.agenda.put_off(
                [PutOff(jobs[n], message(jobs[n], Priority.NORMAL), MINUTE) for n in put_off]
            )
            for holder, n in sorted(held):
                hold(store, holder, jobs[n])
            if cancelled:
                store.connection.call("HSET", store.keys("run", MANUAL), "cancelled_at", "1")
            outcomes.append(_outcome(store, jobs, begun, finished, size=size))

    assert outcomes[0] == outcomes[1]


def _outcome(
    store: Store, jobs: Sequence[Envelope], begun: Sequence[Told], finished: Sequence[Told], *, size: int
) -> object:
    """All that is answered, and all that is stored thereafter."""
    permissions: list[Permission] = []  # whenever they were asked for
    for at in range(0, len(begun), size):
        some = [told.envelope(jobs) for told in begun[at : at + size]]
        answered = store.ledger.begin(some, counts_suspects=True)
        permissions += [permission._replace(asked=0.0) for permission in answered]
    noted = values(store)
    recorded: list[bool] = []
    for at in range(0, len(finished), size):
        recorded += store.ledger.finish([told.ending(jobs) for told in finished[at : at + size]])
    return permissions, noted, recorded, values(store)


def test_the_first_end_of_a_job_in_a_group_counts(store: Store) -> None:
    distribute(store, running(store, ["ada"]))
    [job] = jobs_sent(store)

    recorded = store.ledger.finish([end_of(job), end_of(job, JobStatus.FAILED)])

    assert recorded == [True, False]
    assert store.runs.get(job.run_id).counts == RunCounts(expected=1, success=1)
    assert [result.status for result in store.results.of(DIGEST, UserId("ada"))] == [JobStatus.SUCCESS]
    assert list(store.results.failures(DIGEST)) == []


def test_a_job_may_end_in_the_group_of_its_retry(store: Store) -> None:
    distribute(store, running(store, ["ada", "bob"]))
    ada, bob = jobs_sent(store)
    retry = Retry(ada, MINUTE, 1, Priority.NORMAL)

    recorded = store.ledger.finish([retry, end_of(ada), end_of(ada.next_attempt(spent=1)), end_of(bob)])

    assert recorded == [True, False, True, True]
    run = store.runs.get(ada.run_id)
    assert run.status is RunStatus.ENDED
    assert run.counts == RunCounts(expected=2, success=2, retries=1)
    assert agenda_entries(store) == {}
    assert store.connection.call("EXISTS", store.keys("agenda_messages")) == 0


def test_of_two_runs_in_a_group_the_one_that_is_done_closes(store: Store) -> None:
    *scheduled, first, second = sorted(two_runs(store), key=lambda job: job.run_id == MANUAL)

    store.ledger.finish([end_of(first), end_of(scheduled[0]), end_of(second)])

    assert store.runs.get(MANUAL).status is RunStatus.ENDED
    assert store.runs.active(DIGEST) == [scheduled[0].run_id]
    assert store.runs.get(scheduled[0].run_id).counts == RunCounts(expected=3, success=1, open=2)


def test_a_user_whose_jobs_of_two_runs_end_in_a_group_has_both_results(store: Store) -> None:
    manual, scheduled = (job for job in reversed(two_runs(store)) if job.user_id == "ada")

    store.ledger.finish([end_of(scheduled), end_of(manual)])

    assert [result.run_id for result in store.results.of(DIGEST, UserId("ada"))] == [
        manual.run_id,
        scheduled.run_id,
    ]


def test_each_suspect_of_a_group_is_counted_by_itself(store: Store) -> None:
    distribute(store, running(store, ["ada", "bob", "cyd"]))
    deadly, other, harmless = jobs_sent(store)
    deadly.is_suspect = other.is_suspect = True
    group = [deadly, other, deadly, harmless, deadly, deadly, other]

    permissions = store.ledger.begin(group, counts_suspects=True)

    assert [permission.verdict for permission in permissions] == [
        *(Verdict.GO, Verdict.GO, Verdict.GO, Verdict.GO, Verdict.GO, Verdict.CRASHED, Verdict.GO)
    ]
    assert store.connection.call("HGETALL", store.keys("suspects")) == {
        f"{deadly.run_id}|{deadly.user_id}": "4",
        f"{other.run_id}|{other.user_id}": "2",
    }


def test_failures_told_together_are_kept_no_longer_than_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute(store, running(store, names(12)))
    jobs = jobs_sent(store)
    monkeypatch.setattr(store.ledger, "_retention", (3, 86_400, 5))

    store.ledger.finish([end_of(job, JobStatus.FAILED) for job in jobs])

    kept = {failure.user_id for failure in store.results.failures(DIGEST)}
    assert len(kept) == 5
    assert store.connection.call("HLEN", store.keys("failure", DIGEST)) == 5
    assert store.runs.get(jobs[0].run_id).counts == RunCounts(expected=12, failed=12)
