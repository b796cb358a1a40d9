"""All task types of this process, from tasks.yaml and from Python modules, under one id each."""

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType, ModuleType

import orjson
from dotenv import dotenv_values

from tq.errors import ExecutorUnavailable, InvalidDefinition, TaskNotFound
from tq.executors.loading import import_operators_module
from tq.models import TaskId, TaskType
from tq.registry.faults import (
    Declaration,
    Fault,
    invalid_definition,
    line_for,
    missing_variables,
    near_miss,
    shown,
)
from tq.registry.python_tasks import declared
from tq.registry.yaml_file import read_declarations
from tq.settings import Settings


class Registry:
    """A fixed set of task types; another set is another Registry."""

    def __init__(self, tasks: Mapping[TaskId, TaskType], *, modified_ms: int = 0) -> None:
        self.tasks: Mapping[TaskId, TaskType] = MappingProxyType(dict(tasks))
        # When the newest of the files changed, in ms since the epoch; 0 if no file is behind this.
        self.modified_ms = modified_ms
        # The same for the same definitions, in whatever order they are declared.
        self.fingerprint = _digest("\n".join(sorted(map(task_fingerprint, tasks.values()))).encode())

    @classmethod
    def of(cls, tasks: Iterable[TaskType]) -> "Registry":
        """The registry of definitions that stand in no file.

        Raises:
            InvalidDefinition: if two have the same id.
        """
        by_id: dict[TaskId, TaskType] = {}
        for task in tasks:
            if by_id.setdefault(task.id, task) is not task:
                raise InvalidDefinition(f"task {task.id!r} is given twice; give one of them another id")
        return cls(by_id)

    def get(self, task_id: str) -> TaskType:
        """The task type of that id.

        Raises:
            TaskNotFound: with what was probably meant, and how many there are.
        """
        task = self.tasks.get(TaskId(task_id))
        if task is None:
            near = near_miss(task_id, self.tasks)
            hint = f"did you mean {near!r}?" if near else "look at `tq tasks list`"
            raise TaskNotFound(f"no task {shown(task_id)} among the {len(self.tasks)} defined; {hint}")
        return task


def load_registry(settings: Settings) -> Registry:
    """The task types that the settings name, after importing their modules.

    A file that is not there is no error when modules are named.

    Raises:
        InvalidDefinition: one line for each thing that is wrong.
    """
    modules = [_imported(name) for name in settings.task_modules]
    files = [Path(module.__file__) for module in modules if module.__file__]
    environ = environment()
    in_python = declared()
    lines = [
        line_for(place, task.id, fault)
        for task, place in in_python.values()
        for fault in missing_variables(task, environ)
    ]
    in_file: list[Declaration] = []
    if not settings.task_modules or _is_there(settings.tasks_file):
        files.append(settings.tasks_file)
        in_file = read_declarations(settings.tasks_file, environ)
    for task, place in in_file:
        if task.id in in_python:
            text = f"is declared also at {in_python[task.id].place}; give one of them another id"
            lines.append(line_for(place, task.id, Fault(("id",), text)))
    if lines:
        raise invalid_definition(lines)
    declarations = [*in_file, *in_python.values()]
    return Registry(
        {task.id: task for task, _ in declarations},
        modified_ms=max((_modified_ms(file) for file in files), default=0),
    )


def environment() -> dict[str, str]:
    """The variables that `${NAME}` can name: those of the environment, then those in `.env`.

    Raises:
        InvalidDefinition: if there is a file `.env` that cannot be read.
    """
    try:
        in_file = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDefinition(f".env: cannot be read: {error}; make it a readable file in UTF-8") from None
    return {name: value for name, value in in_file.items() if value is not None} | dict(os.environ)


def task_fingerprint(task: TaskType) -> str:
    """16 hexadecimal digits that are the same for equal definitions, and only for them."""
    definition = orjson.loads(task.to_json())
    return _digest(orjson.dumps(definition, option=orjson.OPT_SORT_KEYS))


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def _imported(name: str) -> ModuleType:
    try:
        return import_operators_module(name)
    except ExecutorUnavailable as error:
        raise InvalidDefinition(f"TQ_TASK_MODULES: {error}, or take it out of TQ_TASK_MODULES") from error


def _is_there(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # there, but out of reach: reading it says why
    return True


def _modified_ms(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0
