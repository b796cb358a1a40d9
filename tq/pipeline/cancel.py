"""Ending a run before its time."""

from loguru import logger

from tq.errors import InvalidInput
from tq.models import Run, RunId, RunStatus
from tq.runtime import Runtime


def cancel_run(runtime: Runtime, run_id: RunId, *, reason: str = "") -> Run:
    """Has no further call of a run begin; what has not ended ends as cancelled. Asking twice is no error.

    Raises:
        RunNotFound: if there is no such run.
        InvalidInput: if it has ended already.
    """
    status = runtime.store.runs.cancel(run_id, reason=reason)
    run = runtime.store.runs.get(run_id)
    if status != RunStatus.RUNNING:
        raise InvalidInput(f"run {run_id!r} is {status}, there is nothing left to cancel")
    logger.info("run cancelled on request", run_id=run_id, reason=reason)
    return run
