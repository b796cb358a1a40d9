"""One of several processes that tick and distribute at the same moment; started by test_racing.py."""

import sys
import time

from actors.transport import make_transport
from tests.end_to_end.racing_tasks import TASK
from tq.pipeline import distribute, tick
from tq.registry import Registry
from tq.runtime import Runtime
from tq.settings import load_settings


class Declared:
    """The one task."""

    current = Registry({TASK.id: TASK}, modified_ms=1)
    problem = None

    def refresh(self) -> bool:
        """Never changes."""
        return False


def main(number: int, racers: int) -> None:
    """Waits for all others, then ticks and distributes until every run is fanned out."""
    settings = load_settings()
    runtime = Runtime(settings, make_transport(settings), registry=Declared())
    redis = runtime.store.connection
    redis.call("INCR", f"{settings.namespace}:ready")
    while int(redis.call("GET", f"{settings.namespace}:ready")) < racers:
        time.sleep(0.001)
    if number < 2:
        tick(runtime)
    while not (runs := runtime.store.runs.latest()) or not all(
        runtime.store.runs.get(run.id).fanned_out for run in runs
    ):
        for run in runs:
            distribute(runtime, run.id)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
