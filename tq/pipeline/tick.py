"""The clock's part: find what has fallen due, and claim a run for each occurrence, once.

A tick looks at every occurrence since the last look, not at the present minute, so one that is
late, lost or doubled costs nothing. What becomes of occurrences that nobody claimed in time is the
task's policy (`missed`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    peopled = {cell.interval for cell in runtime.store.preferences.cells(task.id)}
    for due in dues:
        interval = _interval_of(task, due)
        if interval is None or due.cohort.interval not in peopled:
            moves.append(Move(due, None))
            continue
        plans, look_on, uncounted = _plans(task, due, interval, now)
        if not plans or uncounted:
            moves.append(Move(due, plans[0].nominal_at if plans else look_on, uncounted))
        for plan in plans:
            planned[plan.nominal_at].append(plan)
    runtime.store.planning.move_on(moves)
    runs = []
    for nominal_at in sorted(planned):
        shares = [_share(task, plan, now) for plan in planned[nominal_at]]
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


def _interval_of(task: TaskType, due: Due) -> Interval | None:
    """The interval by which a cohort falls due, in its zone."""
    zone = due.cohort.zone
    if due.cohort.interval == DEFAULT_INTERVAL:
        interval = task.interval
    else:
        interval = _own_interval(due.cohort.interval)
    if interval.uses_user_zone:
        return None if zone == ANY_ZONE else _in_zone(interval, zone)
    return interval


# Hundreds of tasks have cohorts of the same intervals and zones, and each tick meets them again.
_own_interval = lru_cache(maxsize=INTERVALS_AT_HAND)(Interval.from_canonical)
_in_zone = lru_cache(maxsize=INTERVALS_AT_HAND)(Interval.in_zone)


def _plans(task: TaskType, due: Due, interval: Interval, now: datetime) -> tuple[list[_Plan], datetime, int]:
    """What to do about each occurrence since the last look, when to look on, and how many more were missed."""
    found = []
    look_on = now + NEVER
    for occurrence in occurrences(interval, after=due.since - MILLISECOND, until=LATEST_INSTANT):
        if occurrence > now:
            look_on = occurrence
            break
        found.append(occurrence)
    if not found:
        return [], look_on, 0
    if len(found) == 1 and now - found[0] <= NOT_YET_MISSED:
        return [_Plan(due, found[0], look_on - found[0], look_on, "")], look_on, 0
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


def _share(task: TaskType, plan: _Plan, now: datetime) -> ShareClaim:
    start_at, spread = spread_of(
        window=task.window.within(plan.length), nominal_at=plan.nominal_at, claimed_at=now
    )
    lateness = task.max_lateness or min(plan.length, LONGEST_LATENESS)
    if _is_caught_up(task, plan.nominal_at, now):
        lateness = task.max_lateness or LONGEST_LATENESS
    return ShareClaim(
        cohort=str(plan.due.cohort),
        start_at=start_at,
        spread=spread,
        deadline_at=max(plan.nominal_at, now) + lateness,
        due=plan.due,
        next_look=plan.next_look,
        skip=plan.skip,
    )


def _is_caught_up(task: TaskType, nominal_at: datetime, now: datetime) -> bool:
    return task.missed is Missed.ALL and now - nominal_at > NOT_YET_MISSED
