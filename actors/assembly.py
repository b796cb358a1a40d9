"""The broker with its middleware pipeline and its actors, around one runtime."""

import dramatiq
from dramatiq.middleware import ShutdownNotifications
from periodiq import PeriodiqMiddleware

from actors.broker import make_broker
from actors.distribute import declare_distribute
from actors.execute import declare_execute
from actors.tick import declare_tick
from middleware.context import LogContext
from middleware.error_rates import ErrorRates
from middleware.fairness import FairDispatch
from middleware.rate_limit import RateLimit
from middleware.suspects import Suspects
from middleware.upkeep import Upkeep
from tq.runtime import Runtime

# A tick that waited for longer than this is followed by the next one, which makes up for it.
STALE_TICK_S = 50


def assemble(runtime: Runtime) -> dramatiq.Broker:
    """The broker that the runtime's settings ask for, with everything declared on it."""
    broker = make_broker(
        runtime.settings,
        [
            LogContext(),
            ShutdownNotifications(),
            PeriodiqMiddleware(skip_delay=STALE_TICK_S),
            # Ends after the limiter, which has a last word for Redis.
            Upkeep(runtime),
            FairDispatch(runtime.limiter),
            ErrorRates(runtime),
            RateLimit(runtime),
            Suspects(),
        ],
        runtime.store.agenda,
    )
    declare_tick(broker, runtime)
    declare_distribute(broker, runtime)
    declare_execute(broker, runtime)
    return broker
