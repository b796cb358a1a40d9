"""The clock's part: find what has fallen due, and claim a run for each occurrence, once.

A tick looks at every occurrence since the last look, not at the present minute, so one that is
late, lost or doubled costs nothing. What becomes of occurrences that nobody claimed in time is the
task's policy (`missed`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise

from loguru import logger

from tq.clock import MILLISECOND
from tq.models import Interval, Missed, Overlap, RunId, RunKind, TaskId, TaskType, scheduled_run_id
from tq.runtime import Runtime
from tq.schedule import occurrences
from tq.slots import spread_of
from tq.store.planning import DUE_BATCH, Due, Move, ShareClaim
from tq.store.preferences import ANY_ZONE, DEFAULT_INTERVAL

MISSED = "missed"
# An occurrence is missed when it is older than two ticks; `missed: skip` passes over those.
NOT_YET_MISSED = timedelta(minutes=2)
LEAST_CATCH_UP = timedelta(hours=1)
LONGEST_LATENESS = timedelta(hours=24)
# How many missed occurrences of a cohort get a skipped run of their own; older ones are a number.
MISSED_SHOWN = 100
# Who dies between claim and distribution is followed from the agenda after this time.
WATCH = timedelta(seconds=5)
# An interval without any further occurrence is looked at again after a year.
NEVER = timedelta(days=365)
INTERVALS_AT_HAND = 10_000  # some 10 MB
LATEST_INSTANT = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done about one occurrence of one cohort."""

    due: Due  # as it stands when the occurrences before are claimed
    nominal_at: datetime
    length: timedelta  # to the next occurrence
    next_look: datetime
    skip: str


def tick(runtime: Runtime) -> list[RunId]:
    """Claims every run that has fallen due; returns those that are to be distributed."""
    planning = runtime.store.planning
    look = first = planning.look()
    claimed: list[RunId] = []
    while look.due:
        in_force = runtime.definitions.in_force(look.fingerprint)
        by_task: dict[TaskId, list[Due]] = defaultdict(list)
        for due in look.due:
            by_task[due.task_id].append(due)
        for task_id, dues in by_task.items():
            if task_id in in_force:
                definition, task = in_force[task_id]
                claimed += _guarded_claim(runtime, task, definition, dues, look.now)
            else:
                planning.move_on([Move(due, None) for due in dues])
        before, look = look, planning.look()
        # What another scheduler is at work on stays as it is; there is no use in looking at it again.
        if len(before.due) < DUE_BATCH or look.due == before.due:
            break
    # What fell due before an edit came into force is claimed by then, as it was declared.
    runtime.definitions.publish(first)
    logger.debug("ticked", due=len(look.due), runs=len(claimed))
    runtime.traces.tell({"tq.runs": len(claimed)})
    return claimed


def _guarded_claim(
    runtime: Runtime, task: TaskType, definition: str, dues: Sequence[Due], now: datetime
) -> list[RunId]:
    """As `_claim_task`; a task or zone that cannot be reckoned with here is not another task's trouble."""
    try:
        return list(_claim_task(runtime, task, definition, dues, now))
    except (KeyError, ValueError, OverflowError) as error:
        logger.error("task cannot be claimed", task_id=task.id, reason=f"{type(error).__name__}: {error}")
        return []


def _claim_task(
    runtime: Runtime, task: TaskType, definition: str, dues: Sequence[Due], now: datetime
) -> Iterable[RunId]:
    """Claims what is due of one task, earliest first; returns the runs to be distributed."""
    planned: dict[datetime, list[_Plan]] = defaultdict(list)
    moves = []
    default = task.interval.canonical
    peopled = {cell.interval for cell in runtime.store.preferences.cells(task.id)}
    for due in dues:
        own = due.cohort.interval
        canonical = default if own == DEFAULT_INTERVAL else own
        if own not in peopled or _interval_in(canonical, due.cohort.zone) is None:
            moves.append(Move(due, None))
            continue
        plans, look_on, uncounted = _plans(task, due, canonical, now)
        if not plans or uncounted:
            moves.append(Move(due, plans[0].nominal_at if plans else look_on, uncounted))
        for plan in plans:
            planned[plan.nominal_at].append(plan)
    runtime.store.planning.move_on(moves)
    runs = []
    for nominal_at in sorted(planned):
        shares = list(_shares(task, planned[nominal_at], now))
        run_id = scheduled_run_id(task.id, nominal_at)
        claimed, live = runtime.store.planning.claim(
            run_id,
            task=task,
            definition=definition,
            kind=RunKind.SCHEDULE,
            nominal_at=nominal_at,
            # What is caught up on is not to be cut by the next of the same row.
            overlap=Overlap.ALLOW if _is_caught_up(task, nominal_at, now) else task.overlap,
            shares=shares,
            distribution=runtime.transport.distribution_message(run_id, cause=runtime.traces.traceparent),
            distribute_in=WATCH,
        )
        if claimed:
            logger.info("run claimed", run_id=run_id, task_id=task.id, shares=claimed, skipped=claimed - live)
        if live:
            runs.append(run_id)
    return runs


# Hundreds of tasks have cohorts of the same intervals and zones, and each tick meets them again.
@lru_cache(maxsize=INTERVALS_AT_HAND)
def _interval_in(canonical: str, zone: str) -> Interval | None:
    """The interval of this text by which a cohort of this zone falls due; None if it needs a zone and there is none."""
    interval = Interval.from_canonical(canonical)
    if interval.uses_user_zone:
        return None if zone == ANY_ZONE else interval.in_zone(zone)
    return interval


# They also fall due at the same instants. Two tell nearly always what is due and when the next one will be.
@lru_cache(maxsize=INTERVALS_AT_HAND)
def _first_two(canonical: str, zone: str, since: datetime) -> tuple[datetime | None, datetime | None]:
    """The first two occurrences from an instant on; None for one that there is not."""
    ahead = _from(canonical, zone, since)
    return next(ahead, None), next(ahead, None)


def _from(canonical: str, zone: str, since: datetime) -> Iterator[datetime]:
    interval = _interval_in(canonical, zone)
    return (
        iter(())
        if interval is None
        else occurrences(interval, after=since - MILLISECOND, until=LATEST_INSTANT)
    )


def _plans(task: TaskType, due: Due, canonical: str, now: datetime) -> tuple[list[_Plan], datetime, int]:
    """What to do about each occurrence since the last look, when to look on, and how many more were missed."""
    look_on = now + NEVER
    first, second = _first_two(canonical, due.cohort.zone, due.since)
    if first is None or first > now:
        return [], first or look_on, 0
    if (second is None or second > now) and now - first <= NOT_YET_MISSED:
        look_on = second or look_on
        return [_Plan(due, first, look_on - first, look_on, "")], look_on, 0
    found = []
    for occurrence in _from(canonical, due.cohort.zone, due.since):
        if occurrence > now:
            look_on = occurrence
            break
        found.append(occurrence)
    window = task.window.within(look_on - found[-1])
    catch_up = task.catchup_window or max(window, LEAST_CATCH_UP)
    match task.missed:
        case Missed.LATEST:
            served = {at for at in found[-1:] if now - at <= max(catch_up, NOT_YET_MISSED)}
        case Missed.SKIP:
            served = {at for at in found if now - at <= NOT_YET_MISSED}
        case Missed.ALL:
            served = {at for at in found if now - at <= max(catch_up, NOT_YET_MISSED)}
    missed = [at for at in found if at not in served]
    shown = {*missed[-MISSED_SHOWN:], *served}
    lengths = [follower - at for at, follower in pairwise([*found, look_on])]
    told = [(at, length) for at, length in zip(found, lengths, strict=True) if at in shown]
    uncounted = len(found) - len(told)
    # Each claim of a cohort leaves the due entry at its next occurrence: the fence of the next claim.
    next_looks = [at for at, _ in told[1:]] + [look_on]
    plans = [
        _Plan(
            due if at == found[0] else due.moved_to(at), at, length, next_look, "" if at in served else MISSED
        )
        for (at, length), next_look in zip(told, next_looks, strict=True)
    ]
    return plans, look_on, uncounted


def _shares(task: TaskType, plans: Sequence[_Plan], now: datetime) -> Iterator[ShareClaim]:
    """The shares of one run. Most cohorts' next occurrence is equally far away, and then so is all else."""
    terms: dict[timedelta, tuple[datetime, timedelta, datetime]] = {}
    for plan in plans:
        if plan.length not in terms:
            terms[plan.length] = _terms(task, plan.nominal_at, plan.length, now)
        start_at, spread, deadline_at = terms[plan.length]
        yield ShareClaim(
            cohort=str(plan.due.cohort),
            start_at=start_at,
            spread=spread,
            deadline_at=deadline_at,
            due=plan.due,
            next_look=plan.next_look,
            skip=plan.skip,
        )


def _terms(
    task: TaskType, nominal_at: datetime, length: timedelta, now: datetime
) -> tuple[datetime, timedelta, datetime]:
    """When an occurrence begins, over which time it is spread, and its deadline; the next one is so far away."""
    start_at, spread = spread_of(window=task.window.within(length), nominal_at=nominal_at, claimed_at=now)
    lateness = task.max_lateness or min(length, LONGEST_LATENESS)
    if _is_caught_up(task, nominal_at, now):
        lateness = task.max_lateness or LONGEST_LATENESS
    return start_at, spread, max(nominal_at, now) + lateness


def _is_caught_up(task: TaskType, nominal_at: datetime, now: datetime) -> bool:
    return task.missed is Missed.ALL and now - nominal_at > NOT_YET_MISSED
