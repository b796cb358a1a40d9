"""Everything that is kept, opened in one go."""

from datetime import datetime, timedelta

from tq.clock import Clock, SystemClock, from_ms
from tq.settings import Settings
from tq.store.agenda import Agenda
from tq.store.alerts import Alerts
from tq.store.connection import PATIENCE, Connection
from tq.store.heartbeats import Heartbeats
from tq.store.keys import Keys
from tq.store.ledger import Ledger
from tq.store.limits import Limits
from tq.store.mending import Mending
from tq.store.orders import Orders
from tq.store.planning import Planning
from tq.store.preferences import Preferences
from tq.store.results import Results
from tq.store.runs import Runs
from tq.store.totals import Totals
from tq.store.transport import Transport
from tq.store.user_pauses import UserPauses
from tq.store.vitals import Vitals


class Store:
    """The state of one namespace in one Redis."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        *,
        clock: Clock | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        """`patience` is for how long an answer is waited for."""
        self.clock = clock or SystemClock()
        self.keys = Keys(settings.namespace)
        self.connection = Connection(
            settings.redis_url,
            keys=self.keys,
            clock=self.clock,
            transport=transport,
            log_commands=settings.debug_redis,
            patience=patience,
        )
        history, ttl = settings.result_history, settings.result_ttl
        self.preferences = Preferences(self.connection, result_history=history, result_ttl=ttl)
        self.user_pauses = UserPauses(self.connection, result_history=history, result_ttl=ttl)
        self.planning = Planning(self.connection)
        self.ledger = Ledger(self.connection, transport, result_history=history, result_ttl=ttl)
        self.runs = Runs(self.connection)
        self.results = Results(self.connection)
        self.agenda = Agenda(self.connection)
        self.limits = Limits(self.connection)
        self.mending = Mending(self.connection, transport, result_history=history, result_ttl=ttl)
        self.orders = Orders(self.connection)
        self.heartbeats = Heartbeats(self.connection, transport)
        self.vitals = Vitals(self.connection, transport)
        self.totals = Totals(self.connection)
        self.alerts = Alerts(self.connection)

    def ping(self) -> None:
        """Sees whether Redis is there.

        Raises:
            StoreUnavailable: if it is not; the message says what to do.
        """
        self.connection.call("PING")

    def now(self) -> datetime:
        """The present instant by Redis' own time, or by the clock that was handed in."""
        if self.clock.override_ms:
            return from_ms(self.clock.override_ms)
        seconds, microseconds = self.connection.call("TIME")
        return from_ms(int(seconds) * 1000 + int(microseconds) // 1000)

    def close(self) -> None:
        """Ends all connections."""
        self.connection.close()
