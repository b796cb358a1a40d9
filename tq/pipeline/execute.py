"""One attempt at one job: ask the ledger, carry it out, decide, record.

The record is one atomic step. Until it is stored the attempt is tried to be recorded again and
again, because the call has been made and cannot be undone; only a process that ends gives up, and
then the message goes back, to be carried out again under the same key.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from loguru import logger

from tq.clock import MILLISECOND, Stopwatch
from tq.errors import ExecutorUnavailable, NotHeld, NotNow, StoreError, TaskNotFound
from tq.limits import Signal, signal_of
from tq.models import (
    Envelope,
    ErrorDetail,
    ExecutionResult,
    Job,
    JobStatus,
    Outcome,
    Permission,
    Verdict,
)
from tq.outcomes import Again, Ended, ErrorCode, class_of, decide
from tq.redaction import redact
from tq.runtime import Runtime
from tq.store.ledger import End, Retry
from tq.store.preferences import Disable
from tq.telemetry.observations import ATTEMPTS, DELAY, DURATION, LATENESS

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_MESSAGE = 300
FREE_CALLS = 3  # times as many as it may spend
# A slot that has lapsed is usually followed by another; a thread waits no longer for it.
SLOT_WAIT_S = 1.0
FRESH_FOR_S = 0.5
ASK_LATER = timedelta(seconds=1)
MOST_QUESTIONS = 3
GONE_REASON = "the endpoint answered 410 Gone"

T = TypeVar("T")

# Takes functions in place of values, and calls them if the line is written.
_lazily = logger.opt(lazy=True)


def execute(runtime: Runtime, envelope: Envelope) -> None:
    """Makes an attempt at a job and records how it came out.

    Raises:
        NotHeld: if another process has the job by now.
        StoreError: if the process is ending and the record could not be stored; the message must
            go back to its queue.
        NotNow: if the limiter's slot for the call has lapsed while Redis was asked, and there is no other.
    """
    permission = _permission(runtime, envelope)
    if permission.verdict is not Verdict.GO:
        runtime.traces.tell({"tq.verdict": permission.verdict.value})
    match permission.verdict:
        case Verdict.ENDED | Verdict.SUPERSEDED:
            logger.debug("repeated message dropped", verdict=permission.verdict.value)
            return
        case Verdict.EXPIRED:
            late = ErrorDetail(
                code=ErrorCode.EXPIRED, message="the deadline passed before the attempt could begin"
            )
            ending: End | Retry = _end(envelope, JobStatus.EXPIRED, permission.now, late)
            is_gone = False
        case Verdict.ELSEWHERE:
            raise NotHeld
        case Verdict.CRASHED:
            deadly = ErrorDetail(
                code=ErrorCode.CRASHED, message="every process that worked on the job died of it"
            )
            ending, is_gone = _end(envelope, JobStatus.FAILED, permission.now, deadly), False
        case Verdict.CANCELLED:
            ending, is_gone = _end(envelope, JobStatus.CANCELLED, permission.now, None), False
        case Verdict.GO:
            ending, is_gone = _attempt(runtime, envelope, permission)
    if is_gone:
        # Before the end is recorded: who dies in between is asked once more, and answers the same.
        off = Disable(envelope.user_id, envelope.task_id, reason=GONE_REASON, sparing=envelope.run_id)
        _until_stored(runtime, lambda: runtime.store.preferences.apply([off]))
    if not runtime.bookkeeper.record(ending):
        _until_stored(runtime, lambda: runtime.store.ledger.finish([ending]))
    _log(ending)


def _permission(runtime: Runtime, envelope: Envelope) -> Permission:
    """Whether the attempt may be made, as the ledger says just before the call, with a slot for it.

    Another process may have the same job. So what the ledger said before a wait for the slot is asked
    again after it. A Redis that is slow itself is asked a few times only, or nothing would ever be called.
    """
    known, envelope.permission = envelope.permission, None
    if known is not None and _is_fresh(known) and not envelope.is_suspect:
        # The middleware has just seen its slot.
        return known._replace(now=known.now + timedelta(seconds=time.monotonic() - known.asked))
    answered_in_s = 0.0
    for _ in range(MOST_QUESTIONS):
        permission = known or _ask(runtime, envelope)
        if known is None:
            answered_in_s = time.monotonic() - permission.asked
        if permission.verdict is not Verdict.GO:
            return permission
        wait_s = runtime.limiter.enter(envelope, patience_s=SLOT_WAIT_S)
        if wait_s > 0:
            raise NotNow(timedelta(seconds=wait_s))
        if _is_fresh(permission):
            break
        known = None
    else:
        if answered_in_s <= FRESH_FOR_S:
            raise NotNow(ASK_LATER)
    if envelope.is_suspect:
        # Counted when nothing can keep it from its call any more.
        return _ask(runtime, envelope, counts=True)
    return permission


def _is_fresh(permission: Permission) -> bool:
    return time.monotonic() - permission.asked <= FRESH_FOR_S


def _ask(runtime: Runtime, envelope: Envelope, *, counts: bool = False) -> Permission:
    ledger = runtime.store.ledger
    return _until_stored(runtime, lambda: ledger.begin([envelope], counts_suspects=counts)[0])


def _attempt(runtime: Runtime, envelope: Envelope, permission: Permission) -> tuple[End | Retry, bool]:
    """Carries the job out, and decides what follows; also whether the user wants no more of this task."""
    try:
        task = runtime.definitions.get(envelope.definition)
    except TaskNotFound as unknown:
        lacking = ErrorDetail(code=ErrorCode.UNKNOWN_TASK, message=str(unknown))
        return _end(envelope, JobStatus.FAILED, permission.now, lacking), False
    is_probe = runtime.limiter.is_probe(envelope)
    watch = Stopwatch()
    job = envelope.open_for(task, deadline_at=permission.deadline_at)
    envelope.called_at = time.monotonic()
    result = _carry_out(runtime, job, watch)
    took = result.duration if result.time_to_first_byte is None else result.time_to_first_byte
    envelope.called_at, envelope.took_s = None, took.total_seconds()
    now = permission.now + watch.elapsed
    for observe in runtime.observers:
        observe(envelope, task, result)
    spent, failed_at = envelope.spent, envelope.failed_at
    # An outage costs no attempts. But a job that is answered with errors again and again is no outage.
    is_its_own = envelope.attempt > FREE_CALLS * (task.retries + 1) and signal_of(result) is Signal.ERROR
    if not is_its_own and failed_at and runtime.limiter.in_outage(task.id, failed_at.timestamp()):
        spent, failed_at = spent - 1, None
    verdict = decide(
        result,
        attempt=envelope.attempt,
        spent=spent,
        spends=is_its_own or not is_probe,
        task=task,
        now=now,
        deadline_at=permission.deadline_at,
        jitter=runtime.jitter.random,
    )
    _observe(runtime, envelope, result, verdict, began=permission.now, ended=now)
    match verdict:
        case Again(delay, spent_now, _):
            failed_at = now if spent_now > spent else failed_at
            return Retry(envelope, delay, spent_now, task.priority, failed_at), False
        case Ended(status, error):
            end = _end(envelope, status, now, error, started_at=permission.now, called=result)
            return end, result.outcome is Outcome.GONE


def _observe(
    runtime: Runtime,
    envelope: Envelope,
    result: ExecutionResult,
    verdict: Again | Ended,
    *,
    began: datetime,
    ended: datetime,
) -> None:
    """Notes what the attempt took and how it came out."""
    observations, task = runtime.observations, envelope.task_id
    observations.time(DURATION, task, result.duration.total_seconds())
    decision = "retry"
    if isinstance(verdict, Ended):
        decision = "done" if verdict.status is JobStatus.SUCCESS else "dead"
    observations.count(f"{ATTEMPTS}|{class_of(result)}|{decision}", task)
    if envelope.attempt == 1:
        observations.time(LATENESS, task, (began - envelope.execute_after).total_seconds())
    if decision == "done":
        observations.time(DELAY, task, (ended - envelope.scheduled_at).total_seconds())


def _carry_out(runtime: Runtime, job: Job, watch: Stopwatch) -> ExecutionResult:
    try:
        result = runtime.executors.for_task(job.task).execute(job)
        if not isinstance(result, ExecutionResult):
            raise TypeError(
                f"the executor returned {type(result).__name__}; it must return an ExecutionResult"
            )
    except ExecutorUnavailable as error:
        logger.warning("attempt not possible here", reason=str(error))
        detail = ErrorDetail(code=ErrorCode.EXECUTOR_ERROR, message=redact(str(error)), retry=True)
        return ExecutionResult(outcome=Outcome.UNAVAILABLE, error=detail)
    except BaseException as error:  # noqa: BLE001 - here a stranger's code ends, even by SystemExit, and our record begins
        logger.opt(exception=error).error("executor raised")
        text = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:LONGEST_MESSAGE]
        result = ExecutionResult.retry(ErrorCode.EXECUTOR_ERROR, text)
    return result if result.duration else result.model_copy(update={"duration": watch.elapsed})


def _end(
    envelope: Envelope,
    status: JobStatus,
    now: datetime,
    error: ErrorDetail | None,
    *,
    started_at: datetime | None = None,
    called: ExecutionResult | None = None,
) -> End:
    return End(
        envelope,
        status,
        now,
        started_at=started_at,
        duration=called.duration if called else timedelta(0),
        attempts=envelope.attempt if called else envelope.attempt - 1,
        http_status=called.http_status if called else None,
        error=error,
        body=called.body if called else None,
    )


def _until_stored(runtime: Runtime, write: Callable[[], T]) -> T:
    """What `write` answers, once Redis has taken it."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return write()
        except StoreError as error:
            if runtime.stopping.wait(pause_s):
                raise
            logger.warning("record not stored, trying again", reason=str(error))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _log(ending: End | Retry) -> None:
    match ending:
        case Retry(_, delay, spent, _):
            logger.debug("attempt failed, to be retried", retry_in_s=delay.total_seconds(), spent=spent)
        case End():
            # Hundreds a second, which most processes do not write.
            _lazily.debug(
                "job ended",
                status=lambda: ending.status.value,
                code=lambda: ending.error.code if ending.error else None,
                http_status=lambda: ending.http_status,
                duration_ms=lambda: ending.duration / MILLISECOND,
            )
