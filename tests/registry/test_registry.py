"""The set of all task types: where it comes from, and how it is asked."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from tq.errors import InvalidDefinition, TaskNotFound
from tq.models import Interval, TaskId
from tq.registry import Registry, environment, load_registry, task_fingerprint
from tq.settings import Settings
from tq.testing.builders import make_task

WriteModule = Callable[[str, str], Path]

DIGEST_FILE = """\
tasks:
  - id: digest
    interval: {type: daily}
    config: {endpoint: https://example.com/digest}
"""
REPORT_MODULE = """\
from tq.models import Interval
from tq.registry import task

@task("report", interval=Interval.hourly())
def report(job):
    ...
"""


def settings_with(*modules: str) -> Settings:
    """Settings that name the modules, and tasks.yaml in the working directory."""
    return Settings(tasks_file=Path("tasks.yaml"), task_modules=modules)


def test_a_registry_holds_the_tasks_of_file_and_modules(directory: Path, write_module: WriteModule) -> None:
    (directory / "tasks.yaml").write_text(DIGEST_FILE)
    write_module("reports_a", REPORT_MODULE)

    registry = load_registry(settings_with("reports_a"))

    assert list(registry.tasks) == ["digest", "report"]
    assert registry.get("report").executor == "reports_a:report"


def test_without_a_file_the_modules_are_enough(write_module: WriteModule) -> None:
    write_module("reports_b", REPORT_MODULE)

    registry = load_registry(settings_with("reports_b"))

    assert list(registry.tasks) == ["report"]


@pytest.mark.usefixtures("directory")
def test_without_a_file_and_modules_the_path_and_the_setting_are_named() -> None:
    with pytest.raises(InvalidDefinition, match=r"^tasks\.yaml: there is no such file; .*TQ_TASKS_FILE"):
        load_registry(settings_with())


def test_a_module_that_does_not_exist_is_named_with_the_setting(directory: Path) -> None:
    (directory / "tasks.yaml").write_text(DIGEST_FILE)

    with pytest.raises(InvalidDefinition) as raised:
        load_registry(settings_with("nowhere.tasks"))

    assert str(raised.value).startswith("TQ_TASK_MODULES: there is no module 'nowhere'; ")


@pytest.mark.usefixtures("directory")
def test_a_module_that_fails_is_told_with_its_own_line_and_reason(write_module: WriteModule) -> None:
    path = write_module("reports_c", "import tq\n\nimport not_installed_here\n")

    with pytest.raises(InvalidDefinition) as raised:
        load_registry(settings_with("reports_c"))

    assert str(raised.value) == (
        f"TQ_TASK_MODULES: module 'reports_c' cannot be imported: {path}:3: "
        "ModuleNotFoundError: No module named 'not_installed_here'; mend it there, or take it out of TQ_TASK_MODULES"
    )


@pytest.mark.usefixtures("directory")
def test_a_bad_declaration_in_a_module_is_told_as_it_is(write_module: WriteModule) -> None:
    path = write_module("reports_d", REPORT_MODULE.replace("hourly()", "hourly(), retries=-1"))

    with pytest.raises(InvalidDefinition) as raised:
        load_registry(settings_with("reports_d"))

    assert str(raised.value) == f"{path}:4: report: retries: -1 is too small; write at least 0"


def test_an_id_in_file_and_module_names_both_places(directory: Path, write_module: WriteModule) -> None:
    (directory / "tasks.yaml").write_text(DIGEST_FILE.replace("digest", "report"))
    path = write_module("reports_e", REPORT_MODULE)

    with pytest.raises(InvalidDefinition) as raised:
        load_registry(settings_with("reports_e"))

    assert str(raised.value) == (
        f"tasks.yaml:2: report: id: is declared also at {path}:4; give one of them another id"
    )


@pytest.mark.usefixtures("directory")
def test_a_variable_that_a_declaration_needs_must_exist(write_module: WriteModule) -> None:
    path = write_module(
        "reports_f",
        REPORT_MODULE.replace("hourly()", "hourly(), config={'endpoint': '${TQ_CASE_URL}/report'}"),
    )

    with pytest.raises(InvalidDefinition) as raised:
        load_registry(settings_with("reports_f"))

    assert str(raised.value) == (
        f"{path}:4: report: config.endpoint: ${{TQ_CASE_URL}} is not in the environment; "
        "export TQ_CASE_URL=… or add it to .env"
    )


def test_a_variable_may_stand_in_the_env_file(directory: Path) -> None:
    (directory / "tasks.yaml").write_text(
        DIGEST_FILE.replace("https://example.com/digest", '"${TQ_CASE_URL}/digest"')
    )
    (directory / ".env").write_text("TQ_CASE_URL=https://example.com\n")

    registry = load_registry(settings_with())

    config = registry.get("digest").config
    assert config is not None
    assert config.endpoint == "${TQ_CASE_URL}/digest"


def test_the_environment_wins_over_the_env_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / ".env").write_text("TQ_CASE_A=from file\nTQ_CASE_B=from file\nTQ_CASE_C\n")
    monkeypatch.setenv("TQ_CASE_A", "from environment")

    environ = environment()

    assert (environ["TQ_CASE_A"], environ["TQ_CASE_B"]) == ("from environment", "from file")
    assert "TQ_CASE_C" not in environ


def test_an_env_file_that_cannot_be_read_is_told(directory: Path) -> None:
    (directory / ".env").write_bytes(b"TOKEN=\xff\n")

    with pytest.raises(InvalidDefinition, match=r"^\.env: cannot be read: "):
        environment()


def test_a_registry_is_as_new_as_its_newest_file(directory: Path, write_module: WriteModule) -> None:
    tasks_file = directory / "tasks.yaml"
    tasks_file.write_text(DIGEST_FILE)
    module = write_module("reports_g", REPORT_MODULE)
    os.utime(tasks_file, ns=(0, 1_700_000_000_123_456_789))
    os.utime(module, ns=(0, 1_600_000_000_000_000_000))

    registry = load_registry(settings_with("reports_g"))

    assert registry.modified_ms == 1_700_000_000_123
    assert Registry.of([make_task()]).modified_ms == 0


def test_a_task_that_is_not_defined_is_told_with_the_one_that_was_meant() -> None:
    registry = Registry.of([make_task("email_digest"), make_task("hourly_sync")])

    with pytest.raises(TaskNotFound) as near:
        registry.get("emial_digest")
    with pytest.raises(TaskNotFound) as far:
        registry.get("zzz")

    assert str(near.value) == "no task 'emial_digest' among the 2 defined; did you mean 'email_digest'?"
    assert str(far.value) == "no task 'zzz' among the 2 defined; look at `tq tasks list`"


def test_a_registry_cannot_be_changed() -> None:
    registry = Registry.of([make_task("digest")])

    assert isinstance(registry.tasks, MappingProxyType)
    assert registry.tasks[TaskId("digest")] == registry.get("digest")


def test_two_definitions_of_one_id_are_refused() -> None:
    with pytest.raises(InvalidDefinition, match="task 'digest' is given twice"):
        Registry.of([make_task("digest"), make_task("digest", retries=1)])


def test_a_fingerprint_is_that_of_the_definitions_in_any_order() -> None:
    digest, sync = make_task("digest"), make_task("sync")

    assert Registry.of([digest, sync]).fingerprint == Registry.of([sync, digest]).fingerprint
    assert Registry.of([digest]).fingerprint != Registry.of([digest, sync]).fingerprint
    assert Registry.of([digest]).fingerprint != Registry.of([make_task("digest", retries=1)]).fingerprint


def test_a_key_that_is_not_written_is_no_part_of_a_fingerprint() -> None:
    # A fingerprint that a new release changed would replace every definition once.
    assert (
        task_fingerprint(make_task("email_digest", interval=Interval.daily(at="09:00"))) == "3cca252b293e0234"
    )


def test_equal_definitions_have_one_fingerprint_however_they_are_written() -> None:
    one = make_task(config={"endpoint": "https://example.com", "headers": {"A": "1", "B": "2"}})
    other = make_task(config={"headers": {"B": "2", "A": "1"}, "endpoint": "https://example.com"})

    assert task_fingerprint(one) == task_fingerprint(other)
    assert re.fullmatch("[0-9a-f]{16}", task_fingerprint(one))
    assert task_fingerprint(make_task("email_digest", retries=1)) != task_fingerprint(
        make_task("email_digest")
    )
