"""The clock's part: find what has fallen due, and claim a run for each occurrence, once.

A tick looks at every occurrence since the last look, not at the present minute, so one that is
late, lost or doubled costs nothing. What becomes of occurrences that nobody claimed in time is the
task's policy (`missed`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from loguru import logger

from tq.clock import MILLISECOND
from tq.models import Interval, Missed, Overlap, RunId, RunKind, TaskId, TaskType, scheduled_run_id
from tq.runtime import Runtime
from tq.schedule import next_after, occurrences
from tq.slots import spread_of
from tq.store.planning import DUE_BATCH, Due, ShareClaim
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


@dataclass(frozen=True)
class _Plan:
    """What is to be done about one occurrence of one cohort."""

    due: Due
    interval: Interval
    nominal_at: datetime
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
                for due in dues:
                    planning.move_on(due, None)
        before, look = look, planning.look()
        # What another scheduler is at work on stays as it is; there is no use in looking at it again.
        if len(before.due) < DUE_BATCH or look.due == before.due:
            break
    # What fell due before an edit came into force is claimed by then, as it was declared.
    runtime.definitions.publish(first)
    logger.debug("ticked", due=len(look.due), runs=len(claimed))
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
    planned: dict[datetime, list[tuple[_Plan, datetime]]] = defaultdict(list)
    seen = {due.cohort: due for due in dues}
    peopled = {cell.interval for cell in runtime.store.preferences.cells(task.id)}
    for due in dues:
        interval = _interval_of(task, due)
        if interval is None or due.cohort.interval not in peopled:
            runtime.store.planning.move_on(due, None)
            continue
        look_on = _next_look(interval, now)
        plans, uncounted = _plans(task, due, interval, now)
        if not plans:
            runtime.store.planning.move_on(due, look_on, missed=uncounted)
            continue
        if uncounted:
            runtime.store.planning.move_on(due, plans[0].nominal_at, missed=uncounted)
            seen[due.cohort] = due.moved_to(plans[0].nominal_at)
        # Each claim of a cohort leaves the due entry at its next occurrence: the fence of the next claim.
        followers = [plan.nominal_at for plan in plans[1:]] + [look_on]
        for plan, follower in zip(plans, followers, strict=True):
            planned[plan.nominal_at].append((plan, follower))
    runs = []
    for nominal_at in sorted(planned):
        shares = []
        for plan, follower in planned[nominal_at]:
            cohort = plan.due.cohort
            shares.append(_share(task, plan, seen[cohort], follower, now))
            seen[cohort] = seen[cohort].moved_to(follower)
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
            distribution=runtime.transport.distribution_message(run_id),
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
        interval = Interval.from_canonical(due.cohort.interval)
    if interval.uses_user_zone:
        return None if zone == ANY_ZONE else interval.in_zone(zone)
    return interval


def _plans(task: TaskType, due: Due, interval: Interval, now: datetime) -> tuple[list[_Plan], int]:
    """What to do about each occurrence since the last look, and how many more were missed."""
    found = list(occurrences(interval, after=due.since - MILLISECOND, until=now))
    if not found:
        return [], 0
    window = task.window.within(_length(interval, found[-1]))
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
    plans = [_Plan(due, interval, at, "" if at in served else MISSED) for at in found if at in shown]
    return plans, len(found) - len(plans)


def _share(task: TaskType, plan: _Plan, due: Due, next_look: datetime, now: datetime) -> ShareClaim:
    length = _length(plan.interval, plan.nominal_at)
    start_at, spread = spread_of(
        window=task.window.within(length), nominal_at=plan.nominal_at, claimed_at=now
    )
    lateness = task.max_lateness or min(length, LONGEST_LATENESS)
    if _is_caught_up(task, plan.nominal_at, now):
        lateness = task.max_lateness or LONGEST_LATENESS
    return ShareClaim(
        cohort=str(due.cohort),
        start_at=start_at,
        spread=spread,
        deadline_at=max(plan.nominal_at, now) + lateness,
        due=due,
        next_look=next_look,
        skip=plan.skip,
    )


def _is_caught_up(task: TaskType, nominal_at: datetime, now: datetime) -> bool:
    return task.missed is Missed.ALL and now - nominal_at > NOT_YET_MISSED


def _length(interval: Interval, at: datetime) -> timedelta:
    """The time from one occurrence to the next."""
    return _next_look(interval, at) - at


def _next_look(interval: Interval, after: datetime) -> datetime:
    try:
        return next_after(interval, after)
    except ValueError:
        return after + NEVER
