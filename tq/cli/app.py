"""The command `tq`: how it opens the system, and how it tells what went wrong.

Exit code 0: done. 1: it could not be done. 2: it was asked for in a way that cannot be used.
Standard output holds what was asked for and nothing else; an error is a line on standard error
that begins with `error:`.

What is slow to import (Redis, Dramatiq, the HTTP client) is imported by the command that needs it,
so that `tq --help` and what only reads the tasks file answer at once.
"""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tq.errors import InvalidDefinition, InvalidInput, InvalidSetting, TaskQueueError
from tq.settings import Settings, load_settings

if TYPE_CHECKING:
    from tq.runtime import Runtime
    from tq.store import Transport

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

app = typer.Typer(name="tq", no_args_is_help=True, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default the one that this process was started with; returns its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    _find_modules_here()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that a terminal does not know is written as its number; nothing else is lost for it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_text(words)
        code = app(words, prog_name="tq", standalone_mode=False)
        sys.stdout.flush()
    except TaskQueueError as error:
        _complain(_lines_of(error))
        return 2 if isinstance(error, InvalidInput) else 1
    except typer.TyperException as error:
        if message := " ".join(error.format_message().split()):
            _complain([f"{message.rstrip('.')}{_where_to_look(error)}"])
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter flushes once more when it ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def open_runtime(settings: Settings | None = None) -> "Runtime":
    """What commands work with, by the settings in force unless others are given; close it after use.

    Connects to nothing yet, and reads no task definitions.

    Raises:
        InvalidSetting: names the variable that cannot be used.
    """
    from tq.runtime import Runtime
    from tq.telemetry import configure_logs

    settings = settings or load_settings()
    transport = _transport(settings)
    # To people a command speaks for itself; LOG_LEVEL=INFO adds what a worker would log.
    asked_for = "log_level" in settings.model_fields_set
    quiet = settings if asked_for else settings.model_copy(update={"log_level": "WARNING"})
    configure_logs(quiet, component="tq")
    try:
        return Runtime(settings, transport)
    except ValueError:
        # What the client found wrong may be a part of the password.
        raise InvalidSetting(
            "TQ_REDIS_URL: cannot be read; write redis://user:password@host:port/number, "
            "with special characters in the password percent-encoded"
        ) from None


def load_actors(settings: Settings) -> Any:
    """The module that TQ_ACTORS names: it says how messages travel.

    Raises:
        InvalidSetting: if there is no such module.
    """
    try:
        return importlib.import_module(settings.actors)
    except ModuleNotFoundError as error:
        raise InvalidSetting(
            f"TQ_ACTORS: there is no module {error.name!r}; unset TQ_ACTORS to use actors"
        ) from None


def _transport(settings: Settings) -> "Transport":
    make_transport = getattr(load_actors(settings), "make_transport", None)
    if make_transport is None:
        raise InvalidSetting(
            f"TQ_ACTORS: the module {settings.actors!r} has no make_transport; see actors/__init__.py"
        )
    return cast("Transport", make_transport(settings))


def _find_modules_here() -> None:
    # The operator's modules are found in the working directory, as workers find them there; last,
    # so that no file there hides one of ours.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _check_text(words: Sequence[str]) -> None:
    # Half characters, from bytes that are not UTF-8, could neither be stored nor printed.
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise InvalidInput(f"{word!a} is not UTF-8 text; write it in UTF-8")


def _lines_of(error: TaskQueueError) -> list[str]:
    """A line for each thing that is wrong with definitions; any other error is one line."""
    return str(error).splitlines() if isinstance(error, InvalidDefinition) else [" ".join(str(error).split())]


def _where_to_look(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    return f"; see {context.command_path} --help" if context else ""


def _complain(lines: Sequence[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            # What came from outside must not steer the terminal.
            shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
            sys.stderr.write(f"error: {shown}\n")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"tq {version('taskqueue')}")
        raise typer.Exit


@app.callback()
def _whole(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Recurring work for very many users: one job per enabled user, on time, and accounted for."""
