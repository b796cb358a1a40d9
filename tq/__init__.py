"""Recurring work for very many users: what task modules need.

    from tq import Interval, Job, task

    @task("weekly_report", interval=Interval.weekly("mon", at="08:00"))
    def weekly_report(job: Job) -> None: ...

Each name is imported when it is first asked for, so that a command that needs none starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tq.executors import Executor
    from tq.models import ErrorDetail, ExecutionResult, Interval, Job, Outcome, TaskConfig, TaskType
    from tq.registry import task

__all__ = [
    "ErrorDetail",
    "ExecutionResult",
    "Executor",
    "Interval",
    "Job",
    "Outcome",
    "TaskConfig",
    "TaskType",
    "task",
]
_ELSEWHERE = {"Executor": "tq.executors", "task": "tq.registry"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tq' has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_ELSEWHERE.get(name, "tq.models")), name)
