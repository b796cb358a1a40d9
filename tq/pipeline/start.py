"""Starting a run that somebody asks for."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from loguru import logger

from tq.errors import InvalidInput, RunNotFound, TaskNotFound
from tq.models import Overlap, Run, RunId, RunKind, TaskId, UserId, manual_run_id
from tq.models.runs import EVERYBODY, NAMED
from tq.runtime import Runtime
from tq.store.planning import ShareClaim

# A run that was asked for has no window; whoever is not served within a day has another run by then.
MANUAL_LATENESS = timedelta(hours=24)
# Users that are named one by one travel in one request.
MOST_NAMED = 10_000


def start_run(
    runtime: Runtime,
    task_id: TaskId,
    *,
    user_ids: Sequence[UserId] | None = None,
    request_key: str | None = None,
) -> Run:
    """Starts a run for everybody who has the task enabled, or for the users named.

    The same request key names the same run, however often it is asked for.

    Raises:
        TaskNotFound: if the task is not defined, here or in the definitions in force.
        InvalidInput: if a named user does not have the task enabled, or the request key names a run
            for everybody and this one is not, or the other way round; then nothing is started.
    """
    planning = runtime.store.planning
    look = planning.look(limit=0)
    if runtime.definitions.publish(look):
        look = planning.look(limit=0)
    in_force = runtime.definitions.in_force(look.fingerprint)
    if task_id not in in_force:
        runtime.registry.current.get(task_id)
        raise TaskNotFound(f"task {task_id!r} is declared here but not in force; see tq tasks list")
    definition, task = in_force[task_id]
    run_id = manual_run_id(task_id, request_key or uuid.uuid4().hex)
    there = _run_of(runtime, run_id, named=user_ids is not None)
    if there is not None:
        return there
    if user_ids is None:
        cohort = EVERYBODY
        if not runtime.store.preferences.cells(task_id):
            raise InvalidInput(f"nobody has {task_id!r} enabled; see tq users enable --help")
    else:
        cohort = NAMED
        _check_named(runtime, task_id, user_ids)
        planning.ask_for(run_id, task_id, user_ids, keep=MANUAL_LATENESS)
    share = ShareClaim(cohort, start_at=look.now, spread=timedelta(0), deadline_at=look.now + MANUAL_LATENESS)
    with runtime.traces.step(f"trigger {task_id}"):
        runtime.traces.tell({"tq.task.name": task_id, "tq.run.id": run_id})
        planning.claim(
            run_id,
            task=task,
            definition=definition,
            kind=RunKind.MANUAL,
            nominal_at=look.now,
            overlap=Overlap.ALLOW,
            shares=[share],
            distribution=runtime.transport.distribution_message(run_id, cause=runtime.traces.traceparent),
            distribute_in=timedelta(0),
        )
    logger.info("run started on request", run_id=run_id, task_id=task_id)
    return runtime.store.runs.get(run_id)


def _run_of(runtime: Runtime, run_id: RunId, *, named: bool) -> Run | None:
    """The run that the request key names already, if there is one; it is for whom it was asked for first."""
    try:
        run = runtime.store.runs.get(run_id)
    except RunNotFound:
        return None
    if (run.shares[0].cohort == NAMED) != named:
        audience = "everybody" if named else "users who were named"
        raise InvalidInput(
            f"this request key names the run {run_id}, which is for {audience}; use another key"
        )
    return run


def _check_named(runtime: Runtime, task_id: TaskId, user_ids: Sequence[UserId]) -> None:
    if not user_ids or len(user_ids) > MOST_NAMED:
        raise InvalidInput(
            f"{len(user_ids)} users are named; name 1 to {MOST_NAMED:,}, or none for everybody"
        )
    enrolled = runtime.store.preferences.enrolled(task_id, user_ids)
    for user_id, enabled in enrolled.items():
        if not enabled:
            raise InvalidInput(
                f"user {user_id!r} does not have {task_id!r} enabled; see tq users enable --help"
            )
