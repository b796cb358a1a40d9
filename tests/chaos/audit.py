"""Was anybody missed? What we told the system and what was seen of it, held against what it stored.

Whatever cannot be decided from outside is decided in the system's favour: a user who was changed
while a run was claimed or carried out may have been served or not.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from actors.broker import DEAD_AFTER_MS
from tests.chaos.book import SLACK_S, minutes
from tests.chaos.endpoint import OK, Call
from tests.chaos.evidence import Evidence, Happened
from tests.chaos.schedule import EVERYBODY, SCHEDULERS, Kind
from tests.chaos.watch import MENDABLE_AFTER_S
from tests.chaos.workload import EDITED, SCHEDULED
from tests.ledgers import counted, summed
from tq.clock import from_ms
from tq.models import (
    JobResult,
    JobStatus,
    Run,
    RunId,
    RunKind,
    RunStatus,
    TaskId,
    UserId,
    job_id_of,
    scheduled_run_id,
)
from tq.slots import place_of

MOST_RECOVERY_S = 30.0
DEAD_AFTER_S = DEAD_AFTER_MS / 1000
HINDERING = frozenset(
    {Kind.KILL, Kind.STOP, Kind.TERM, Kind.CUT, Kind.HOLE, Kind.REDIS_KILL, Kind.REDIS_LOSS}
)
AFTER_END_S = 1.0
# Disabling holds for every call that begins more than this after it was accepted.
IN_FORCE_AFTER_S = 2.0
# A process that goes on after a stop has begun what it was about to within this time.
RESUMED_S = 2.0
# What a Redis that lost its last second had stored before.
LOST_S = 3.0


@dataclass
class Figures:
    """What the last line says."""

    rounds: int = 0
    faults: int = 0
    expected: int = 0
    ended: int = 0
    unaccounted: int = 0
    lost: int = 0
    called_after_end: int = 0
    excused: int = 0
    duplicate_runs: int = 0
    max_recovery_s: float = 0.0
    repeated: int = 0
    unexplained: int = 0
    mended: int = 0
    miscounted: int = 0

    def missed(self) -> dict[str, str]:
        """The bars that were not kept, and a line for each."""
        bars = (
            "unaccounted",
            "lost",
            "called_after_end",
            "duplicate_runs",
            "unexplained",
            "mended",
            "miscounted",
        )
        missed = {name: f"{name} is {getattr(self, name)}, must be 0" for name in bars if getattr(self, name)}
        if self.max_recovery_s > MOST_RECOVERY_S:
            missed["max_recovery_s"] = (
                f"max_recovery_s is {self.max_recovery_s}, must be <= {MOST_RECOVERY_S:g}"
            )
        return missed

    def add(self, other: "Figures") -> None:
        """Takes another round in."""
        longest = max(self.max_recovery_s, other.max_recovery_s)
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.max_recovery_s = longest


@dataclass
class Findings:
    """What an audit has found: figures, and a line for everything that is wrong."""

    figures: Figures = field(default_factory=Figures)
    wrong: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


def audit(evidence: Evidence) -> Findings:
    """What is to be said of a round."""
    return _Audit(evidence).findings


class _Audit:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.book = evidence.book
        self.findings = Findings()
        self.figures = self.findings.figures
        # What fell due later belongs to nobody's expectations, but is checked for all else.
        self.runs = {run.id: run for run in evidence.runs}
        self.audited = [run for run in evidence.runs if run.nominal_at.timestamp() <= evidence.quiet]
        self.results: dict[RunId, dict[UserId, list[JobResult]]] = defaultdict(lambda: defaultdict(list))
        for (_, user), results in evidence.results.items():
            for result in results:
                self.results[result.run_id][user].append(result)
        self.calls: dict[tuple[RunId, UserId], list[Call]] = defaultdict(list)
        for call in evidence.calls:
            self.calls[(RunId(call.run), UserId(call.user))].append(call)
        self.figures.rounds = 1
        self.figures.faults = len(evidence.happened)
        self.stored_at, self.lost_ends = self._match_ends()
        self._count()
        self._find_miscounted()
        self._find_lost()
        self._find_unclaimed()
        self._find_duplicates()
        self._find_called_after_end()
        self._find_called_while_disabled()
        self._find_repeated()
        self._find_mended()
        self._measure_recovery()

    # Ledger --------------------------------------------------------------------------------------

    def _count(self) -> None:
        for run in self.audited:
            counts = run.counts
            self.figures.expected += counts.expected
            self.figures.ended += counts.ended
            for status in JobStatus:
                self.findings.statuses[status.value] += getattr(counts, status.value)
            missing = counts.expected - counts.ended
            still_open = self.evidence.open_jobs.get(run.id, set())
            if missing or still_open:
                self.figures.unaccounted += max(abs(missing), len(still_open))
                some = ", ".join(sorted(still_open)[:5])
                self._wrong(f"unaccounted: {run.id}: {missing} of {counts.expected}; open: {some}")
            elif run.status is RunStatus.RUNNING:
                self.figures.unaccounted += 1
                self._wrong(f"unaccounted: {run.id} is still running, {self._undone(run)}")

    def _find_miscounted(self) -> None:
        """Where what was counted for all time is not the sum of all ledgers."""
        told, is_ = counted(self.evidence.totals), summed(self.evidence.runs)
        for place in sorted(told.keys() | is_.keys()):
            if told[place] != is_[place]:
                self.figures.miscounted += abs(told[place] - is_[place])
                self._wrong(f"miscounted: {place}: {told[place]} in all, {is_[place]} in the ledgers")

    @staticmethod
    def _undone(run: Run) -> str:
        shares = [f"{share.cohort} at {share.cursor}" for share in run.shares if not share.done]
        return f"not distributed: {', '.join(shares)}" if shares else "with nothing left to do"

    def _find_lost(self) -> None:
        for run in self.audited:
            results = self.results[run.id]
            by_range = run.counts.ended - sum(len(found) for found in results.values())
            nominal = run.nominal_at.timestamp()
            claimed = max([run.claimed_at, *(share.start_at for share in run.shares)]).timestamp()
            end = run.ended_at.timestamp() if run.ended_at else self.evidence.settled
            without = []
            for user in self.book.users_of(run.task_id):
                if not self._is_expected(run, user, nominal, claimed, end):
                    continue
                found = results.get(user)
                if not found:
                    without.append(user)
                else:
                    self._check_end(run, user, found[-1])
            if len(without) > max(0, by_range):
                self.figures.lost += len(without) - max(0, by_range)
                for user in without[:5]:
                    self._wrong(
                        f"lost: {run.id}: {user} at place {place_of(run.task_id, user)}, of {len(without)} "
                        f"without a result; {by_range} ended without one by range"
                    )

    def _is_expected(self, run: Run, user: UserId, nominal: float, claimed: float, end: float) -> bool:
        task = run.task_id
        if not self.book.is_steady(task, user, nominal, end):
            return False
        if run.kind is not RunKind.SCHEDULE:
            return True
        if task in self.book.zoned and self.book.has_moved(user, nominal, claimed):
            return False
        return self.book.is_due(task, user, int(nominal)) is True

    def _check_end(self, run: Run, user: UserId, result: JobResult) -> None:
        """Whether an end can be true."""
        calls = self.calls.get((run.id, user), [])
        if result.status is JobStatus.SUCCESS and not any(call.status == OK for call in calls):
            self.figures.lost += 1
            self._wrong(f"lost: {run.id}: {user} ended as success without a call that was answered {OK}")
        elif result.status is JobStatus.EXPIRED and run.task_id != EDITED:
            self.figures.lost += 1
            self._wrong(f"lost: {run.id}: {user} expired long before the deadline")
        elif result.status is JobStatus.SKIPPED and result.reason == "disabled":
            self.figures.lost += 1
            self._wrong(f"lost: {run.id}: {user} was skipped as disabled, and is not")

    def _find_unclaimed(self) -> None:
        """Instants at which a task fell due, and nobody made a run of it."""
        for task in SCHEDULED:
            for nominal in minutes(self.evidence.published + SLACK_S, self.evidence.quiet):
                if scheduled_run_id(task, from_ms(nominal * 1000)) in self.runs:
                    continue
                users = [
                    user
                    for user in self.book.users_of(task)
                    if self.book.is_due(task, user, nominal)
                    and self.book.is_steady(task, user, nominal, self.evidence.settled)
                ]
                if users:
                    self.figures.lost += len(users)
                    at = from_ms(nominal * 1000)
                    self._wrong(f"lost: {task} at {at:%H:%M:%S} was never claimed, for {len(users)} users")
        for run_id in sorted(self.evidence.asked_for - self.runs.keys()):
            self.figures.lost += 1
            self._wrong(f"lost: {run_id} was asked for, and is not known")

    def _find_duplicates(self) -> None:
        for run in self.evidence.runs:
            cohorts = Counter(share.cohort for share in run.shares)
            twice = [f"share {cohort} {times} times" for cohort, times in cohorts.items() if times > 1]
            twice += [
                f"{user} ended {len(found)} times"
                for user, found in self.results[run.id].items()
                if len(found) > 1
            ]
            if twice:
                self.figures.duplicate_runs += 1
                self._wrong(f"duplicate: {run.id}: {'; '.join(twice[:5])} ({len(twice)} in all)")
        nominals = Counter(
            (run.task_id, run.nominal_at) for run in self.evidence.runs if run.kind is RunKind.SCHEDULE
        )
        for (task, nominal), times in nominals.items():
            if times > 1:
                self.figures.duplicate_runs += 1
                self._wrong(f"duplicate: {times} runs of {task} at {nominal:%H:%M:%S}")

    # Calls ---------------------------------------------------------------------------------------

    def _match_ends(
        self,
    ) -> tuple[dict[tuple[RunId, UserId], float], dict[tuple[TaskId, UserId], list[float]]]:
        """When the end of each job was stored, as seen from outside, and which ends are not there any more."""
        stored: dict[tuple[RunId, UserId], float] = {}
        lost = {}
        for (task, user), results in self.evidence.results.items():
            seen = list(self.evidence.stored.get((task, user), ()))
            for result in results:
                # An end is seen after it came about, and never before.
                place = bisect_left(seen, result.ended_at.timestamp() - 0.01)
                if place < len(seen):
                    stored[(result.run_id, user)] = seen.pop(place)
            if seen:
                lost[(task, user)] = seen
        return stored, lost

    def _find_called_after_end(self) -> None:
        for (run_id, user), calls in self.calls.items():
            stored = self.stored_at.get((run_id, user))
            if stored is None:
                continue
            results = self.results[run_id][user]
            allowed = IN_FORCE_AFTER_S if results[-1].status is JobStatus.SKIPPED else AFTER_END_S
            for call in calls:
                late_s = call.begun - stored
                if late_s <= allowed:
                    continue
                excuse = self._stopped_across(call, stored)
                what = (
                    f"{run_id}: {user}, attempt {call.attempt} by {call.process} {late_s:.2f} s after "
                    f"the end ({results[-1].status}) was stored at {self._at(stored)}"
                )
                if excuse is not None:
                    self.figures.excused += 1
                    self.findings.excuses.append(f"excused: {what}: {excuse.fault}")
                else:
                    self.figures.called_after_end += 1
                    self._wrong(f"called after end: {what}")
        self._excuse_lost_ends()

    def _stopped_across(self, call: Call, stored: float) -> Happened | None:
        for one in self.evidence.happened:
            ended = self._end_of(one)
            if (
                one.fault.kind is Kind.STOP
                and one.fault.target == call.process
                and one.begun <= stored <= ended
                and call.begun <= ended + RESUMED_S
            ):
                return one
        return None

    def _excuse_lost_ends(self) -> None:
        """Calls that followed an end that Redis had stored and lost."""
        losses = [one for one in self.evidence.happened if one.fault.kind is Kind.REDIS_LOSS]
        by_user = defaultdict(list)
        for (_, user), calls in self.calls.items():
            by_user[(TaskId(calls[0].task), user)].append(calls)
        for (task, user), instants in self.lost_ends.items():
            for stored in instants:
                loss = next((one for one in losses if one.begun - LOST_S <= stored <= one.begun + 0.5), None)
                if loss is None:
                    continue
                for calls in by_user[(task, user)]:
                    was_ended = any(
                        call.ended is not None and stored - 0.5 <= call.ended <= stored for call in calls
                    )
                    again = [call for call in calls if call.begun > stored + AFTER_END_S]
                    if was_ended and again:
                        self.figures.excused += len(again)
                        self.findings.excuses.append(f"excused: {calls[0].run}: {user}: {loss.fault}")

    def _find_called_while_disabled(self) -> None:
        for calls in self.calls.values():
            for call in calls:
                task, user = TaskId(call.task), UserId(call.user)
                since = self.book.disabled_since(task, user, call.begun - IN_FORCE_AFTER_S)
                if since is None or self.book.disabled_since(task, user, call.begun) is None:
                    continue
                excuse = self._stopped_across(call, since + IN_FORCE_AFTER_S)
                what = (
                    f"{call.run}: {user} by {call.process} {call.begun - since:.2f} s after it was disabled "
                    f"at {self._at(since)}"
                )
                if excuse is not None:
                    self.figures.excused += 1
                    self.findings.excuses.append(f"excused: {what}: {excuse.fault}")
                elif (RunId(call.run), user) not in self.stored_at or not self._is_late(call):
                    self.figures.called_after_end += 1
                    self._wrong(f"called while disabled: {what}")

    def _is_late(self, call: Call) -> bool:
        """Whether a call is counted as one after the end already."""
        stored = self.stored_at[(RunId(call.run), UserId(call.user))]
        return call.begun > stored + IN_FORCE_AFTER_S

    def _find_repeated(self) -> None:
        attempts = defaultdict(list)
        for call in self.evidence.calls:
            attempts[(call.key, call.attempt)].append(call)
        for calls in attempts.values():
            for first, again in pairwise(calls):
                self.figures.repeated += 1
                if self._failure_between(first, again) is None:
                    self.figures.unexplained += 1
                    stored = self.stored_at.get((RunId(first.run), UserId(first.user)))
                    self._wrong(
                        f"repeated: {first.run}: {first.user}, attempt {first.attempt}: by {first.process} at "
                        f"{self._at(first.begun)} (answered {first.status}) and by {again.process} "
                        f"{again.begun - first.begun:.2f} s later; "
                        f"end stored at {self._at(stored) if stored else 'an unknown instant'}"
                    )
        self._check_keys()

    def _check_keys(self) -> None:
        """Whether every attempt at a job carries the job's own key."""
        for call in self.evidence.calls:
            if call.key != job_id_of(RunId(call.run), UserId(call.user)):
                self.figures.unexplained += 1
                self._wrong(f"key: {call.run}: {call.user} was called with the key {call.key}")

    def _failure_between(self, first: Call, again: Call) -> Happened | None:
        """What failed of those who made these calls, or of Redis, after the one began and before the other."""
        concerned = {first.process, again.process, EVERYBODY}
        for one in self.evidence.happened:
            kind = one.fault.kind
            of_process = kind in (Kind.KILL, Kind.STOP, Kind.CUT, Kind.SLOW, Kind.HOLE)
            of_redis = kind in (Kind.REDIS_KILL, Kind.REDIS_LOSS)
            if not of_redis and not (of_process and one.fault.target in concerned):
                continue
            ended = one.begun if kind is Kind.KILL else one.ended or self.evidence.quiet
            if one.begun <= again.begun and ended >= first.begun - SLACK_S:
                return one
        return None

    # Recovery ------------------------------------------------------------------------------------

    def _find_mended(self) -> None:
        """What was found lost though Redis had lost nothing: mending it hides a step that was not atomic."""
        losses = [one for one in self.evidence.happened if one.fault.kind is Kind.REDIS_LOSS]
        for mend in self.evidence.mends:
            if not any(loss.begun <= mend.at <= self._end_of(loss) + MOST_RECOVERY_S for loss in losses):
                self.figures.mended += mend.times
                self._wrong(f"mended: {mend.times} lost {mend.what} were made up for by {self._at(mend.at)}")

    def _measure_recovery(self) -> None:
        """From each moment at which no fault was at work any more to the one at which all was mended."""
        unmended = list(self._unmended())
        for begin, end, last in self._calm():
            # What a process has fetched that was just killed is not old yet: the last one counts.
            old = [(at, what) for at, what in unmended if begin <= at < end]
            took = old[-1][0] - begin if old else 0.0
            if took > MOST_RECOVERY_S:
                self._wrong(f"recovery: {took:.1f} s after {last.fault}: {old[-1][1]}")
            self.figures.max_recovery_s = round(max(self.figures.max_recovery_s, took), 1)

    def _unmended(self) -> Iterator[tuple[float, str]]:
        """When something was old that somebody should have mended, and what it was."""
        heard_at: dict[str, float] = {}
        for sample in self.evidence.samples:
            heard_at |= {one.process: one.heard_at for one in sample.holders}
        for sample in self.evidence.samples:
            if sample.age_s > MENDABLE_AFTER_S:
                yield sample.at, sample.what
            for process, last_heard_at, fetched in sample.holders:
                silent_s = sample.at - last_heard_at
                # Who is heard of again was slow, on a machine that is, and nobody's to mend until taken for dead.
                patience_s = MENDABLE_AFTER_S if heard_at[process] == last_heard_at else DEAD_AFTER_S
                if fetched and silent_s > patience_s:
                    yield (
                        sample.at,
                        f"{fetched} messages in the hands of {process}, silent for {silent_s:.1f} s",
                    )

    def _calm(self) -> Iterator[tuple[float, float, Happened]]:
        """The stretches in which nothing was broken that mends, each with the fault that ended last."""
        happened = sorted(filter(_hinders, self.evidence.happened), key=lambda one: one.begun)
        for number in range(len(happened)):
            last = max(happened[: number + 1], key=self._end_of)
            following = happened[number + 1].begun if number + 1 < len(happened) else self.evidence.settled
            if self._end_of(last) < following:
                yield self._end_of(last), following, last

    def _end_of(self, one: Happened) -> float:
        return one.ended or self.evidence.quiet

    def _wrong(self, line: str) -> None:
        self.findings.wrong.append(line)

    def _at(self, instant: float) -> str:
        return f"{instant - self.evidence.began:.2f} s"


def _hinders(one: Happened) -> bool:
    """Whether a fault leaves something to mend, or keeps somebody from mending."""
    return one.fault.kind in HINDERING and one.fault.target not in SCHEDULERS
