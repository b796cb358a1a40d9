"""Users in files: what a line means, and files of any size in bounded memory.

A line is a user with settings for some tasks (`user_id`, `timezone`, `tasks`), or the settings of a
user for one task (`user_id`, `task_id`, `enabled`, `timezone`, `interval`, `parameters`, `reason`), as
JSON or as a row of CSV under a header with these names. What a line leaves out stays as it is; null,
in CSV an empty cell, means none (an empty time zone stays as it is). Each line is used whole or not
at all, and those that cannot be used are told by number. An export writes all there is, so that
importing it elsewhere makes the same of everybody.
"""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

from tq.cli.arguments import reason_of, settings_of, task_id_of, user_id_of
from tq.cli.output import error_console
from tq.errors import InvalidInput, StoreError, TaskNotFound, TaskQueueError, UserNotFound
from tq.models import TaskId, TaskSettings, UserId, UserPreference
from tq.models.interval import known_zone
from tq.registry.faults import did_you_mean, key_shown
from tq.runtime import Runtime
from tq.store.preferences import KEEP, Change, Disable, Enable, Keep, Relocate

STANDARD = "-"  # standard input or output in place of a file
MAX_LINE = 1_000_000  # bytes; the settings of one user for 300 tasks, with some parameters each, are 100 kB
BATCH = 1000  # changes that are made together, and lines between two steps of the progress bar
MOST_TOLD = 20  # bad lines; the others are a number
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SETTINGS = ("enabled", "interval", "parameters", "reason")
NESTED_KEYS = ("user_id", "timezone", "tasks")
FLAT_KEYS = ("user_id", "task_id", "enabled", "timezone", "interval", "parameters", "reason")

FileFormat = Literal["ndjson", "csv"]
Fields = dict[str, Any]


def import_file(
    runtime: Runtime, file: str, *, file_format: FileFormat | None, default_task: TaskId | None
) -> dict[str, int]:
    """Does what the lines ask for; returns how many there were, were imported, changed and bad.

    Bad lines are told on standard error as they come.

    Raises:
        InvalidInput: if the file cannot be read, or has a header that names no known columns.
        StoreError: if Redis failed; says how far the import has come.
    """
    with _opened(file) as (source, size), _progress("importing", size) as progress:
        lines = _Import(runtime, file_format or _format_of(file), default_task, tell=_printer(progress))
        try:
            for number, end, text in _lines_of(source):
                lines.take(number, text)
                if number % BATCH == 0:
                    progress.update(progress.task_ids[0], completed=end)
            lines.finish()
        except StoreError as error:
            raise type(error)(
                f"{error}; of the lines read, {lines.stored:,} are imported, and importing all of them again is safe"
            ) from error
    return lines.summary


def export_file(
    runtime: Runtime, file: str, *, file_format: FileFormat | None, only_task: TaskId | None
) -> int:
    """Writes every user, or the settings of every user for one task; returns how many users.

    A file is replaced when all is written, and left as it was if anything fails.

    Raises:
        TaskQueueError: if the file cannot be written.
    """
    rows = _csv_rows if (file_format or _format_of(file)) == "csv" else _json_lines
    exported = 0
    with _written(file) as target, _progress("exporting", None) as progress:
        if rows is _csv_rows:
            target.write(_csv_line(FLAT_KEYS))
        for preference in runtime.store.preferences.everybody():
            chosen = _only(preference, only_task)
            if chosen is None:
                continue
            target.writelines(rows(chosen))
            exported += 1
            if exported % BATCH == 0:
                progress.update(progress.task_ids[0], completed=exported)
    return exported


def as_written(preference: UserPreference) -> Fields:
    """A user as a line of JSON holds it, with nothing left out."""
    return {
        "user_id": preference.user_id,
        "timezone": preference.timezone,
        "tasks": {task_id: settings_as_written(settings) for task_id, settings in preference.tasks.items()},
    }


def settings_as_written(settings: TaskSettings) -> Fields:
    """A user's settings for one task, likewise."""
    interval = settings.interval
    return {
        "enabled": settings.enabled,
        "interval": interval.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        if interval
        else None,
        "parameters": settings.parameters,
        **({"reason": settings.reason} if settings.reason else {}),
    }


@dataclass(frozen=True)
class _Wish:
    """What a line asks for: one user's settings for one task. What it leaves out is KEEP."""

    user_id: UserId
    task_id: TaskId
    timezone: str | Keep
    settings: TaskSettings

    @property
    def enable(self) -> Enable:
        given = self.settings.model_fields_set
        return Enable(
            self.user_id,
            self.task_id,
            self.timezone,
            self.settings.interval if "interval" in given else KEEP,
            self.settings.parameters if "parameters" in given else KEEP,
        )

    @property
    def disable(self) -> Disable:
        return Disable(self.user_id, self.task_id, self.settings.reason or "", self.timezone)


class _Import:
    """Takes line after line and makes the changes that they ask for, many at a time."""

    def __init__(
        self,
        runtime: Runtime,
        file_format: FileFormat | None,
        default_task: TaskId | None,
        *,
        tell: Callable[[str], None],
    ) -> None:
        self._preferences = runtime.store.preferences
        self._known = runtime.registry.current
        self._format = file_format
        self._default_task = default_task
        self._tell = tell
        self._fields_of: Callable[[bytes], Fields] | None = None
        self._pending: list[Change] = []
        self._lines = self._imported = self._changed = self._bad = 0
        self.stored = 0

    @property
    def summary(self) -> dict[str, int]:
        """What has become of the lines so far."""
        return {
            "lines": self._lines,
            "imported": self._imported,
            "changed": self._changed,
            "bad": self._bad,
        }

    def take(self, number: int, text: bytes | None) -> None:
        """Takes a line; None stands for one that is too long."""
        if text is not None and not text.strip():
            return
        if self._fields_of is None:
            self._fields_of, is_header = _way_to_read(text or b"{", self._format, self._default_task)
            if is_header:
                return
        self._lines += 1
        try:
            if text is None:
                raise InvalidInput(f"has more than {MAX_LINE:,} bytes, the most that is read; shorten it")
            wishes = self._wishes_in(self._fields_of(text))
        except (InvalidInput, TaskNotFound) as error:
            self._bad += 1
            if self._bad <= MOST_TOLD:
                self._tell(f"line {number}: {error}")
            return
        for wish in wishes:
            self._grant(wish)
        self._imported += 1
        if len(self._pending) >= BATCH:
            self._flush()

    def finish(self) -> None:
        """Makes the last changes, and tells how many bad lines were not told one by one."""
        self._flush()
        if self._bad > MOST_TOLD:
            self._tell(f"and {self._bad - MOST_TOLD:,} more bad lines")

    def _wishes_in(self, fields: Fields) -> Sequence[_Wish | Relocate]:
        _check_keys(fields, NESTED_KEYS if "tasks" in fields else FLAT_KEYS, "")
        user_id = user_id_of(_text(fields, "user_id"))
        zone = _zone_in(fields)
        tasks = fields["tasks"] if "tasks" in fields else self._one_task(fields)
        if not isinstance(tasks, dict):
            raise InvalidInput(
                'tasks: is not a mapping; write one such as {"email_digest": {"enabled": true}}'
            )
        if not tasks:
            if isinstance(zone, Keep):
                raise InvalidInput("names no task; write task_id or tasks, or give --task")
            return [Relocate(user_id, zone)]
        return [
            _Wish(user_id, self._known_task(name), zone, _settings_in(name, wanted, nested="tasks" in fields))
            for name, wanted in tasks.items()
        ]

    def _one_task(self, fields: Fields) -> dict[str, Fields]:
        task_id = _text(fields, "task_id") if fields.get("task_id") else self._default_task
        return {task_id: {key: fields[key] for key in SETTINGS if key in fields}} if task_id else {}

    def _known_task(self, name: str) -> TaskId:
        return self._known.get(task_id_of(name)).id

    def _grant(self, wish: _Wish | Relocate) -> None:
        if isinstance(wish, Relocate):
            self._pending.append(wish)
        elif wish.settings.enabled:
            self._pending.append(wish.enable)
        elif not {"interval", "parameters"} & wish.settings.model_fields_set:
            self._pending.append(wish.disable)
        else:
            self._flush()
            self._changed += self._leave_off(wish)

    def _leave_off(self, wish: _Wish) -> bool:
        """Gives a user settings for a task that is off, and stays so; tells whether they are new.

        Only a task that is on takes settings, so it is on for an instant, within one script.
        """
        enable, disable = wish.enable, wish.disable
        try:
            present: UserPreference | None = self._preferences.get(wish.user_id)
        except UserNotFound:
            present = None
        there = present.tasks.get(wish.task_id) if present else None
        if present and there and not there.enabled:
            same = (
                wish.timezone in (KEEP, present.timezone)
                and enable.interval in (KEEP, there.interval)
                and enable.parameters in (KEEP, there.parameters)
                and " ".join(disable.reason.split()) == (there.reason or "")
            )
            if same:
                return False
        self._preferences.apply([enable, disable])
        return True

    def _flush(self) -> None:
        self._changed += self._preferences.apply(self._pending)
        self._pending = []
        self.stored = self._imported


def _way_to_read(
    first: bytes, file_format: FileFormat | None, default_task: TaskId | None
) -> tuple[Callable[[bytes], Fields], bool]:
    """How the lines are read whose first this is, and whether that is a header."""
    if file_format == "ndjson" or (file_format is None and first.lstrip().startswith(b"{")):
        return _json_fields, False
    cells = [cell.strip() for cell in _cells_of(first)]
    columns = [cell.lower() for cell in cells]
    if len(cells) == 1 and default_task and columns[0] not in FLAT_KEYS:
        return lambda text: _csv_fields(("user_id",), text), False
    hint = "; the first line of CSV names the columns, and --format ndjson reads JSON"
    for cell, column in zip(cells, columns, strict=True):
        if column not in FLAT_KEYS or columns.count(column) > 1:
            problem = "named twice" if column in FLAT_KEYS else "not a column"
            raise InvalidInput(
                f"line 1: {key_shown((cell,))!r} is {problem}; known are {', '.join(FLAT_KEYS)}"
                f"{did_you_mean(column, FLAT_KEYS)}{hint}"
            )
    if "user_id" not in columns:
        raise InvalidInput(f"line 1: there is no column user_id; known are {', '.join(FLAT_KEYS)}{hint}")
    return lambda text: _csv_fields(columns, text), True


def _json_fields(text: bytes) -> Fields:
    fields = _json_of("", text)
    if not isinstance(fields, dict):
        raise InvalidInput('is not a JSON object; write one such as {"user_id": "ada", "tasks": {}}')
    return fields


def _csv_fields(columns: Sequence[str], text: bytes) -> Fields:
    cells = _cells_of(text)
    if len(cells) != len(columns):
        raise InvalidInput(f"has {len(cells)} cells; write {len(columns)}, one for each column")
    fields: Fields = {}
    for column, cell in zip(columns, cells, strict=True):
        if column in ("interval", "parameters"):
            fields[column] = _json_of(f"{column}: ", cell) if cell else None
        elif cell or column == "user_id":
            fields[column] = cell
    return fields


def _cells_of(text: bytes) -> list[str]:
    try:
        return next(csv.reader([text.decode()], strict=True))
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8 text; save the file as UTF-8") from None
    except csv.Error as error:
        raise InvalidInput(
            f"is not CSV: {error}; a cell that holds quotes is put in quotes, and they are doubled"
        ) from None


def _json_of(prefix: str, text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{prefix}is not JSON: {error}") from None


def _check_keys(fields: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in fields:
        if key not in known:
            raise InvalidInput(
                f"{prefix}{key_shown((key,))}: is not a known key; known are {', '.join(known)}"
                f"{did_you_mean(key, known)}"
            )


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"{key}: is missing" if value is None else f"{key}: is not text; put it in quotes")
    return value


def _zone_in(fields: Fields) -> str | Keep:
    if fields.get("timezone") is None:
        return KEEP
    try:
        return known_zone(_text(fields, "timezone"))
    except ValueError as error:
        raise InvalidInput(f"timezone: {error}") from None


def _settings_in(task_id: str, written: Any, *, nested: bool) -> TaskSettings:
    prefix = f"tasks.{task_id}." if nested else ""
    if not isinstance(written, dict):
        raise InvalidInput(f'{prefix.rstrip(".")}: is not a mapping; write one such as {{"enabled": true}}')
    _check_keys(written, SETTINGS, prefix)
    given = {**written, "parameters": written["parameters"] or {}} if "parameters" in written else written
    settings = settings_of(given, prefix=prefix)
    reason_of(settings.reason or "", f"{prefix}reason")
    return settings


def _only(preference: UserPreference, task_id: TaskId | None) -> UserPreference | None:
    """The user with one task's settings only, if there are any; or as it is, if no task is given."""
    if task_id is None:
        return preference
    if task_id not in preference.tasks:
        return None
    return preference.model_copy(update={"tasks": {task_id: preference.tasks[task_id]}})


def _json_lines(preference: UserPreference) -> Iterator[bytes]:
    yield orjson.dumps(as_written(preference), option=orjson.OPT_APPEND_NEWLINE)


def _csv_rows(preference: UserPreference) -> Iterator[bytes]:
    user_id, zone = preference.user_id, preference.timezone
    if not preference.tasks:
        yield _csv_line((user_id, "", "", zone, "", "", ""))
    for task_id, settings in preference.tasks.items():
        written = settings_as_written(settings)
        interval, parameters = (
            orjson.dumps(written[key]).decode() if written[key] else "" for key in ("interval", "parameters")
        )
        enabled = "true" if settings.enabled else "false"
        yield _csv_line((user_id, task_id, enabled, zone, interval, parameters, settings.reason or ""))


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _format_of(file: str) -> FileFormat | None:
    """What the name of a file says about it; None if it says nothing."""
    match Path(file).suffix.lower():
        case ".csv":
            return "csv"
        case ".ndjson" | ".jsonl":
            return "ndjson"
        case _:
            return None


def _lines_of(source: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Each line with its number and the place where it ends; None in place of one that is too long."""
    number = end = 0
    while part := source.readline(MAX_LINE + 1):
        number += 1
        end += len(part)
        line = part.removeprefix(BYTE_ORDER_MARK) if number == 1 else part
        too_long = len(part) > MAX_LINE and not part.endswith(b"\n")
        while too_long and not part.endswith(b"\n") and (part := source.readline(MAX_LINE)):
            end += len(part)
        yield number, end, None if too_long else line.rstrip(b"\r\n")


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """What is to be read, and how many bytes it has, if that is known."""
    if file == STANDARD:
        yield sys.stdin.buffer, None
        return
    try:
        with Path(file).open("rb") as source:
            yield source, os.fstat(source.fileno()).st_size or None
    except OSError as error:
        raise InvalidInput(
            f"{file}: cannot be read: {error.strerror}; name a file that this user may read"
        ) from None


@contextmanager
def _written(file: str) -> Iterator[BinaryIO]:
    """Where to write: what is there stays until all has been written."""
    if file == STANDARD:
        yield sys.stdout.buffer
        return
    try:
        target = Path(file).resolve()
        if target.exists() and not target.is_file():
            # A pipe or a device takes what it is given, and must not be replaced by a file.
            with target.open("wb") as stream:
                yield stream
            return
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with beside.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise TaskQueueError(f"{file}: cannot be written: {error.strerror}") from None


@contextmanager
def _progress(doing: str, total: int | None) -> Iterator[Progress]:
    """A bar on standard error, where a terminal watches; it is gone when all is done."""
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(doing, total=total)
        yield progress


def _printer(progress: Progress) -> Callable[[str], None]:
    return lambda sentence: progress.console.print(sentence, soft_wrap=True)
