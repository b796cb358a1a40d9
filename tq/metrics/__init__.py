"""How the whole system fares, in figures: what there are, read from Redis, and written for who asks.

One process that reads tells the truth about all of them: nothing here is known to one process alone.
"""

from tq.metrics.exposition import CONTENT_TYPE, exposed
from tq.metrics.families import FAMILIES, Family
from tq.metrics.meter import Figures, Meter

__all__ = ["CONTENT_TYPE", "FAMILIES", "Family", "Figures", "Meter", "exposed"]
