"""What is to be expected of a run that has not ended."""

from tq.errors import TaskNotFound
from tq.forecast import Forecast, expected_end
from tq.models import Run, RunKind, RunStatus
from tq.models.runs import Wait
from tq.runtime import Runtime


def forecast(runtime: Runtime, run: Run) -> Forecast | None:
    """When a run will have ended, or what holds it; None if it has ended."""
    if run.status is not RunStatus.RUNNING:
        return None
    try:
        task = runtime.definitions.get(run.definition)
    except TaskNotFound as error:
        return Forecast(None, held=str(error))
    outlook = runtime.outlook(task)
    if outlook.held:
        return Forecast(None, held=outlook.why)
    counts = run.counts
    if run.waits_for is Wait.RETRIES:
        return Forecast(
            None, held=f"{counts.waiting:,} jobs wait for their retry; new ones are sent when they are fewer"
        )
    if run.fanned_out and counts.open == counts.waiting:
        return Forecast(None, held=f"the last {counts.waiting:,} jobs wait for their retry")
    others = runtime.store.runs.out_of_room(run.task_id) - {run.id}
    ends_at = expected_end(
        run.shares,
        runtime.store.runs.members_left(run),
        open_jobs=counts.open,
        rate=outlook.rate / (len(others) + 1),
        now=runtime.store.now(),
    )
    in_time = ends_at <= run.deadline_at
    return Forecast(
        min(ends_at, run.deadline_at),
        in_time=in_time,
        next_goes_on=not in_time and run.kind is RunKind.SCHEDULE,
    )
