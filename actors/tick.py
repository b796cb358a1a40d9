"""The clock: once a minute, whatever has fallen due becomes runs."""

import dramatiq
from periodiq import cron

from actors.encoding import DISTRIBUTE, TICK
from actors.transport import CONTROL
from tq.pipeline import tick
from tq.runtime import Runtime


def declare_tick(broker: dramatiq.Broker, runtime: Runtime) -> None:
    """Declares the actor that claims runs and has each of them distributed."""

    @dramatiq.actor(broker=broker, actor_name=TICK, queue_name=CONTROL, periodic=cron("* * * * *"))
    def _tick() -> None:
        for run_id in tick(runtime):
            broker.get_actor(DISTRIBUTE).send(run_id)
