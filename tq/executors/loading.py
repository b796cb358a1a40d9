"""From the name of an executor, as a task gives it, to the object that carries jobs out.

The modules that are imported here are the operator's own. Their code may fail in any way while
it is imported, and what an operator needs then is the cause in that code, not the fact that an
import failed.
"""

import importlib
import inspect
import os
import re
import sysconfig
import traceback
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from types import ModuleType

from tq.errors import ExecutorUnavailable
from tq.executors.base import Executor
from tq.executors.functions import FunctionExecutor
from tq.models import TaskType

_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")
# Where the operator's own code is not: within Python, what is installed, and this package.
_NOT_THEIRS = (
    "<frozen ",
    sysconfig.get_path("stdlib") + os.sep,
    sysconfig.get_path("purelib") + os.sep,
    str(Path(__file__).parents[1]) + os.sep,
)
_LONGEST_CAUSE = 300  # characters; a validation error of pydantic alone can fill a screen
# What code raises for reasons that lie in it or in its surroundings, while it is imported or an
# executor is made.
_CODE_FAILED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Executors:
    """The executor of each task: one for all calls over HTTP, and the custom ones, each made once."""

    def __init__(self, http: Executor) -> None:
        self._http = http
        self._loaded: dict[str, Executor] = {}
        self._loading = Lock()

    def for_task(self, task: TaskType) -> Executor:
        """The executor that the task names, or the one for HTTP if it names none.

        Raises:
            ExecutorUnavailable: as `load_executor`; the next call tries again.
        """
        if task.executor is None:
            return self._http
        if task.executor not in self._loaded:
            with self._loading:
                if task.executor not in self._loaded:
                    self._loaded[task.executor] = load_executor(task.executor)
        return self._loaded[task.executor]


def load_executor(path: str) -> Executor:
    """The executor at `package.module:Name`.

    A class with a method `execute` is made without arguments, an object with such a method is
    used as it is, and a function is called with the job.

    Raises:
        ExecutorUnavailable: names the path, what is wrong with it, and the remedy.
    """
    parts = _PATH.fullmatch(path)
    if parts is None:
        raise ExecutorUnavailable(f"executor {path!r} is not of the form package.module:Name{_meant(path)}")
    try:
        module = import_operators_module(parts[1])
    except ExecutorUnavailable as error:
        raise ExecutorUnavailable(f"executor {path!r}: {error}") from error
    return _as_executor(_named(module, parts[2], path), path)


def import_operators_module(name: str) -> ModuleType:
    """The module of that dotted name.

    Raises:
        ExecutorUnavailable: names the module and the remedy, and, if the module is there but
            fails, the line of its code and the reason.
        TaskQueueError: as it came, if the module's own declarations raise one.
    """
    try:
        return importlib.import_module(name)
    except _CODE_FAILED as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ExecutorUnavailable(
                f"there is no module {error.name!r}; write its name as in an import statement, and install it "
                "or start in the directory that holds it"
            ) from error
        raise ExecutorUnavailable(
            f"module {name!r} cannot be imported: {_cause(error)}; mend it there"
        ) from error


def _named(module: ModuleType, name: str, path: str) -> object:
    thing: object = module
    for part in name.split("."):
        if not hasattr(thing, part):
            near = get_close_matches(part, dir(thing), n=1)
            hint = f"did you mean {near[0]}?" if near else "define it there, or name the module that has it"
            raise ExecutorUnavailable(f"executor {path!r}: {module.__name__} has no {name}; {hint}")
        thing = getattr(thing, part)
    return thing


def _as_executor(thing: object, path: str) -> Executor:
    executor = _made(thing, path) if isinstance(thing, type) else thing
    execute = getattr(executor, "execute", None)
    if inspect.iscoroutinefunction(execute):
        return FunctionExecutor(execute)
    if callable(execute):
        return executor  # type: ignore[return-value]  # it has the method; what it returns is its author's promise
    if callable(executor):
        return FunctionExecutor(executor)
    raise ExecutorUnavailable(
        f"executor {path!r}: {type(thing).__name__} is no executor; "
        "name a function of one job, or a class or an object with a method execute(job)"
    )


def _made(cls: type, path: str) -> object:
    if not callable(getattr(cls, "execute", None)):
        raise ExecutorUnavailable(
            f"executor {path!r}: class {cls.__name__} has no method execute; "
            "write one that takes a job and returns an ExecutionResult"
        )
    try:
        return cls()
    except _CODE_FAILED as error:
        raise ExecutorUnavailable(
            f"executor {path!r}: {cls.__name__}() failed: {_cause(error)}; it is made without arguments"
        ) from error


def _cause(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_CAUSE]
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {text}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THEIRS):
            return f"{frame.filename}:{frame.lineno}: {text}"
    return text


def _meant(path: str) -> str:
    module, _, name = path.rpartition(".")
    meant = f"{module}:{name}"
    return f"; did you mean {meant}?" if ":" not in path and _PATH.fullmatch(meant) else ""
