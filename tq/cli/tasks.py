"""`tq tasks`: which task types are declared here, whether they are valid, and when they fall due."""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tq.cli.app import app, open_runtime
from tq.cli.arguments import instant_of, zone_of
from tq.cli.output import AsJson, print_json, print_table, say, shown
from tq.errors import InvalidInput
from tq.limits import EVERY_TASK
from tq.models import Interval, RateBand, TaskId, TaskType, format_duration, format_rate
from tq.redaction import MASK, is_secret_name, redact
from tq.schedule import next_after
from tq.settings import load_settings

if TYPE_CHECKING:
    from tq.store.orders import Pause
    from tq.store.preferences import Cohort

NEXT_SHOWN = 3
MOST_NEXT = 1000
SECRET_WORDS = ("authorization", "cookie", "key", "secret", "token")  # in the name of a header

tasks = typer.Typer(help="The task types: list, check, and see when they fall due.", no_args_is_help=True)
app.add_typer(tasks, name="tasks")

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The id of a task type.")]


@tasks.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """Show every task type, and how many users have it enabled."""
    with closing(open_runtime()) as runtime:
        declared = runtime.registry.current.tasks.values()
        enabled = {task.id: runtime.store.preferences.count(task.id) for task in declared}
        pauses = runtime.store.orders.pauses()
    paused = {task.id: _pause_of(task.id, pauses) for task in declared}
    if as_json:
        print_json(
            [
                {
                    **_outline(task),
                    "enabled": enabled[task.id],
                    "rate_limit": rate_document(task.rate_limit),
                    "concurrency": task.concurrency,
                    "paused": pause_document(paused[task.id]),
                }
                for task in declared
            ]
        )
        return
    print_table(
        ("id", "name", "falls due", "window", "limit", "enabled", "paused"),
        [
            (
                task.id,
                task.name,
                str(task.interval),
                str(task.window),
                limit_shown(task.rate_limit, task.concurrency),
                enabled[task.id],
                paused[task.id],
            )
            for task in declared
        ],
    )


@tasks.command("show")
def show_task(task_id: TaskArgument, as_json: AsJson = False) -> None:
    """Show one task type in full: its definition, who follows it, and when it falls due next."""
    from tq.registry import task_fingerprint

    with closing(open_runtime()) as runtime:
        task = runtime.registry.current.get(task_id)
        in_force = runtime.store.planning.definitions().get(task.id)
        cells = runtime.store.preferences.cells(task.id)
        pause = _pause_of(task.id, runtime.store.orders.pauses())
        now = runtime.store.now()
    definition = {
        **_outline(task),
        "description": task.description,
        "timeout": task.timeout,
        "retries": task.retries,
        "retry_delay": task.retry_delay,
        "retry_after_max": task.retry_after_max,
        "rate_limit": rate_document(task.rate_limit),
        "concurrency": task.concurrency,
        "missed": task.missed,
        "catchup_window": task.catchup_window,
        "overlap": task.overlap,
        "max_lateness": task.max_lateness,
        "executor": task.executor,
        "config": _config_shown(task),
        "in_force": in_force == task_fingerprint(task),
        "enabled": sum(cells.values()),
        "paused": pause_document(pause),
    }
    upcoming = _upcoming(task.interval.in_zone("UTC"), now, NEXT_SHOWN)
    followers = [
        {
            "zone": cell.zone,
            "interval": cell.interval,
            "users": users,
            "next_at": next(iter(_upcoming(_followed(task, cell), now, 1)), None),
        }
        for cell, users in sorted(cells.items(), key=lambda item: str(item[0]))
    ]
    if as_json:
        next_at = [{"nominal_at": at} for at in upcoming]
        print_json({**definition, "next": next_at, "cells": followers})
    else:
        _show_for_people({**definition, "paused": pause}, task, upcoming, followers)


@tasks.command("validate")
def validate_tasks(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A tasks file; else that of TQ_TASKS_FILE.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the definitions of a tasks file and of TQ_TASK_MODULES; needs no Redis."""
    from tq.registry import environment, load_registry, read_tasks_file

    if file is None:
        valid = len(load_registry(load_settings()).tasks)
    else:
        valid = len(read_tasks_file(file, environment()))
    if as_json:
        print_json({"valid": True, "tasks": valid})
    else:
        say("1 task is valid" if valid == 1 else f"{valid} tasks are valid")


@tasks.command("next")
def next_occurrences(
    task_id: TaskArgument,
    after: Annotated[
        str | None, typer.Option(help="RFC 3339, in UTC where it names no zone; by default now.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MOST_NEXT, help="How many occurrences.")] = 5,
    timezone: Annotated[
        str, typer.Option(help="Where a user lives, for a task that follows each user's time zone.")
    ] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Show when a task falls due after an instant; needs no Redis."""
    from tq.registry import load_registry

    start = datetime.now(UTC) if after is None else instant_of("--after", after)
    zone = zone_of(timezone)
    task = load_registry(load_settings()).get(task_id)
    found = _upcoming(task.interval.in_zone(zone), start, count)
    if not found:
        raise InvalidInput(
            f"task {task.id!r} never falls due after {shown(start)}: {task.interval}; "
            "let its days and months meet on some date"
        )
    if as_json:
        print_json([{"nominal_at": at} for at in found])
        return
    say(f"{task.title}: {task.interval.in_zone(zone)}")
    for at in found:
        say(f"  {shown(at)}")


def limit_shown(rate: float | RateBand | None, concurrency: int | None) -> str | None:
    """A configured limit for people: `50/s, 3 at a time`; None if there is none."""
    parts = [] if rate is None else [str(rate) if isinstance(rate, RateBand) else format_rate(rate)]
    parts += [f"{concurrency:,} at a time"] if concurrency else []
    return ", ".join(parts) or None


def rate_document(rate: float | RateBand | None) -> object:
    """A configured rate for programs: calls per second, or three of them by their names."""
    return rate.model_dump() if isinstance(rate, RateBand) else rate


def pause_document(pause: "Pause | None") -> dict[str, Any] | None:
    """A pause for programs."""
    if pause is None:
        return None
    return {"reason": pause.reason, "by": pause.by, "since": pause.since, "until": pause.until}


def _pause_of(task_id: TaskId, pauses: Mapping[str, "Pause"]) -> "Pause | None":
    """What holds a task: its own pause, or that of all tasks."""
    return pauses.get(task_id) or pauses.get(EVERY_TASK)


def _outline(task: TaskType) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "interval": task.interval.model_dump(mode="json", exclude_defaults=True, exclude_none=True),
        "falls_due": str(task.interval),
        "window": str(task.window),
        "priority": task.priority,
    }


def _config_shown(task: TaskType) -> dict[str, Any] | None:
    """How the call is made, without what may be secret in it."""
    config = task.config
    if config is None:
        return None
    return {
        "endpoint": redact(config.endpoint),
        "method": config.method,
        "headers": {name: _header_shown(name, value) for name, value in config.headers.items()},
        "max_duration": config.max_duration,
    }


def _header_shown(name: str, value: str) -> str:
    secret = "${" in value or is_secret_name(name) or any(word in name.lower() for word in SECRET_WORDS)
    return MASK if secret else redact(value)


def _followed(task: TaskType, cell: "Cohort") -> Interval:
    """The interval by which the users of a cell fall due, in the zone where they live."""
    from tq.store.preferences import DEFAULT_INTERVAL

    own = cell.interval != DEFAULT_INTERVAL
    return (Interval.from_canonical(cell.interval) if own else task.interval).in_zone(cell.zone)


def _upcoming(interval: Interval, after: datetime, count: int) -> list[datetime]:
    """The next occurrences; fewer where the calendar ends or an expression never matches."""
    found: list[datetime] = []
    with suppress(ValueError, OverflowError):
        while len(found) < count:
            found.append(next_after(interval, found[-1] if found else after))
    return found


def _show_for_people(
    definition: dict[str, Any],
    task: TaskType,
    upcoming: Sequence[datetime],
    followers: Sequence[dict[str, Any]],
) -> None:
    rows = {name: value for name, value in definition.items() if name not in ("interval", "config")}
    config = dict(definition["config"] or {})
    headers = config.pop("headers", {})
    rows |= config | {f"header {name}": value for name, value in headers.items()}
    rows["rate_limit"] = limit_shown(task.rate_limit, None)
    if not rows["in_force"]:
        rows["in_force"] = "no: the scheduler puts it into force at its next tick"
    print_table(
        ("", ""),
        [
            (
                name.replace("_", " "),
                format_duration(value) if isinstance(value, timedelta) else shown(value),
            )
            for name, value in rows.items()
        ],
    )
    say(f"\nfalls due next{', for a user in UTC' if task.interval.uses_user_zone else ''}:")
    for at in upcoming:
        say(f"  {shown(at)}")
    if followers:
        say("")
        print_table(
            ("zone", "interval", "users", "falls due next"), [tuple(row.values()) for row in followers]
        )
