"""Task types that Python modules declare with `@task`.

Importing a module declares its tasks. What is decorated stays what it was, so that a test calls a
function directly; a worker finds it again by its module and name.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from tq.errors import InvalidDefinition
from tq.executors import Executor
from tq.models import (
    Interval,
    Job,
    Missed,
    Overlap,
    Priority,
    RateBand,
    TaskConfig,
    TaskId,
    TaskType,
    Window,
)
from tq.registry.faults import (
    Declaration,
    Fault,
    Place,
    faults_in,
    invalid_definition,
    line_for,
    name_for,
)

Decorated = TypeVar("Decorated", bound=Callable[[Job], object] | type[Executor])

_declared: dict[TaskId, tuple[str, Declaration]] = {}  # with the path of what was decorated


def task(
    task_id: str,
    /,
    *,
    interval: Interval | Mapping[str, Any],
    name: str | None = None,
    description: str | None = None,
    executor: str | None = None,
    window: Window | timedelta | str | float | None = None,
    timeout: timedelta | str | float | None = None,
    retries: int | None = None,
    retry_delay: timedelta | str | float | None = None,
    retry_after_max: timedelta | str | float | None = None,
    rate_limit: float | str | RateBand | Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    priority: Priority | Literal["high", "normal", "low"] | None = None,
    missed: Missed | Literal["latest", "skip", "all"] | None = None,
    catchup_window: timedelta | str | float | None = None,
    overlap: Overlap | Literal["replace", "skip", "allow"] | None = None,
    max_lateness: timedelta | str | float | None = None,
    config: TaskConfig | Mapping[str, Any] | None = None,
) -> Callable[[Decorated], Decorated]:
    """Declare a task type that the decorated function, or class with a method `execute`, carries out.

    The options are the keys of tasks.yaml and mean the same; durations are a timedelta, a number
    of seconds, or text such as `5m`; a rate is a number of calls per second, or text such as `30/m`.
    What is left out has the default it has there. With `executor`, that executor carries the task out
    in place of what is decorated.

    Raises:
        InvalidDefinition: when it decorates; names file, line and key, what was found and what is
            allowed. Also if another function declares the same id.
    """
    caller = sys._getframe(1)
    place = Place(Path(caller.f_code.co_filename), caller.f_lineno)
    options = {
        "name": name,
        "description": description,
        "window": window,
        "timeout": timeout,
        "retries": retries,
        "retry_delay": retry_delay,
        "retry_after_max": retry_after_max,
        "rate_limit": rate_limit,
        "concurrency": concurrency,
        "priority": priority,
        "missed": missed,
        "catchup_window": catchup_window,
        "overlap": overlap,
        "max_lateness": max_lateness,
        "config": config,
    }

    def declare(decorated: Decorated) -> Decorated:
        path = _path_of(decorated, place, task_id)
        definition = {
            "id": task_id,
            "interval": interval,
            "executor": executor or path,
            **{key: value for key, value in options.items() if value is not None},
        }
        _add(path, Declaration(_validated(definition, place), place))
        return decorated

    return declare


def declared() -> dict[TaskId, Declaration]:
    """The task types declared so far in this process, with the place of each; a copy."""
    return {task_id: declaration for task_id, (_, declaration) in _declared.items()}


def _path_of(decorated: Any, place: Place, task_id: str) -> str:
    name = name_for(task_id, otherwise="@task")
    if isinstance(decorated, type) and not callable(getattr(decorated, "execute", None)):
        text = f"class {decorated.__name__} has no method execute; write one that takes a job and returns an ExecutionResult"
        raise _refused(place, name, Fault(("executor",), text))
    path = f"{decorated.__module__}:{decorated.__qualname__}"
    if "<" in path:  # <locals> or <lambda>
        text = f"{path} cannot be found by a worker; give it a name at the top level of a module"
        raise _refused(place, name, Fault(("executor",), text))
    return path


def _validated(definition: dict[str, Any], place: Place) -> TaskType:
    try:
        return TaskType.model_validate(definition)
    except ValidationError as error:
        name = name_for(definition["id"], otherwise="@task")
        lines = [line_for(place, name, fault) for fault in faults_in(error, definition)]
        raise invalid_definition(lines) from None


def _add(path: str, declaration: Declaration) -> None:
    task_id = declaration.task.id
    if task_id in _declared:
        first_path, first = _declared[task_id]
        # The same function again is its module being loaded again: then the newer one holds.
        if first_path != path:
            text = f"is declared twice, first at {first.place}; give one of them another id"
            raise _refused(declaration.place, task_id, Fault(("id",), text))
    _declared[task_id] = (path, declaration)


def _refused(place: Place, name: str, fault: Fault) -> InvalidDefinition:
    return invalid_definition([line_for(place, name, fault)])
