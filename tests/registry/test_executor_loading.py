"""From the name of an executor to the object."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tq.errors import ExecutorUnavailable
from tq.executors import Executor, Executors, load_executor
from tq.testing import FakeExecutor
from tq.testing.builders import make_job, make_task

WriteModule = Callable[[str, str], Path]

GOOD_MODULE = """\
from tq.models import ExecutionResult

class SmsExecutor:
    def execute(self, job):
        return ExecutionResult.success(body="class")

class AsyncExecutor:
    async def execute(self, job):
        return ExecutionResult.success(body="async class")

class Outer:
    class Inner(SmsExecutor):
        pass

ready = SmsExecutor()

def send(job):
    return ExecutionResult.success(body="function")

async def send_later(job):
    return ExecutionResult.success(body="async function")
"""


def problem_with(path: str) -> str:
    """The message of an executor that cannot be had."""
    with pytest.raises(ExecutorUnavailable) as raised:
        load_executor(path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("SmsExecutor", "class"),
        ("AsyncExecutor", "async class"),
        ("Outer.Inner", "class"),
        ("ready", "class"),
        ("send", "function"),
        ("send_later", "async function"),
    ],
)
def test_a_class_an_object_and_a_function_can_each_be_an_executor(
    write_module: WriteModule, name: str, body: str
) -> None:
    write_module("executors_a", GOOD_MODULE)

    result = load_executor(f"executors_a:{name}").execute(make_job())

    assert result.body == body


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("myapp.executors.SmsExecutor", "; did you mean myapp.executors:SmsExecutor?"),
        ("SmsExecutor", ""),
        ("", ""),
        ("myapp:", ""),
        (":SmsExecutor", ""),
        ("myapp/executors.py:SmsExecutor", ""),
    ],
)
def test_a_path_of_another_form_is_told_with_the_one_that_was_meant(path: str, hint: str) -> None:
    assert problem_with(path) == f"executor {path!r} is not of the form package.module:Name{hint}"


def test_a_module_that_is_missing_is_told_with_the_remedy() -> None:
    assert problem_with("not_here.executors:Sms") == (
        "executor 'not_here.executors:Sms': there is no module 'not_here'; write its name as in an import "
        "statement, and install it or start in the directory that holds it"
    )


def test_a_name_that_is_missing_is_told_with_the_one_that_was_meant(write_module: WriteModule) -> None:
    write_module("executors_b", GOOD_MODULE)

    near, far = problem_with("executors_b:SmsExecuter"), problem_with("executors_b:zzz")

    assert (
        near
        == "executor 'executors_b:SmsExecuter': executors_b has no SmsExecuter; did you mean SmsExecutor?"
    )
    assert far.startswith("executor 'executors_b:zzz': executors_b has no zzz; define it there")


@pytest.mark.parametrize(
    ("source", "line", "cause"),
    [
        ("import tq\nimport not_installed\n", 2, "ModuleNotFoundError: No module named 'not_installed'"),
        (
            "\n\nfrom tq.models import Nonsense\n",
            3,
            "ImportError: cannot import name 'Nonsense' from 'tq.models'",
        ),
        ("def send(job:\n", 1, "SyntaxError: '(' was never closed"),
        ("import os\nKEY = os.environ['TQ_NOT_SET']\n", 2, "KeyError: 'TQ_NOT_SET'"),
        (
            "from tq.models import Interval\nNINE = Interval.daily(at='9h')\n",
            2,
            "ValueError: '9h' is not a time",
        ),
    ],
)
def test_a_module_that_fails_is_told_with_its_own_line_and_reason(
    write_module: WriteModule, source: str, line: int, cause: str
) -> None:
    path = write_module("executors_c", source)

    problem = problem_with("executors_c:send")

    assert problem.startswith(
        f"executor 'executors_c:send': module 'executors_c' cannot be imported: {path}:{line}: {cause}"
    )
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("thing = 7", "int is no executor; name a function of one job, or a class or an object"),
        ("class thing: pass", "class thing has no method execute; write one that takes a job"),
        (
            "class thing:\n    def __init__(self, url): ...\n    def execute(self, job): ...",
            "thing() failed: TypeError: ",
        ),
        (
            "class thing:\n    def __init__(self): raise KeyError('SMS_URL')\n    def execute(self, job): ...",
            "thing() failed: ",
        ),
    ],
)
def test_what_is_no_executor_is_told(write_module: WriteModule, source: str, expected: str) -> None:
    write_module("executors_d", source)

    problem = problem_with("executors_d:thing")

    assert problem.startswith("executor 'executors_d:thing': ")
    assert expected in problem
    assert "\n" not in problem


def test_a_task_without_an_executor_is_called_over_http() -> None:
    http = FakeExecutor()

    assert Executors(http).for_task(make_task()) is http


def test_a_custom_executor_is_made_once_for_all_tasks_and_threads(write_module: WriteModule) -> None:
    write_module("executors_e", GOOD_MODULE)
    executors = Executors(FakeExecutor())
    together = threading.Barrier(8)
    found: list[Executor] = []

    def find(number: int) -> None:
        together.wait()
        found.append(executors.for_task(make_task(f"task_{number}", executor="executors_e:SmsExecutor")))

    threads = [threading.Thread(target=find, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_an_executor_that_was_missing_is_looked_for_again(write_module: WriteModule) -> None:
    executors = Executors(FakeExecutor())
    task = make_task(executor="executors_f:ready")
    write_module("executors_f", "import not_installed")
    with pytest.raises(ExecutorUnavailable):
        executors.for_task(task)
    write_module("executors_f", GOOD_MODULE)

    assert executors.for_task(task).execute(make_job()).body == "class"
