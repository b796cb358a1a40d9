"""Messages as bytes: orjson, with a job's envelope opened on arrival.

Thousands of jobs wait in a queue. So a job's message holds only what does not follow from the job:
its ids are made of run, user and attempt, and are put in again where it is read. It begins with its
queue, where `recover.lua` looks for it.

Dramatiq's own log lines print a message's arguments. An envelope prints as its job's id, so no
parameter of a user ever reaches a log that way.
"""

from contextlib import suppress
from typing import Any

import orjson
from dramatiq import DecodeError, Encoder

from tq.models import Batch, Envelope, RunId, UserId, job_id_of
from tq.models.ids import message_id_of
from tq.telemetry.traces import TRACEPARENT

TICK = "tick"
DISTRIBUTE = "distribute"
EXECUTE = "execute"


class MessageEncoder(Encoder):
    """Encodes messages as JSON; the argument of `execute` is an Envelope."""

    def encode(self, data: dict[str, Any]) -> bytes:
        """The message as JSON."""
        [job] = data["args"] if data["actor_name"] == EXECUTE else [None]
        if job is not None and data["message_id"] == job.message_id and data["options"] == _options(job):
            return job_body(job, data["queue_name"])
        return orjson.dumps(data, default=_wire)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The message's fields.

        Raises:
            DecodeError: if it is not such a message.
        """
        try:
            fields: dict[str, Any] = orjson.loads(data)
            if fields["actor_name"] == EXECUTE:
                job = Envelope.from_wire(fields["args"][0])
                options = fields.get("options", {})
                job.cause = options.get(TRACEPARENT, "")
                fields["args"] = (job,)
                fields.setdefault("kwargs", {})
                fields.setdefault("message_id", job.message_id)
                fields["options"] = {"redis_message_id": job.message_id, **options}
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError("message cannot be read", data, error) from error
        return fields


def job_body(job: Envelope, queue: str) -> bytes:
    """The message of a job."""
    [body] = job_bodies(Batch(job, [job.user_id]), queue)
    return body


def job_bodies(batch: Batch, queue: str) -> list[bytes]:
    """The messages of a batch of jobs, in the order of its users."""
    task_id, _, *others = batch.pattern.to_wire()
    head = orjson.dumps({"queue_name": queue, "actor_name": EXECUTE, "args": [[task_id]]})
    before, after = head.removesuffix(b"]]}") + b",", b"," + orjson.dumps(others).removeprefix(b"[") + b"]"
    if batch.pattern.cause:
        after += b',"options":' + orjson.dumps({TRACEPARENT: batch.pattern.cause})
    after += b"}"
    return [before + orjson.dumps(user_id) + after for user_id in batch.user_ids]


def redis_id_of(body: bytes) -> str:
    """The id under which Redis keeps a message, also of one that cannot be read as a whole.

    Raises:
        LookupError, TypeError, ValueError: if it does not say.
    """
    fields = orjson.loads(body)
    with suppress(KeyError):
        return str(fields["options"]["redis_message_id"])
    job = fields["args"][0]
    return message_id_of(job_id_of(RunId(job[2]), UserId(job[1])), job[8])


def _options(job: Envelope) -> dict[str, Any]:
    options = {"redis_message_id": job.message_id}
    return options | {TRACEPARENT: job.cause} if job.cause else options


def _wire(value: object) -> object:
    if isinstance(value, Envelope):
        return value.to_wire()
    raise TypeError(f"{type(value).__name__} does not travel in a message")
