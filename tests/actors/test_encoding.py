"""What a message looks like on its way."""

import dramatiq
import pytest

from actors.encoding import MessageEncoder, job_bodies, job_body, redis_id_of
from tq.models import Batch, UserId
from tq.testing import make_envelope

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_jobs_message_holds_only_what_does_not_follow_from_the_job() -> None:
    body = job_body(make_envelope("ada"), "normal")

    assert body == (
        b'{"queue_name":"normal","actor_name":"execute","args":[["email_digest","ada",'
        b'"email_digest~20261124T090000Z","schedule","0000000000000000",1795510800000,1795510800000,0,1,0,0,""]]}'
    )


def test_the_messages_of_a_batch_name_the_span_that_sent_them_beside_the_job() -> None:
    pattern = make_envelope("ada")
    plain = job_bodies(Batch(pattern, [UserId("ada"), UserId("bob")]), "normal")
    pattern.cause = SENDER

    marked = job_bodies(Batch(pattern, [UserId("ada"), UserId("bob")]), "normal")

    tail = b',"options":{"traceparent":"' + SENDER.encode() + b'"}}'
    assert marked == [body.removesuffix(b"}") + tail for body in plain]


@pytest.mark.parametrize("cause", ["", SENDER])
def test_who_sent_a_job_arrives_with_it_and_is_known_to_its_next_attempt(cause: str) -> None:
    envelope = make_envelope("ada")
    envelope.cause = cause
    encoder = MessageEncoder()

    fields = encoder.decode(job_body(envelope, "normal"))

    [arrived] = fields["args"]
    assert arrived.cause == arrived.next_attempt(spent=1).cause == cause
    assert fields["options"]["redis_message_id"] == envelope.message_id
    assert redis_id_of(job_body(envelope, "normal")) == envelope.message_id
    again: dramatiq.Message[None] = dramatiq.Message(**fields)
    assert encoder.encode(again.asdict()) == job_body(envelope, "normal")
