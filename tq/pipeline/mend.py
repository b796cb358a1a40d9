"""What has stalled is found and set going again, whoever let it fall.

One process at a time looks, every few seconds. Nothing here is needed while all goes well: a run is
followed by its agenda entry, a job by its message. It is for what was lost with a Redis that forgot
its last second, and for jobs whose time is over while they wait.
"""

import contextlib
from datetime import timedelta

from loguru import logger

from tq.errors import RunNotFound, TaskNotFound
from tq.models import Priority, Run, RunId
from tq.runtime import Runtime
from tq.store.mending import SWEPT_AT_A_TIME

LEASE = timedelta(seconds=10)
# So many jobs of a run are looked at in one go, the others in the next.
MOST_SWEPT = 2000
# A call of a task that is not known any more has ended by then.
LONGEST_CALL = timedelta(minutes=10)
# A call that was begun in time ends, and is recorded, within its timeout and this.
GRACE = timedelta(seconds=30)


class Mender:
    """Looks for what has stalled; remembers how far it came in each run."""

    def __init__(self, runtime: Runtime, process: str) -> None:
        self._runtime = runtime
        self._process = process
        self._cursors: dict[RunId, str] = {}

    def look(self) -> None:
        """Mends what has stalled, if it is this process' turn."""
        mending = self._runtime.store.mending
        if not mending.is_mine(self._process, lasts=LEASE):
            return
        running = mending.running()
        for gone in self._cursors.keys() - set(running):
            del self._cursors[gone]
            self._prove(gone)
        for run_id in running:
            try:
                run = self._runtime.store.runs.get(run_id)
            except RunNotFound:
                continue
            self._mend(run)

    def _prove(self, run_id: RunId) -> None:
        """Raises the alarm if a run has ended and somebody is missing from its ledger."""
        with contextlib.suppress(RunNotFound):
            counts = self._runtime.store.runs.get(run_id).counts
            if counts.unaccounted:
                logger.error(
                    "run ended with jobs unaccounted for",
                    run_id=run_id,
                    expected=counts.expected,
                    unaccounted=counts.unaccounted,
                )

    def _mend(self, run: Run) -> None:
        if not run.fanned_out and self._runtime.store.mending.follow(run.id):
            logger.warning("run that nobody followed is distributed on", run_id=run.id)
        ended = restored = 0
        for _ in range(MOST_SWEPT // SWEPT_AT_A_TIME):
            sweep = self._runtime.store.mending.sweep(
                run.id, self._cursors.get(run.id, "0"), grace=self._longest_call(run) + GRACE
            )
            self._cursors[run.id] = sweep.cursor
            ended += sweep.ended
            if sweep.adrift:
                restored += self._runtime.store.mending.restore(run, sweep.adrift, self._priority(run))
            if sweep.cursor == "0":
                break
        if ended:
            logger.info("jobs ended whose time was over", run_id=run.id, jobs=ended)
        if restored:
            logger.warning("jobs without a message put back", run_id=run.id, jobs=restored)

    def _longest_call(self, run: Run) -> timedelta:
        try:
            return self._runtime.definitions.get(run.definition).timeout
        except TaskNotFound:
            return LONGEST_CALL

    def _priority(self, run: Run) -> Priority:
        try:
            return self._runtime.definitions.get(run.definition).priority
        except TaskNotFound:
            return Priority.NORMAL
