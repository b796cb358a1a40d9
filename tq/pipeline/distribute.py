"""The fan-out: everybody whose slot has come gets a job, as soon as that could be carried out.

A run is a cursor per share that moves through the members in their stable order. Each step puts
some hundred jobs into queue, open set and ledger and moves the cursor, all in one; the cursor is
the fence, so a second distributor or a crash can neither duplicate nor lose anybody. What is not
due yet, or more than the limiter will let through in the next seconds, stays a cursor and an entry
on the agenda. So a task that is paused, or whose endpoint is down, fills nothing.
"""

from collections import defaultdict
from collections.abc import Set
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from loguru import logger

from tq.errors import RunNotFound, TaskNotFound
from tq.models import (
    Batch,
    Envelope,
    Interval,
    Run,
    RunCounts,
    RunId,
    RunKind,
    RunStatus,
    Share,
    TaskType,
    UserId,
    scheduled_run_id,
)
from tq.models.runs import Wait
from tq.runtime import Runtime
from tq.schedule import falls_once_a_date
from tq.slots import LAST_PLACE, SLOT, last_place_due, next_slot, position_of, slots_of, stretches
from tq.store.ledger import Step
from tq.store.preferences import DEFAULT_INTERVAL, Cohort, Member, Page

PAGE = 1000
# Room is refilled every second or two, so the queue does not run dry; and little is in it when the
# rate breaks down.
AHEAD = timedelta(seconds=5)
REFILL = timedelta(seconds=1)
LEAST_ROOM = 4  # the slowest of tasks has a job ready when its slot comes
MOST_QUEUED = 20_000  # jobs of a run, queued or under way, at any rate: some 10 MB
RETRY_BACKLOG = 20_000  # jobs of a run that wait for their retry: beyond it an endpoint gets no new ones


def distribute(runtime: Runtime, run_id: RunId, *, room: int | None = None) -> int:
    """Fans out what has come due of a run, as far as there is room; returns how many jobs that were.

    There is room for what the limiter will let through soon, unless the caller says for how many jobs.
    """
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
    if room is None:
        others = runtime.store.runs.out_of_room(task.id) - {run_id}
        room = room_of(run.counts, rate=runtime.outlook(task).rate, runs=len(others) + 1)
    now = runtime.store.now()
    sent = passed_over = 0
    is_held = False
    _tell_beginning(run, now)
    for index, share in enumerate(run.shares):
        while is_due(run, share, now) and (room > 0 or is_over(run, share, now)):
            step = _step(runtime, run, index, share, task, now, room)
            with runtime.traces.sending(task.priority.value, step.batches) as tell_sent:
                added = runtime.store.ledger.fan_out(run_id, step, task.priority)
                tell_sent(added or 0)
            if added is None:
                logger.info("distribution left to another", run_id=run_id, jobs=sent)
                return sent
            sent, room, passed_over = sent + added, room - added, passed_over + step.passed_over
            share = share.model_copy(update={"cursor": step.reached, "done": step.done})
            if runtime.stopping.is_set():
                _tell_cut(run, sent, passed_over)
                return sent
        is_held = is_held or is_due(run, share, now)
    _note_wait(runtime, run, is_held=is_held)
    runtime.store.agenda.distribute_by(run_id, now + REFILL if is_held else _next_slot(run, now))
    _tell_cut(run, sent, passed_over)
    runtime.traces.tell({"tq.jobs": sent})
    if sent:
        logger.info("run distributed", run_id=run_id, task_id=task.id, jobs=sent, more_is_due=is_held)
    return sent


def room_of(counts: RunCounts, *, rate: float, runs: int) -> int:
    """How many more jobs of a run may be sent, when so many runs want their part of the rate (per second)."""
    if rate <= 0 or counts.waiting >= RETRY_BACKLOG:
        return 0
    ahead = max(LEAST_ROOM, AHEAD.total_seconds() * rate / runs)
    return max(0, int(min(ahead, MOST_QUEUED)) - (counts.open - counts.waiting))


def is_due(run: Run, share: Share, now: datetime) -> bool:
    """Whether there may be members whose slot has come and who have not been reached."""
    return not share.done and share.cursor < _last_place(run, share, now)


def is_over(run: Run, share: Share, now: datetime) -> bool:
    """Whether nobody of a share gets a job any more; that needs no room."""
    return run.cancelled_at is not None or now > share.deadline_at


def _last_place(run: Run, share: Share, now: datetime) -> int:
    return LAST_PLACE if is_over(run, share, now) else last_place_due(now - share.start_at, share.spread)


def _next_slot(run: Run, now: datetime) -> datetime:
    return min(share.start_at + next_slot(now - share.start_at) for share in run.shares if not share.done)


def _step(
    runtime: Runtime, run: Run, index: int, share: Share, task: TaskType, now: datetime, room: int
) -> Step:
    """The step that a share takes from its cursor on."""
    over = is_over(run, share, now)
    # As far as the order does not go round; what lies beyond is the next step's.
    after, upto = next(stretches(share.first, after=share.cursor, upto=_last_place(run, share, now)))
    page = runtime.store.preferences.page(
        run.task_id,
        share.cohort,
        after=after,
        upto=upto,
        size=PAGE if over else min(PAGE, room),
        run_id=run.id,
        share=index,
    )
    changed = page.moved_at.keys() | page.rezoned_at.keys()
    left_out = {
        number for number in changed if not _is_expected(runtime, run, task, share, page.member(number))
    }
    reached = position_of(page.reached, share.first)
    return Step(
        index,
        share.cursor,
        reached,
        done=reached >= LAST_PLACE,
        wake_at=_next_slot(run, now),
        batches=[] if over else _batches(run, index, share, page, left_out),
        passed_over=len(page.user_ids) - len(left_out) if over else 0,
        departures=page.departures,
    )


def _tell_beginning(run: Run, now: datetime) -> None:
    late = [share for share in run.shares if share.first and share.cursor < 0 and is_due(run, share, now)]
    if late:
        logger.warning(
            "run begins with those whom the one before did not reach",
            run_id=run.id,
            task_id=run.task_id,
            shares=len(late),
        )


def _tell_cut(run: Run, sent: int, passed_over: int) -> None:
    if not passed_over or run.cancelled_at is not None:
        return
    reached = run.counts.expected + sent
    logger.warning(
        "run was cut before it had reached everybody",
        run_id=run.id,
        task_id=run.task_id,
        not_reached=passed_over,
        reached_percent=round(100 * reached / (reached + passed_over), 1),
        next_goes_on=run.kind is RunKind.SCHEDULE,
    )


def _note_wait(runtime: Runtime, run: Run, *, is_held: bool) -> None:
    """Keeps what the run waits for, for whoever looks, and for other runs, which share the rate with it."""
    too_many_retries = run.counts.waiting >= RETRY_BACKLOG
    wait = (Wait.RETRIES if too_many_retries else Wait.ROOM) if is_held else None
    if wait is run.waits_for:
        return
    runtime.store.ledger.note_wait(run.id, wait)
    if wait is Wait.RETRIES:
        logger.warning(
            "no new jobs are sent, because too many wait for their retry",
            run_id=run.id,
            waiting=run.counts.waiting,
            most=RETRY_BACKLOG,
        )
    elif run.waits_for is Wait.RETRIES:
        logger.info("new jobs are sent again", run_id=run.id, waiting=run.counts.waiting)


def _batches(run: Run, index: int, share: Share, page: Page, left_out: Set[int]) -> list[Batch]:
    """The jobs of a page: one batch for all that are served in the same slot with the same parameters."""
    alike: dict[tuple[int, str], list[UserId]] = defaultdict(list)
    positions = [position_of(place, share.first) for place in page.places] if share.first else page.places
    slots = slots_of(positions, share.spread)
    for number, (user_id, slot) in enumerate(zip(page.user_ids, slots, strict=True)):
        if number not in left_out:
            alike[slot, page.parameters.get(number, "")].append(user_id)
    return [
        Batch(
            Envelope(
                task_id=run.task_id,
                user_id=user_ids[0],
                run_id=run.id,
                kind=run.kind,
                definition=run.definition,
                scheduled_at=run.nominal_at,
                execute_after=share.start_at + slot * SLOT,
                share=index,
                parameters=parameters,
            ),
            user_ids,
        )
        for (slot, parameters), user_ids in alike.items()
    ]


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
    return not (
        falls_once_a_date(interval)
        and _was_served_on_that_date(runtime, run, cohort.zone, member, member.rezoned_at)
    )


def _was_served_on_that_date(
    runtime: Runtime, run: Run, zone: str, member: Member, rezoned_at: datetime
) -> bool:
    """Whether the member has had that local date's turn before the change of zone, and none after it."""
    # Open jobs first: one that ends in between is among the results by then.
    others = [other for other in runtime.store.runs.active(run.task_id) if other != run.id]
    had = [
        (other, runtime.store.runs.get(other).nominal_at)
        for other in others
        if runtime.store.runs.is_open([other], member.user_id)
    ]
    # Not only the newest: a job may end long after one that was due later.
    results = runtime.store.results.of(run.task_id, member.user_id)
    had += [(result.run_id, result.scheduled_at) for result in results]
    if any(at > rezoned_at and one == scheduled_run_id(run.task_id, at) for one, at in had):
        return False
    there = ZoneInfo(zone)
    date = run.nominal_at.astimezone(there).date()
    return any(at.astimezone(there).date() == date for _, at in had)
