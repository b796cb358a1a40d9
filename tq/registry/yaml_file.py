"""Task types from tasks.yaml.

The keys of a task are the fields of `TaskType`. The tasks are a list under `tasks`, a list that is
the whole file, or a mapping from id to task under `tasks`. All that is wrong with a file is told
at once, in the order of its lines.

`${NAME}` in endpoint and headers stays as it is, so that no secret is stored with the definition;
it is filled in when the call is made. That the variable exists is checked here, while somebody is
looking.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from tq.models import TaskId, TaskType
from tq.registry.faults import (
    Declaration,
    Fault,
    Key,
    Place,
    did_you_mean,
    faults_in,
    invalid_definition,
    line_for,
    missing_variables,
    name_for,
    shown,
)
from tq.registry.written import Repeated, Written, read_yaml


def read_tasks_file(path: Path, environ: Mapping[str, str]) -> dict[TaskId, TaskType]:
    """The task types that the file declares, in its order.

    Raises:
        InvalidDefinition: one line for each thing that is wrong, with file, line, task, key, what
            was found and what is allowed; at most 20, then how many more.
    """
    return {declared.task.id: declared.task for declared in read_declarations(path, environ)}


def read_declarations(path: Path, environ: Mapping[str, str]) -> list[Declaration]:
    """As `read_tasks_file`, with the place of each."""
    return _TasksFile(path, environ).declarations()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One task of the file: the key that leads to it from the top, and how faults name it."""

    key: Key
    name: str
    written: Written


class _TasksFile:
    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._faults: list[tuple[int, str]] = []

    def declarations(self) -> list[Declaration]:
        root, repeated = read_yaml(self._path)
        entries = list(self._entries(root))
        self._check_repeated(repeated, entries)
        self._check_ids(entries)
        declarations = [declared for entry in entries for declared in self._declared(entry)]
        if self._faults:
            # By line alone: what was found first about a line stays first.
            raise invalid_definition(line for _, line in sorted(self._faults, key=lambda fault: fault[0]))
        return declarations

    def _entries(self, root: Written) -> Iterator[_Entry]:
        if isinstance(root.value, list):
            yield from self._listed(root, ())
            return
        for key in root.value if isinstance(root.value, dict) else ():
            if key != "tasks":
                text = f"is not a known key; known is tasks{did_you_mean(key, ['tasks'])}"
                self._fault(root.line_of((key,)), "", Fault((key,), text))
        tasks = root.parts.get("tasks")
        if tasks is None and not self._faults:
            self._fault(
                root.line, "", Fault(("tasks",), "is missing; write tasks: and a list of tasks below it")
            )
        elif tasks is None:
            return  # the key that stands in its place is told already
        elif isinstance(tasks.value, list):
            yield from self._listed(tasks, ("tasks",))
        elif isinstance(tasks.value, dict):
            yield from self._named(tasks)
        else:
            # An empty list has to be written out: a file that is cut short must not remove every task.
            found = "nothing is written" if tasks.value is None else f"{shown(tasks.value)} is not a list"
            text = f"{found}; write a list of tasks, or [] for no tasks at all"
            self._fault(tasks.line, "", Fault(("tasks",), text))

    def _listed(self, tasks: Written, key: Key) -> Iterator[_Entry]:
        for index, written in tasks.parts.items():
            task_id = written.parts["id"].value if "id" in written.parts else None
            yield _Entry((*key, index), name_for(task_id, otherwise=f"task {int(index) + 1}"), written)

    def _named(self, tasks: Written) -> Iterator[_Entry]:
        for number, (task_id, written) in enumerate(tasks.parts.items(), 1):
            name = name_for(task_id, otherwise=f"task {number}")
            yield _Entry(("tasks", task_id), name, self._with_id(str(task_id), name, written))

    def _with_id(self, task_id: str, name: str, written: Written) -> Written:
        if not isinstance(written.value, dict):
            return written
        own = written.value.get("id", task_id)
        if own != task_id:
            text = f"{shown(own)} differs from {shown(task_id)}, the key that the task stands under; drop it"
            self._fault(written.line_of(("id",)), name, Fault(("id",), text))
        return replace(
            written,
            value={**written.value, "id": task_id},
            parts={"id": Written(written.line, task_id), **written.parts},
        )

    def _check_repeated(self, repeated: Sequence[Repeated], entries: list[_Entry]) -> None:
        named = {entry.key: entry.name for entry in entries}
        for again in repeated:
            depth = next((depth for depth in (1, 2) if again.key[:depth] in named), 0)
            text = f"is written twice, first in line {again.first_line}; drop one"
            self._fault(again.line, named.get(again.key[:depth], ""), Fault(again.key[depth:], text))

    def _check_ids(self, entries: list[_Entry]) -> None:
        lines: dict[object, int] = {}
        for entry in entries:
            task_id = entry.written.parts.get("id")
            if task_id is None or not isinstance(task_id.value, str):
                continue
            if task_id.value in lines:
                text = f"is declared twice, first in line {lines[task_id.value]}; give one of them another id"
                self._fault(task_id.line, entry.name, Fault(("id",), text))
            lines.setdefault(task_id.value, task_id.line)

    def _declared(self, entry: _Entry) -> Iterator[Declaration]:
        try:
            task = TaskType.model_validate(entry.written.value)
        except ValidationError as error:
            faults = faults_in(error, entry.written.value)
        else:
            faults = missing_variables(task, self._environ)
            yield Declaration(task, Place(self._path, entry.written.line))
        for fault in faults:
            self._fault(entry.written.line_of(fault.key), entry.name, fault)

    def _fault(self, line: int, name: str, fault: Fault) -> None:
        self._faults.append((line, line_for(Place(self._path, line), name, fault)))
