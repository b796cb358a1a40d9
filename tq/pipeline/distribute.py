"""The fan-out: everybody whose slot has come gets a job.

A run is a cursor per share that moves through the members in their stable order. Each step puts
some hundred jobs into queue, open set and ledger and moves the cursor, all in one; the cursor is
the fence, so a second distributor or a crash can neither duplicate nor lose anybody. What is not
due yet, or more than the workers can take, stays a cursor and an entry on the agenda.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from loguru import logger

from tq.errors import RunNotFound, TaskNotFound
from tq.models import Envelope, Interval, Run, RunId, RunKind, RunStatus, Share, TaskType
from tq.models.interval import SUB_DAILY
from tq.runtime import Runtime
from tq.slots import LAST_PLACE, last_place_due, next_slot, slot_offset
from tq.store.ledger import Step
from tq.store.preferences import DEFAULT_INTERVAL, Cohort, Member

PAGE = 1000
# So many jobs of a run may be open at a time: what is queued, under way, or waiting for a retry.
# It bounds Redis' memory whatever the size of the run, and is minutes of work for a few workers.
MOST_OPEN = 10_000
FULL_WAIT = timedelta(seconds=1)


def distribute(runtime: Runtime, run_id: RunId) -> int:
    """Fans out what has come due of a run; returns how many jobs that were."""
    try:
        run = runtime.store.runs.get(run_id)
    except RunNotFound:
        logger.warning("run to be distributed is not known", run_id=run_id)
        return 0
    if run.status is not RunStatus.RUNNING or run.fanned_out:
        return 0
    try:
        task = runtime.definitions.get(run.definition)
    except TaskNotFound as error:
        logger.error("run cannot be distributed", run_id=run_id, reason=str(error))
        return 0
    sent = 0
    room = MOST_OPEN - run.counts.open
    now = runtime.store.now()
    for index, share in enumerate(run.shares):
        for step in _steps(runtime, run, index, share, task, now, room):
            added = runtime.store.ledger.fan_out(run_id, step, task.priority)
            if added is None:
                logger.info("distribution left to another", run_id=run_id, jobs=sent)
                return sent
            sent += added
            room -= added
            if runtime.stopping.is_set():
                return sent
    if sent:
        logger.info("run distributed", run_id=run_id, task_id=task.id, jobs=sent)
    return sent


def _steps(
    runtime: Runtime, run: Run, index: int, share: Share, task: TaskType, now: datetime, room: int
) -> Iterator[Step]:
    """The steps that a share can take now, from its cursor on."""
    if share.done:
        return
    expired = now > share.deadline_at
    elapsed = now - share.start_at
    upto = LAST_PLACE if expired else last_place_due(elapsed, share.spread)
    wake_at = share.start_at + next_slot(elapsed)
    cursor = share.cursor
    while cursor < upto:
        if room <= 0 and not expired:
            yield Step(index, cursor, cursor, done=False, wake_at=now + FULL_WAIT)
            return
        page = runtime.store.preferences.page(
            run.task_id, share.cohort, after=cursor, upto=upto, size=PAGE, run_id=run.id, share=index
        )
        members = [member for member in page.members if _is_expected(runtime, run, task, share, member)]
        yield Step(
            index,
            cursor,
            page.reached,
            done=page.reached >= LAST_PLACE,
            wake_at=wake_at,
            jobs=[] if expired else [_job(run, index, share, task, member) for member in members],
            expired=len(members) if expired else 0,
            departures=page.departures,
        )
        cursor = page.reached
        room -= len(members)
    if share.cursor == cursor:
        yield Step(index, cursor, cursor, done=False, wake_at=wake_at)


def _job(run: Run, index: int, share: Share, task: TaskType, member: Member) -> Envelope:
    return Envelope(
        task_id=task.id,
        user_id=member.user_id,
        run_id=run.id,
        kind=run.kind,
        definition=run.definition,
        scheduled_at=run.nominal_at,
        execute_after=share.start_at + slot_offset(member.place, share.spread),
        share=index,
        parameters=member.parameters,
    )


def _is_expected(runtime: Runtime, run: Run, task: TaskType, share: Share, member: Member) -> bool:
    """Whether a member that came into this cohort lately has a part in this run.

    A new interval, and a new zone where it counts, hold for occurrences after the change. After a
    change of zone the first of these is on a local date that the user has not been served on.
    """
    if run.kind is not RunKind.SCHEDULE:
        return True
    if member.moved_at is not None and run.nominal_at <= member.moved_at:
        return False
    if member.rezoned_at is None:
        return True
    cohort = Cohort.parse(share.cohort)
    own = cohort.interval != DEFAULT_INTERVAL
    interval = Interval.from_canonical(cohort.interval) if own else task.interval
    if not interval.uses_user_zone:
        return True
    if run.nominal_at <= member.rezoned_at:
        return False
    return interval.type in SUB_DAILY or not _served_on_that_date(runtime, run, cohort.zone, member)


def _served_on_that_date(runtime: Runtime, run: Run, zone: str, member: Member) -> bool:
    there = ZoneInfo(zone)
    date = run.nominal_at.astimezone(there).date()
    # Open jobs first: one that ends in between is among the results by then.
    others = [other for other in runtime.store.runs.active(run.task_id) if other != run.id]
    nominal_times = [
        runtime.store.runs.get(other).nominal_at
        for other in others
        if runtime.store.runs.is_open([other], member.user_id)
    ]
    last = runtime.store.results.newest(run.task_id, member.user_id)
    if last is not None:
        nominal_times.append(last.scheduled_at)
    return any(nominal.astimezone(there).date() == date for nominal in nominal_times)
