"""The work: one message, one attempt at one user's job."""

import dramatiq

from actors.encoding import EXECUTE
from tq.errors import NotHeld, NotNow
from tq.models import SUSPECTS, Envelope, Priority
from tq.pipeline import execute
from tq.runtime import Runtime


def declare_execute(broker: dramatiq.Broker, runtime: Runtime) -> None:
    """Declares the actor that carries jobs out, and the queues that its messages come through."""
    for priority in Priority:
        broker.declare_queue(priority.value)
    broker.declare_queue(SUSPECTS)

    @dramatiq.actor(broker=broker, actor_name=EXECUTE, queue_name=Priority.NORMAL.value)
    def _execute(envelope: Envelope) -> None:
        execute(runtime, envelope)

    # Not declared with the actor: that option belongs to a middleware that is not here. It keeps a job
    # that is put off or let go from being logged as a failure.
    _execute.options["throws"] = (NotHeld, NotNow)
