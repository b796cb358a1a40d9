"""What this process has seen is brought to Redis, where it is added to what all have."""

from tq.runtime import Runtime
from tq.store.connection import chunks
from tq.telemetry.observations import to_wire

SERIES_AT_A_TIME = 200  # a script of two milliseconds


def bring(runtime: Runtime) -> None:
    """Brings what was seen since the last time.

    Raises:
        StoreError: if Redis did not take all of it. The rest is brought next time; what was sent and not answered
            may then have been added twice.
    """
    left = runtime.observations.take()
    try:
        for part in chunks(list(left), SERIES_AT_A_TIME):
            runtime.store.totals.add({series: to_wire(left[series]) for series in part})
            for series in part:
                del left[series]
    finally:
        runtime.observations.give_back(left)
