"""What the audit says of evidence that is made up: it sees who was missed, and excuses only what it should."""

from datetime import timedelta

from tests.chaos.audit import Findings, audit
from tests.chaos.book import Change, Edit
from tests.chaos.endpoint import Call
from tests.chaos.evidence import Evidence, Happened, Plan
from tests.chaos.schedule import REDIS, Fault, Kind
from tests.chaos.watch import Holder, Mend, Sample
from tests.chaos.workload import SPREAD, Workload
from tq.clock import from_ms
from tq.models import (
    JobResult,
    JobStatus,
    Run,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    Share,
    UserId,
    job_id_of,
    scheduled_run_id,
)
from tq.store.totals import Total

BEGAN = 1_800_000_000.0 - 30  # half a minute before a full minute
NOMINAL = BEGAN + 30
ADA = UserId("ada")
RUN = scheduled_run_id(SPREAD, from_ms(NOMINAL * 1000))
WORKER = "worker-1"
SUCCESSES = Total(SPREAD, RunKind.SCHEDULE, "success", "")


def evidence_of(*, jobs: int = 1) -> Evidence:
    """A round in which one run fell due, for Ada alone; nothing was seen of it yet."""
    evidence = Evidence(
        Plan(seed=1, faults=[], workload=Workload(1, 0)),
        began=BEGAN,
        published=BEGAN - 5,
        quiet=NOMINAL + 29,
        settled=NOMINAL + 50,
    )
    evidence.book.changes[(SPREAD, ADA)].append(Change(BEGAN - 10, BEGAN - 9, True))
    evidence.book.edits[SPREAD].append(Edit(BEGAN - 6, 1, BEGAN - 5))
    at = from_ms(NOMINAL * 1000)
    share = Share(
        cohort="*|default", start_at=at, spread=timedelta(0), deadline_at=at + timedelta(hours=1), done=True
    )
    run = Run(
        id=RUN,
        task_id=SPREAD,
        kind=RunKind.SCHEDULE,
        status=RunStatus.ENDED,
        nominal_at=at,
        claimed_at=at,
        deadline_at=at + timedelta(hours=1),
        ended_at=at + timedelta(seconds=5),
        counts=RunCounts(expected=jobs, success=jobs),
        shares=(share,),
    )
    evidence.runs.append(run)
    evidence.totals = {
        Total(SPREAD, RunKind.SCHEDULE, "runs", ""): 1,
        Total(SPREAD, RunKind.SCHEDULE, "expected", ""): jobs,
        SUCCESSES: jobs,
    }
    return evidence


def end(evidence: Evidence, *, after_s: float = 1.0) -> None:
    """Ada's job ended well, so long after its nominal time."""
    evidence.results.setdefault((SPREAD, ADA), []).append(
        JobResult(
            job_id=job_id_of(RUN, ADA),
            run_id=RUN,
            task_id=SPREAD,
            user_id=ADA,
            status=JobStatus.SUCCESS,
            scheduled_at=from_ms(NOMINAL * 1000),
            ended_at=from_ms((NOMINAL + after_s) * 1000),
        )
    )
    evidence.stored.setdefault((SPREAD, ADA), []).append(NOMINAL + after_s)


def call(
    evidence: Evidence, *, after_s: float, run: RunId = RUN, attempt: int = 1, status: int = 200
) -> None:
    """Ada's endpoint was called, so long after the nominal time, for half a second."""
    begun = NOMINAL + after_s
    evidence.calls.append(
        Call(job_id_of(run, ADA), run, SPREAD, ADA, attempt, WORKER, begun, begun + 0.5, status)
    )


def happen(
    evidence: Evidence, kind: Kind, *, after_s: float, lasts_s: float = 0.0, target: str = WORKER
) -> None:
    """Something broke, so long after the nominal time."""
    begun = NOMINAL + after_s
    fault = Fault(len(evidence.happened) + 1, kind, target, begun - BEGAN, lasts_s)
    evidence.happened.append(Happened(fault, begun, begun + lasts_s))


def missed(evidence: Evidence) -> list[str]:
    return list(audit(evidence).figures.missed().values())


def words(findings: Findings) -> str:
    return "\n".join(findings.wrong)


def test_a_job_that_was_called_and_ended_is_no_trouble() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence)

    assert missed(evidence) == []


def test_a_user_without_an_end_is_lost() -> None:
    findings = audit(evidence_of(jobs=0))

    assert findings.figures.lost == 1
    assert ADA in words(findings)
    assert RUN in words(findings)


def test_an_end_without_a_call_is_a_lie() -> None:
    evidence = evidence_of()
    end(evidence)

    assert audit(evidence).figures.lost == 1


def test_whoever_was_changed_while_the_run_was_carried_out_may_have_been_served_or_not() -> None:
    evidence = evidence_of(jobs=0)
    evidence.book.changes[(SPREAD, ADA)].append(Change(NOMINAL + 1, NOMINAL + 2, False))

    assert missed(evidence) == []


def test_an_occurrence_that_nobody_claimed_is_lost() -> None:
    evidence = evidence_of()
    evidence.runs.clear()

    assert audit(evidence).figures.lost == 1


def test_a_job_that_is_still_open_is_unaccounted() -> None:
    evidence = evidence_of()
    evidence.open_jobs[RUN] = {ADA}

    assert audit(evidence).figures.unaccounted == 1


def test_totals_that_are_not_the_sum_of_all_ledgers_are_told() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence)
    evidence.totals = {**evidence.totals, SUCCESSES: 3}

    findings = audit(evidence)

    assert findings.figures.missed() == {"miscounted": "miscounted is 2, must be 0"}
    assert f"{SPREAD}|schedule|success" in words(findings)


def test_two_ends_of_one_job_are_a_run_carried_out_twice() -> None:
    evidence = evidence_of(jobs=2)
    call(evidence, after_s=0.5)
    end(evidence, after_s=1.0)
    end(evidence, after_s=1.5)

    assert audit(evidence).figures.duplicate_runs == 1


def test_a_call_long_after_the_end_was_stored_is_counted() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence, after_s=1.0)
    call(evidence, after_s=3.0)

    assert audit(evidence).figures.called_after_end == 1


def test_a_process_that_was_stopped_across_the_end_is_excused() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence, after_s=1.0)
    happen(evidence, Kind.STOP, after_s=0.2, lasts_s=5.0)
    call(evidence, after_s=5.3)

    findings = audit(evidence)

    assert not findings.figures.missed()
    assert findings.figures.excused == 1
    assert str(Kind.STOP) in findings.excuses[0]


def test_an_attempt_called_twice_needs_a_failure_in_between() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.1)
    call(evidence, after_s=0.7)
    end(evidence, after_s=1.2)

    assert audit(evidence).figures.unexplained == 1

    happen(evidence, Kind.CUT, after_s=0.3)
    findings = audit(evidence)

    assert not findings.figures.missed()
    assert findings.figures.repeated == 1


def test_recovery_lasts_until_nothing_old_is_left_to_mend() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence)
    happen(evidence, Kind.KILL, after_s=2.0)
    for after_s, age_s in ((3.0, 1.0), (10.0, 8.0), (40.0, 38.0), (41.0, 0.0)):
        evidence.samples.append(Sample(NOMINAL + after_s, age_s, "something"))

    findings = audit(evidence)

    assert findings.figures.max_recovery_s == 38.0
    assert findings.figures.missed() == {"max_recovery_s": "max_recovery_s is 38.0, must be <= 30"}


def test_what_was_lost_and_made_up_for_needs_a_redis_that_has_lost_it() -> None:
    evidence = evidence_of()
    end(evidence)
    call(evidence, after_s=0.5)
    happen(evidence, Kind.REDIS_LOSS, after_s=5.0, lasts_s=3.0, target=REDIS)
    evidence.mends = [Mend(NOMINAL + 2, "messages", 3), Mend(NOMINAL + 20, "messages", 40)]

    findings = audit(evidence)

    assert findings.figures.missed() == {"mended": "mended is 3, must be 0"}


def test_what_is_in_the_hands_of_a_process_is_to_be_mended_once_it_is_dead_and_not_while_it_is_slow() -> None:
    evidence = evidence_of()
    call(evidence, after_s=0.5)
    end(evidence)
    happen(evidence, Kind.KILL, after_s=2.0)
    for after_s, slow, dead in ((10.0, 3.0, 2.0), (20.0, 3.0, 2.0), (40.0, 38.0, 0.0)):
        holders = [Holder("slow", NOMINAL + slow, 7)]
        holders += [Holder("dead", NOMINAL + dead, 7)] if dead else []
        evidence.samples.append(Sample(NOMINAL + after_s, 0.0, "nothing", tuple(holders)))

    assert audit(evidence).figures.max_recovery_s == 18.0

    evidence.samples[1] = Sample(NOMINAL + 20.0, 0.0, "nothing", (Holder("slow", NOMINAL + 10.0, 7),))

    assert audit(evidence).figures.max_recovery_s == 8.0
