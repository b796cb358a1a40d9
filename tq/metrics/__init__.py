"""How the whole system fares, in figures: what there are, read from Redis, and written for who asks.

One process that reads tells the truth about all of them: nothing here is known to one process alone.
"""

from typing import TYPE_CHECKING

from tq.metrics.exposition import CONTENT_TYPE, exposed
from tq.metrics.families import FAMILIES, Family
from tq.metrics.meter import Figures, Meter
from tq.telemetry.traces import are_wanted, variables

if TYPE_CHECKING:
    from tq.metrics.otlp import Export

__all__ = ["CONTENT_TYPE", "FAMILIES", "Family", "Figures", "Meter", "exposed", "open_export"]


def open_export(meter: Meter, namespace: str) -> "Export | None":
    """What tells by OTLP, as OpenTelemetry's variables ask for; None where nobody is named who takes metrics."""
    environ = variables()
    if not are_wanted(environ, "METRICS"):
        return None
    # Only now, since OpenTelemetry's packages take their time and memory.
    from tq.metrics.otlp import open_wanted

    return open_wanted(meter, namespace, environ)
