"""The broker with its middleware pipeline and its actors, around one runtime."""

import dramatiq
from periodiq import PeriodiqMiddleware

from actors.broker import make_broker
from actors.distribute import declare_distribute
from actors.execute import declare_execute
from actors.tick import declare_tick
from actors.wake import WakeUps
from middleware.context import LogContext
from middleware.debugging import Debugging
from middleware.departure import Departure
from middleware.error_rates import ErrorRates
from middleware.fairness import FairDispatch
from middleware.metrics import Metrics
from middleware.presence import SchedulerPresence
from middleware.rate_limit import RateLimit
from middleware.tracing import Tracing
from middleware.upkeep import Upkeep
from tq.runtime import Runtime

# A tick that waited for longer than this is followed by the next one, which makes up for it.
STALE_TICK_S = 50


def assemble(runtime: Runtime) -> dramatiq.Broker:
    """The broker that the runtime's settings ask for, with everything declared on it."""
    upkeep = Upkeep(runtime)
    broker = make_broker(
        runtime.settings,
        [
            LogContext(),
            # Ends last of all, when every span has ended.
            *([Tracing(runtime)] if runtime.is_traced else []),
            # Before whoever shows the process, so that its port is shown with it.
            *([Debugging(runtime)] if runtime.settings.debug_endpoints else []),
            PeriodiqMiddleware(skip_delay=STALE_TICK_S),
            SchedulerPresence(runtime),
            WakeUps(
                runtime.settings.redis_url,
                agenda=upkeep.due,
                log_commands=runtime.settings.debug_redis,
            ),
            # Leaves when nothing shows any more that the process lives.
            Departure(),
            # Ends after the limiter, which has a last word for Redis.
            upkeep,
            Metrics(runtime),
            FairDispatch(runtime.limiter, runtime.bookkeeper),
            ErrorRates(runtime),
            RateLimit(runtime),
        ],
        runtime.store,
    )
    declare_tick(broker, runtime)
    declare_distribute(broker, runtime)
    declare_execute(broker, runtime)
    return broker
