"""`tq users`: who has what enabled, one user at a time or a million from a file."""

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tq.cli.app import app, open_runtime
from tq.cli.arguments import (
    INTERVAL_HELP,
    interval_of,
    parameters_of,
    reason_of,
    task_id_of,
    user_id_of,
    zone_of,
)
from tq.cli.orders import PauseLength, PauseReason, PauseUntil, operator, pause_written
from tq.cli.output import AsJson, note, print_json, print_table, say, shown
from tq.cli.tasks import pause_document
from tq.errors import InvalidInput, TaskQueueError
from tq.models import TaskId, TaskSettings, UserId, UserPreference

if TYPE_CHECKING:
    from tq.runtime import Runtime
    from tq.store.user_pauses import PausesOfUser

users = typer.Typer(help="Users: what they have enabled, in which time zone, and how.", no_args_is_help=True)
app.add_typer(users, name="users")

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The id of a user.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The id of a task type.")]
TaskOrNone = Annotated[
    str | None, typer.Argument(metavar="TASK", help="One task of the user; left out for all of them.")
]
FileFormat = Annotated[
    Literal["ndjson", "csv"] | None,
    typer.Option("--format", help="One JSON object per line, or CSV; else as the file looks."),
]


@users.command("enable")
def enable_task(
    user: UserArgument,
    task: TaskArgument,
    interval: Annotated[str | None, typer.Option("--interval", "--every", help=INTERVAL_HELP)] = None,
    parameters: Annotated[
        str | None, typer.Option(help="What each call is given, as a JSON object; '{}' for nothing.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="One parameter; a value that is JSON is taken as JSON."),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Where the user lives, such as Europe/Berlin; holds for all tasks.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Switch a task on for a user; what is not given stays as it was."""
    from tq.store.preferences import KEEP, Enable

    given = parameters_of(parameters, param or [])
    change = Enable(
        user_id_of(user),
        task_id_of(task),
        timezone=KEEP if timezone is None else zone_of(timezone),
        interval=KEEP if interval is None else interval_of(interval),
        parameters=KEEP if given is None else given,
    )
    with closing(open_runtime()) as runtime:
        runtime.registry.current.get(change.task_id)
        changed = runtime.store.preferences.apply([change])
        preference = runtime.store.preferences.get(change.user_id)
    _print_setting(preference, change.task_id, changed=bool(changed), as_json=as_json)


@users.command("disable")
def disable_task(
    user: UserArgument,
    task: TaskArgument,
    reason: Annotated[str, typer.Option(help="Why; shown by tq users show.")] = "",
    as_json: AsJson = False,
) -> None:
    """Switch a task off for a user; interval and parameters are kept for later."""
    from tq.store.preferences import Disable

    change = Disable(user_id_of(user), task_id_of(task), reason_of(reason))
    with closing(open_runtime()) as runtime:
        _check_known(runtime, change.user_id, change.task_id)
        changed = runtime.store.preferences.apply([change])
        preference = runtime.store.preferences.get(change.user_id)
    _print_setting(preference, change.task_id, changed=bool(changed), as_json=as_json)


@users.command("pause")
def pause_user(
    user: UserArgument,
    task: TaskOrNone = None,
    reason: PauseReason = "",
    until: PauseUntil = None,
    length: PauseLength = None,
    as_json: AsJson = False,
) -> None:
    """Begin no more calls for a user, or of one task of a user: what comes to them meanwhile is skipped."""
    user_id, task_id = user_id_of(user), None if task is None else task_id_of(task)
    written = pause_written(reason, until, length)
    with closing(open_runtime()) as runtime:
        _check_known(runtime, user_id, task_id)
        pauses = runtime.store.user_pauses
        pauses.pause(
            user_id, task_id, reason=written.reason, by=operator(), until=written.until(runtime.store)
        )
        found = pauses.of(user_id)
    pause = found.everything if task_id is None else found.tasks.get(task_id)
    if as_json:
        print_json({"user_id": user_id, "task_id": task_id, "paused": pause_document(pause)})
    else:
        say(f"{_named(user_id, task_id)}: {pause}")


@users.command("resume")
def resume_user(user: UserArgument, task: TaskOrNone = None, as_json: AsJson = False) -> None:
    """End a user's pause, or that of one task of a user; what was skipped is not made up for."""
    user_id, task_id = user_id_of(user), None if task is None else task_id_of(task)
    with closing(open_runtime()) as runtime:
        _check_known(runtime, user_id, task_id)
        resumed = runtime.store.user_pauses.resume(user_id, task_id)
        left = runtime.store.user_pauses.of(user_id)
    if as_json:
        print_json({"user_id": user_id, "task_id": task_id, "resumed": resumed})
        return
    say(f"{_named(user_id, task_id)}: {'resumed' if resumed else 'not paused, and nothing was changed'}")
    if left.everything is not None:
        say(f"{user_id}: still {left.everything}; end that with tq users resume {user_id}")
    for other, pause in left.tasks.items() if task_id is None else ():
        say(f"{_named(user_id, other)}: still {pause}; end that with tq users resume {user_id} {other}")


@users.command("show")
def show_user(user: UserArgument, as_json: AsJson = False) -> None:
    """Show a user's time zone, every task that was ever enabled or disabled, and what is paused."""
    from tq.cli.transfer import as_written

    user_id = user_id_of(user)
    with closing(open_runtime()) as runtime:
        preference = runtime.store.preferences.get(user_id)
        pauses = runtime.store.user_pauses.of(user_id)
    if as_json:
        print_json(_with_pauses(as_written(preference), pauses))
        return
    say(f"{preference.user_id} lives in {preference.timezone}")
    if pauses.everything is not None:
        say(f"{preference.user_id}: {pauses.everything}")
    if preference.tasks:
        say("")
        print_table(
            ("task", "enabled", "interval", "parameters", "reason", "paused"),
            [
                (task_id, *_for_people(settings, preference.timezone), pauses.tasks.get(task_id))
                for task_id, settings in preference.tasks.items()
            ],
        )


@users.command("delete")
def delete_user(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a user and everything known of it: settings, pauses, results, failures."""
    user_id = user_id_of(user)
    if not yes and not sys.stdin.isatty():
        raise InvalidInput("nobody can be asked here; say --yes to delete without a question")
    with closing(open_runtime()) as runtime:
        preference = runtime.store.preferences.get(user_id)
        tasks = "1 task" if len(preference.tasks) == 1 else f"{len(preference.tasks)} tasks"
        question = f"Delete {user_id}, with settings for {tasks} and all results?"
        if not yes and not _agreed(question):
            raise TaskQueueError(f"user {user_id!r} was not deleted")
        runtime.store.preferences.forget(user_id)
    if as_json:
        print_json({"user_id": user_id, "deleted": True})
    else:
        say(f"{user_id} is deleted")


@users.command("import")
def import_users(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to read; - for standard input.")],
    file_format: FileFormat = None,
    task: Annotated[str | None, typer.Option(help="The task of lines that name none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set what many users have enabled, a line each; lines that cannot be used are told and left out."""
    from tq.cli.transfer import import_file

    default = None if task is None else task_id_of(task)
    with closing(open_runtime()) as runtime:
        if default is not None:
            runtime.registry.current.get(default)
        summary = import_file(runtime, file, file_format=file_format, default_task=default)
    if as_json:
        print_json(summary)
    else:
        say(
            f"{shown(summary['imported'])} of {shown(summary['lines'])} lines imported, "
            f"{shown(summary['changed'])} settings changed, {shown(summary['bad'])} bad lines"
        )
    if summary["bad"]:
        raise typer.Exit(1)


@users.command("export")
def export_users(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file to write; - for standard output.")
    ] = "-",
    file_format: FileFormat = None,
    task: Annotated[str | None, typer.Option(help="Only the settings for this task.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the count as JSON; on standard output, export NDJSON.")
    ] = False,
) -> None:
    """Write every user's settings, in the form that tq users import reads; pauses are not among them."""
    from tq.cli.transfer import STANDARD, export_file

    if file == STANDARD and as_json and file_format == "csv":
        raise InvalidInput("--json: CSV on standard output is not JSON; name a file, or drop --json")
    only = None if task is None else task_id_of(task)
    with closing(open_runtime()) as runtime:
        exported = export_file(runtime, file, file_format=file_format, only_task=only)
    if file == STANDARD:
        note(f"{shown(exported)} users exported")
    elif as_json:
        print_json({"users": exported})
    else:
        say(f"{shown(exported)} users exported to {file}")


def _check_known(runtime: "Runtime", user_id: UserId, task_id: TaskId | None) -> None:
    """Sees that there is such a user, and such a task: the user's, or one that is declared.

    Raises:
        UserNotFound, TaskNotFound: if not.
    """
    known = runtime.store.preferences.get(user_id).tasks
    if task_id is not None and task_id not in known:
        runtime.registry.current.get(task_id)


def _named(user_id: UserId, task_id: TaskId | None) -> str:
    return user_id if task_id is None else f"{task_id} of {user_id}"


def _with_pauses(written: dict[str, Any], pauses: "PausesOfUser") -> dict[str, Any]:
    """A user as written, where anything is paused with the pause."""
    whole = {"paused": pause_document(pauses.everything)} if pauses.everything else {}
    tasks = {
        task_id: {**settings, "paused": pause_document(pauses.tasks[task_id])}
        if task_id in pauses.tasks
        else settings
        for task_id, settings in written["tasks"].items()
    }
    return {**written, **whole, "tasks": tasks}


def _agreed(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_setting(preference: UserPreference, task_id: TaskId, *, changed: bool, as_json: bool) -> None:
    from tq.cli.transfer import settings_as_written

    settings = preference.tasks.get(task_id, TaskSettings(enabled=False))
    if as_json:
        print_json(
            {
                "user_id": preference.user_id,
                "task_id": task_id,
                "timezone": preference.timezone,
                **settings_as_written(settings),
                "changed": changed,
            }
        )
        return
    state = "enabled" if settings.enabled else "disabled"
    followed = f", {settings.interval.in_zone(preference.timezone)}" if settings.interval else ""
    again = "" if changed else " already; nothing has changed"
    say(f"{task_id} is {state} for {preference.user_id} ({preference.timezone}{followed}){again}")


def _for_people(settings: TaskSettings, zone: str) -> tuple[Any, ...]:
    import orjson

    parameters = orjson.dumps(settings.parameters).decode() if settings.parameters else None
    interval = str(settings.interval.in_zone(zone)) if settings.interval else "the task's"
    return settings.enabled, interval, parameters, settings.reason
