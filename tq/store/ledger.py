"""The ledger: who is expected, whose job is open, and how each one ended.

A job is open from its fan-out to its end. Only who takes it out of the open set counts it, so the
counts are exact however often a message is delivered.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import NamedTuple

from tq.clock import duration_ms, from_ms, to_ms
from tq.models import Batch, Envelope, ErrorDetail, JobResult, JobStatus, Permission, Priority, RunId, Verdict
from tq.models.runs import Wait
from tq.store.connection import Argument, Connection
from tq.store.results import pack_result
from tq.store.transport import Transport

FAILURES_KEPT = 10_000  # per task; older ones keep their place in the counters only


_VERDICTS = {str(verdict): verdict for verdict in Verdict}


class End(NamedTuple):
    """A job has ended in a state, and how that came about."""

    envelope: Envelope
    status: JobStatus
    ended_at: datetime
    reason: str | None = None
    started_at: datetime | None = None
    duration: timedelta = timedelta(0)
    attempts: int = 0
    http_status: int | None = None
    error: ErrorDetail | None = None
    body: str | None = None

    @property
    def result(self) -> JobResult:
        """All of it, as it is told."""
        envelope, *told = self
        return JobResult(
            job_id=envelope.job_id,
            run_id=envelope.run_id,
            task_id=envelope.task_id,
            user_id=envelope.user_id,
            scheduled_at=envelope.scheduled_at,
            **dict(zip(self._fields[1:], told, strict=True)),
        )


class Retry(NamedTuple):
    """A job is to be tried again. `failed_at` is when the last of its spent attempts ended, if any was."""

    envelope: Envelope
    delay: timedelta
    spent: int
    priority: Priority
    failed_at: datetime | None = None


@dataclass(frozen=True)
class Step:
    """One step of a share's distribution: from cursor to cursor, with the jobs in between."""

    share: int
    cursor: int
    reached: int
    done: bool
    wake_at: datetime
    batches: Sequence[Batch] = ()
    passed_over: int = 0  # members who get no job any more
    departures: str = ""


class Ledger:
    """Changes the ledger; reading it is `Runs`' business."""

    def __init__(
        self, connection: Connection, transport: Transport, *, result_history: int, result_ttl: timedelta
    ) -> None:
        self._redis = connection
        self._keys = connection.keys
        self._transport = transport
        self._retention = (result_history, int(result_ttl.total_seconds()), FAILURES_KEPT)

    def fan_out(self, run_id: RunId, step: Step, priority: Priority) -> int | None:
        """Puts jobs into queue, open set and ledger and moves the cursor, all in one.

        Members who are paused are skipped. Returns how many jobs were new, or None if the cursor was
        elsewhere or the run has been stopped: then nothing was changed, and the caller has nothing
        more to do.
        """
        arguments: list[Argument] = [
            *(
                run_id,
                step.share,
                step.cursor,
                step.reached,
                int(step.done),
                to_ms(step.wake_at),
                step.passed_over,
            ),
            step.departures,
            *self._retention[:2],
        ]
        for batch in step.batches:
            messages = self._transport.job_messages(batch, priority)
            arguments += [_state(batch.pattern), messages.queue, len(batch.user_ids)]
            arguments += chain.from_iterable(zip(batch.user_ids, messages.ids, messages.bodies, strict=True))
        answer = self._redis.script("fan_out", *arguments)
        return None if answer in ("moved", "stopped") else int(answer)

    def note_wait(self, run_id: RunId, wait: Wait | None) -> None:
        """Notes what a run's distribution waits for, if for anything but its next slot."""
        key = self._keys("run", run_id)
        if wait is None:
            self._redis.call("HDEL", key, "waits_for")
        else:
            self._redis.call("HSET", key, "waits_for", wait.value)

    def begin(self, envelopes: Sequence[Envelope], *, counts_suspects: bool = False) -> list[Permission]:
        """Whether these attempts may be made now; the calls of suspects that follow at once are counted."""
        asked = time.monotonic()
        answer = self._redis.script("begin", *_begin_arguments(envelopes, counts_suspects=counts_suspects))
        return permissions_in(answer, asked)

    def finish(self, endings: Sequence[End | Retry]) -> list[bool]:
        """Records how attempts came out, and acknowledges their messages.

        False for those that another has recorded already.
        """
        *answers, _closed = self._redis.script("finish", *self._finish_arguments(endings))
        return [bool(answer) for answer in answers]

    def settle(self, endings: Sequence[End | Retry], beginning: Sequence[Envelope]) -> list[Permission]:
        """What `finish` does with the ones and `begin` with the others, in one round trip.

        Raises:
            StoreError: if one of the two was not done. To do both again does no harm.
        """
        steps: list[tuple[str, Sequence[Argument]]] = []
        if endings:
            steps.append(("finish", self._finish_arguments(endings)))
        if beginning:
            steps.append(("begin", _begin_arguments(beginning)))
        asked = time.monotonic()
        answers = self._redis.scripts(steps)
        return permissions_in(answers[-1], asked) if beginning else []

    def _finish_arguments(self, endings: Sequence[End | Retry]) -> list[Argument]:
        arguments: list[Argument] = [*self._retention]
        for ending in endings:
            arguments += self._texts_of(ending)
        return arguments

    def _texts_of(self, ending: End | Retry) -> list[Argument]:
        envelope = ending.envelope
        match ending:
            case End():
                status = ending.status
                packed = pack_result(
                    envelope.run_id,
                    status,
                    ending.error.code if ending.error else ending.reason,
                    instants=(envelope.scheduled_at, ending.started_at, ending.ended_at),
                    duration=ending.duration,
                    attempts=ending.attempts,
                    http_status=ending.http_status,
                )
                full = ending.result.to_json() if status is JobStatus.FAILED else ""
                is_unreached = status is JobStatus.EXPIRED and ending.attempts == 0
                outcome = f"{status}:{ending.reason}" if ending.reason else status.value
                return [*_who(envelope), outcome, packed, full, int(is_unreached)]
            case Retry(_, delay, spent, priority, failed_at):
                following = envelope.next_attempt(spent=spent, failed_at=failed_at)
                message = self._transport.job_message(following, priority)
                text = f"{message.queue}\n{message.id}\n".encode() + message.body
                return [*_who(envelope), "again", duration_ms(delay), _state(following), text]


def _begin_arguments(envelopes: Sequence[Envelope], *, counts_suspects: bool = False) -> list[Argument]:
    arguments: list[Argument] = []
    for envelope in envelopes:
        arguments += _who(envelope)
        arguments.append(int(counts_suspects and envelope.is_suspect))
    return arguments


def _who(envelope: Envelope) -> tuple[Argument, ...]:
    """What `groups.lua` reads of each job; first what it shares with others."""
    shared = f"{envelope.run_id}|{envelope.task_id}|{envelope.share}|{envelope.holder}|{envelope.queue}"
    return shared, envelope.message_id, envelope.user_id, envelope.attempt


def permissions_in(answer: Sequence[str], asked: float) -> list[Permission]:
    """What `begin.lua` has answered to a question of an instant (monotonic seconds)."""
    *answers, now = answer
    present = from_ms(int(now))
    return [
        Permission(_VERDICTS[verdict], from_ms(int(deadline)), present, asked)
        for verdict, deadline in zip(*[iter(answers)] * 2, strict=True)
    ]


def _state(envelope: Envelope) -> str:
    after = to_ms(envelope.execute_after)
    return f"{envelope.attempt}|{envelope.spent}|{envelope.share}|{after}|{envelope.parameters}"
