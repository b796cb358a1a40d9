"""Messages as bytes: orjson, with a job's envelope opened on arrival.

Dramatiq's own log lines print a message's arguments. An envelope prints as its job's id, so no
parameter of a user ever reaches a log that way.
"""

from typing import Any

import orjson
from dramatiq import DecodeError, Encoder

from tq.models import Envelope

TICK = "tick"
DISTRIBUTE = "distribute"
EXECUTE = "execute"


class MessageEncoder(Encoder):
    """Encodes messages as JSON; the argument of `execute` is an Envelope."""

    def encode(self, data: dict[str, Any]) -> bytes:
        """The message as JSON."""
        return orjson.dumps(data, default=_wire)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The message's fields.

        Raises:
            DecodeError: if it is not such a message.
        """
        try:
            fields: dict[str, Any] = orjson.loads(data)
            if fields["actor_name"] == EXECUTE:
                fields["args"] = [Envelope.from_wire(fields["args"][0])]
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError("message cannot be read", data, error) from error
        return fields


def _wire(value: object) -> object:
    if isinstance(value, Envelope):
        return value.to_wire()
    raise TypeError(f"{type(value).__name__} does not travel in a message")
