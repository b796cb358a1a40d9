"""The fan-out: a run's members, slot by slot, become jobs."""

import dramatiq

from actors.encoding import DISTRIBUTE
from actors.transport import CONTROL
from tq.models import RunId
from tq.pipeline import distribute
from tq.runtime import Runtime


def declare_distribute(broker: dramatiq.Broker, runtime: Runtime) -> None:
    """Declares the actor that distributes a run as far as it has come due."""

    @dramatiq.actor(broker=broker, actor_name=DISTRIBUTE, queue_name=CONTROL)
    def _distribute(run_id: RunId) -> None:
        distribute(runtime, run_id)
