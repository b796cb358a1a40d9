"""Identifiers: their form, and how those of runs and jobs follow from what they identify.

A job's id is the same for every attempt and independent of the cohort through which its user
was reached, so that an endpoint can recognise a repetition whatever went wrong in between.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, NewType

from pydantic import StringConstraints

TaskId = NewType("TaskId", str)
UserId = NewType("UserId", str)
RunId = NewType("RunId", str)
JobId = NewType("JobId", str)

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_:@.-]{0,99}$"
ID_RULE = "1 to 100 letters, digits or any of _ : @ . -, beginning with a letter or digit"

TaskIdField = Annotated[TaskId, StringConstraints(pattern=ID_PATTERN)]
UserIdField = Annotated[UserId, StringConstraints(pattern=ID_PATTERN)]


def scheduled_run_id(task_id: TaskId, nominal_at: datetime) -> RunId:
    """The id of a task's run for one nominal instant; two schedulers arrive at the same."""
    return RunId(f"{task_id}~{nominal_at:%Y%m%dT%H%M%SZ}")


def manual_run_id(task_id: TaskId, request_key: str) -> RunId:
    """The id of a run that was asked for; the same request key names the same run."""
    digest = hashlib.blake2b(request_key.encode(), digest_size=8).hexdigest()
    return RunId(f"{task_id}~m{digest}")


def job_id_of(run_id: RunId, user_id: UserId) -> JobId:
    """The id of one user's part of a run: URL-safe and without dots, as Standard Webhooks asks.

    A scheduled run's id is made of task and nominal instant alone, so this is a hash of task,
    kind, nominal instant and user.
    """
    return job_ids_of(run_id, (user_id,))[0]


def job_ids_of(run_id: RunId, user_ids: Iterable[UserId]) -> list[JobId]:
    """The ids of many users' parts of a run, in the order of the users."""
    begun = _begun(run_id)
    ids = []
    for user_id in user_ids:
        digest = begun.copy()
        digest.update(user_id.encode())
        ids.append(JobId(f"job_{digest.hexdigest()}"))
    return ids


@lru_cache(maxsize=256)
def _begun(run_id: RunId) -> hashlib.blake2b:
    # Hashed once for all jobs of a run: a third of the time.
    return hashlib.blake2b(f"{run_id}\0".encode(), digest_size=16)


def message_id_of(job_id: JobId, attempt: int) -> str:
    """The id of the message that has an attempt at a job made; a repetition has the same."""
    return f"{job_id}-{attempt}"
