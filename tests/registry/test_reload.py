"""A process keeps in step with tasks.yaml, and never with a broken one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tq.errors import InvalidDefinition
from tq.registry import WatchedRegistry
from tq.settings import Settings

GOOD = "tasks:\n  - {id: digest, interval: {type: daily}, config: {endpoint: https://example.com}}\n"
BROKEN = "tasks:\n  - {id: digest, interval: {type: daly}, config: {endpoint: https://example.com}}\n"
MENDED = GOOD.replace("digest", "mended")

WriteModule = Callable[[str, str], Path]


def watched(text: str, *modules: str) -> WatchedRegistry:
    """The registry of a process that began with this tasks.yaml."""
    Path("tasks.yaml").write_text(text)
    return WatchedRegistry(Settings(tasks_file=Path("tasks.yaml"), task_modules=modules))


def ids(registry: WatchedRegistry) -> list[str]:
    """The ids of the tasks in force."""
    return [str(task_id) for task_id in registry.current.tasks]


pytestmark = pytest.mark.usefixtures("directory")


def test_an_unchanged_file_is_not_read_again() -> None:
    registry = watched(GOOD)
    before = registry.current

    taken = registry.refresh()

    assert not taken
    assert registry.current is before


def test_a_changed_file_is_taken() -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(MENDED)

    taken = registry.refresh()

    assert taken
    assert ids(registry) == ["mended"]
    assert registry.problem is None


def test_a_file_of_the_same_size_and_another_time_is_taken() -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(GOOD.replace("digest", "report"))
    os.utime("tasks.yaml", ns=(0, 1))

    assert registry.refresh()
    assert ids(registry) == ["report"]


def test_a_broken_file_keeps_the_old_set_and_says_why(warnings: list[str]) -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(BROKEN)

    taken = registry.refresh()

    assert not taken
    assert ids(registry) == ["digest"]
    assert registry.problem is not None
    assert registry.problem.startswith(
        "tasks.yaml:2: digest: interval.type: 'daly' is not one of the choices;"
    )
    (warning,) = warnings
    assert warning.startswith("task definitions not reloaded ")
    assert "interval.type" in warning


def test_a_broken_file_is_told_once_until_it_changes_again(warnings: list[str]) -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(BROKEN)
    registry.refresh()
    registry.refresh()
    once = len(warnings)
    Path("tasks.yaml").write_text(BROKEN + "# still\n")

    registry.refresh()

    assert (once, len(warnings)) == (1, 2)


def test_a_mended_file_is_taken_and_ends_the_problem() -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(BROKEN)
    registry.refresh()
    Path("tasks.yaml").write_text(MENDED)

    taken = registry.refresh()

    assert taken
    assert ids(registry) == ["mended"]
    assert registry.problem is None


def test_a_problem_that_lies_in_the_env_file_ends_when_that_is_mended() -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").write_text(MENDED.replace("https://example.com", '"${TQ_CASE_URL}"'))
    registry.refresh()
    problem = registry.problem
    Path(".env").write_text("TQ_CASE_URL=https://example.com\n")

    taken = registry.refresh()

    assert problem is not None
    assert "${TQ_CASE_URL} is not in the environment" in problem
    assert taken
    assert ids(registry) == ["mended"]


@pytest.mark.parametrize("module", [True, False])
def test_a_file_that_is_gone_keeps_the_old_set(write_module: WriteModule, module: bool) -> None:
    write_module("no_tasks_here", "")
    registry = watched(GOOD, *(["no_tasks_here"] if module else []))
    Path("tasks.yaml").unlink()

    taken = registry.refresh()

    assert not taken
    assert ids(registry) == ["digest"]
    assert registry.problem is not None
    assert registry.problem.startswith("tasks.yaml: is not there any more; put it back")


def test_a_file_that_comes_back_is_taken() -> None:
    registry = watched(GOOD)
    Path("tasks.yaml").unlink()
    registry.refresh()
    Path("tasks.yaml").write_text(MENDED)

    assert registry.refresh()
    assert ids(registry) == ["mended"]


def test_modules_are_read_once(write_module: WriteModule) -> None:
    source = "from tq.registry import task\n\n@task('{}', interval={{'type': 'daily'}})\ndef run(job): ...\n"
    write_module("tasks_read_once", source.format("first"))
    registry = watched(GOOD, "tasks_read_once")
    write_module("tasks_read_once", source.format("second"))
    Path("tasks.yaml").write_text(MENDED)

    registry.refresh()

    assert ids(registry) == ["mended", "first"]


def test_a_process_does_not_begin_with_a_broken_file() -> None:
    with pytest.raises(InvalidDefinition):
        watched(BROKEN)
