"""What this process has seen is brought to Redis, where it is added to what all have."""

from tq.runtime import Runtime
from tq.store.connection import chunks

TASKS_AT_A_TIME = 25  # a script of two milliseconds, if everything was seen of each


def bring(runtime: Runtime) -> None:
    """Brings what was seen since the last time.

    Raises:
        StoreError: if Redis did not take all of it. The rest is brought next time; what was sent and not answered
            may then have been added twice.
    """
    left = runtime.observations.take()
    try:
        for part in chunks(list(left), TASKS_AT_A_TIME):
            runtime.store.totals.add({task: left[task] for task in part})
            for task in part:
                del left[task]
    finally:
        runtime.observations.give_back(left)
