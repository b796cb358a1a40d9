"""README says what is true: every command and setting, every key of a task, and its examples work."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tq.cli.app import app
from tq.metrics import FAMILIES
from tq.models import TaskConfig, TaskType, UserId, format_duration
from tq.redis_server import RedisServer
from tq.registry import read_tasks_file
from tq.settings import Settings, variable_of
from tq.testing import Journey

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands(command: Any, name: str = "tq") -> Iterator[tuple[str, Any]]:
    """All commands that do something, by their full names. typer brings a click of its own, hence Any."""
    if hasattr(command, "commands"):
        for word, below in command.commands.items():
            yield from commands(below, f"{name} {word}")
    else:
        yield name, command


COMMANDS = dict(commands(typer.main.get_command(app)))


def blocks(language: str) -> list[str]:
    """The code blocks of a language, without the indentation of the list they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def rows(heading: str) -> dict[str, str]:
    """What a section's tables say, by their first column."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {name: row[1].strip() for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def test_every_command_is_told_and_none_that_there_is_not() -> None:
    told = {re.sub(r" [A-Z\[].*", "", name) for name in rows("Commands")}

    assert told == set(COMMANDS)


def test_every_option_that_is_told_exists() -> None:
    section = README.partition("## Commands\n")[2].partition("\n## ")[0]
    there = {
        option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts
    }

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section)) <= there


def test_every_setting_is_told_with_its_default() -> None:
    told = rows("Settings")
    defaults = {variable_of(name): field.default for name, field in Settings.model_fields.items()}

    assert set(told) == set(defaults)
    for variable, default in defaults.items():
        if not default and default is not False:
            assert told[variable].split()[0] in {"none", "console"}
        else:
            text = format_duration(default) if variable == "TQ_RESULT_TTL" else str(default)
            text = text.removesuffix(".0")
            assert told[variable] == f"`{text.lower() if isinstance(default, bool) else text}`"


def test_every_metric_is_told_with_its_labels_and_none_that_there_is_not() -> None:
    section = README.partition("## Metrics\n")[2].partition("\n## ")[0]
    told: dict[str, set[str]] = {}
    for line in section.splitlines():
        cells = line.strip("|").split("|")
        if line.startswith("| `tq_"):
            labels = set(re.findall(r"`([a-z_]+)`", cells[2]))
            told |= dict.fromkeys(re.findall(r"`(tq_[a-z_]+)`", cells[0]), labels)

    assert told.keys() == {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert set(family.labels) <= told[family.name]


def test_every_key_of_a_task_is_told() -> None:
    keys = {name for name in TaskType.model_fields if name != "config"}
    keys |= {f"config.{name}" for name in TaskConfig.model_fields}

    assert set(rows("Task definitions")) >= keys


def test_the_services_of_the_compose_file_are_commands_that_there_are() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    started = {service["command"] for name, service in services.items() if name != "redis"}

    assert {" ".join(command.split()[:2]) for command in started} <= set(COMMANDS)
    assert started == {"tq worker --shutdown-timeout 45s", "tq scheduler", "tq web"}
    assert all("healthcheck" in service for service in services.values())


def test_the_first_task_of_ones_own_is_a_valid_one(tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(blocks("yaml")[0])

    tasks = read_tasks_file(file, {})

    assert list(tasks) == ["greeting"]


def test_the_python_task_works(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    from tq.registry import declared

    scope: dict[str, object] = {"__name__": "readme_tasks"}
    exec(compile(blocks("python")[0], "README.md", "exec"), scope)  # noqa: S102 - the README's own example
    task = next(found.task for task_id, found in declared().items() if task_id == "weekly_report")
    with Journey.begin([task], at="2026-11-23T07:59", redis_url=redis_server.url) as journey:
        journey.enable("ada", "weekly_report")
        journey.until("2026-11-23T08:31")
        assert journey.executor.users == [UserId("ada")]
    scope["weekly_report"](journey.executor.jobs[0])  # type: ignore[operator] # it is the function above

    assert "report for ada, due at 2026-11-23 08:00" in capsys.readouterr().out


def test_the_example_of_a_test_passes() -> None:
    scope: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), scope)  # noqa: S102 - the README's own example

    scope["test_everybody_gets_a_digest"]()  # type: ignore[operator] # it is the function above


def test_the_example_of_an_endpoint_with_a_capacity_works() -> None:
    example = next(block for block in blocks("python") if "Downstream" in block)

    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - the README's own example
