"""What a log line looks like, which lines are written, and that none of them shows a secret.

All lines take one way: those of this system through loguru, those of libraries from the standard
library's loggers into loguru. Each is one line of JSON, or of text where a person watches; the ids of
run and job are bound around the work by middleware and turn up as fields of every line beneath.

Writing a line never breaks the work that it tells of: a value that cannot be shown is named by its
type, and a stream that cannot be written to gets nothing.
"""

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from loguru import logger

from tq.redaction import MASK, is_secret_name, redact, register_secret
from tq.settings import Settings

if TYPE_CHECKING:
    from loguru import FilterDict, Message, Record

# Loggers, each with all beneath it, whose debug lines a switch turns on whatever LOG_LEVEL says.
SCHEDULER_LOGGERS = ("tq.pipeline.tick", "tq.schedule", "actors.tick", "periodiq")
WORKER_LOGGERS = ("tq.pipeline", "tq.executors", "actors", "middleware", "dramatiq")
REDIS_LOGGERS = ("tq.store",)
# At INFO httpx writes whole URLs, at DEBUG httpcore writes headers, at TRACE uvicorn does, so no switch turns
# these on.
_QUIET = ("httpx", "httpcore", "uvicorn")

_work: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar("work", default=None)
_trace: Callable[[], Mapping[str, object]] | None = None
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# As bounds: whether a range holds a number of a class of its own, such as an HTTPStatus, is found by going through it.
_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1
# What a library's message can fail with when its arguments are put in.
_UNFORMATTABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def configure_logs(settings: Settings, *, component: str = "", stream: TextIO | None = None) -> None:
    """Send all log lines of this process to standard error, or to `stream`, in place of what was set before.

    `component` names the part of the system that this process is: worker, scheduler, tq. Standard
    error is looked up anew for each line, since Dramatiq replaces it by a pipe to its main process.
    """
    register_secret(settings.api_token)
    levels = _levels(settings)
    as_text = settings.log_format == "console" or (settings.log_format is None and _is_watched(stream))
    line_of = _text_line if as_text else _json_line

    def write(message: "Message") -> None:
        line = line_of(message.record, component)
        target = sys.stderr if stream is None else stream
        # There is no one to tell that a line was lost; ValueError is a closed stream.
        with contextlib.suppress(OSError, ValueError):
            target.write(line + "\n")
            target.flush()

    by_logger: FilterDict = dict(levels.items())
    logger.remove()
    logger.configure(patcher=_add_work)
    # backtrace and diagnose would show the values of variables: users' parameters, and secrets.
    logger.add(
        write, level=min(levels.values()), filter=by_logger, format=_nothing, backtrace=False, diagnose=False
    )
    logging.basicConfig(handlers=[_Intake()], level=levels[""], force=True)
    for name in (*SCHEDULER_LOGGERS, *WORKER_LOGGERS, *REDIS_LOGGERS):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    # Its debug lines are several per message, so they come on request only.
    logging.getLogger("dramatiq").setLevel(levels.get("dramatiq", max(levels[""], logging.INFO)))
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_work(ids: Callable[[], Mapping[str, object]] | None) -> None:
    """Has every line that this thread writes from now on carry these fields; None ends it.

    They are made when there is a line to write: most jobs write none.
    """
    _work.set(ids)


def set_trace(ids: Callable[[], Mapping[str, object]] | None) -> None:
    """Has every line of this process carry what names the recorded span that its thread is in; None ends it."""
    global _trace
    _trace = ids


def _add_work(record: "Record") -> None:
    ids = _work.get()
    if ids is not None:
        record["extra"] = {**ids(), **record["extra"]}
    if _trace is not None:
        record["extra"] = {**_trace(), **record["extra"]}


class _Intake(logging.Handler):
    """Takes in what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except _UNFORMATTABLE as error:
            text = f"{record.msg} (its arguments do not fit: {type(error).__name__})"
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        caught = record.exc_info if record.exc_info and record.exc_info[0] else None

        def keep_name(taken: "Record") -> None:
            taken["name"] = record.name

        # No arguments follow the text, so loguru leaves braces in it alone.
        logger.opt(exception=caught).patch(keep_name).log(level, text)


def _levels(settings: Settings) -> dict[str, int]:
    """The least level that is written, by logger and all beneath it; that of all others under ""."""
    base = logger.level(settings.log_level).no
    switches = (
        (settings.debug_scheduler, SCHEDULER_LOGGERS),
        (settings.debug_worker, WORKER_LOGGERS),
        (settings.debug_redis, REDIS_LOGGERS),
    )
    debug = {name: min(base, logging.DEBUG) for on, names in switches if on for name in names}
    return {"": base, **debug}


def _is_watched(stream: TextIO | None) -> bool:
    target = sys.stderr if stream is None else stream
    return target is not None and target.isatty()


def _nothing(_record: "Record") -> str:
    # The line is made of the record; loguru's own format would print exceptions unmasked.
    return ""


def _json_line(record: "Record", component: str) -> str:
    line: dict[str, Any] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record["level"].name,
        "message": _text(record["message"]),
        "logger": record["name"] or "",
        "component": component,
        "pid": os.getpid(),
    }
    for name, value in _fields(record).items():
        line.setdefault(name, value)
    if (told := _told(record)) is not None:
        line["error"], line["traceback"] = told
    # JSON lets some characters stand that end a line elsewhere, or steer a terminal.
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", orjson.dumps(line).decode())


def _text_line(record: "Record", component: str) -> str:
    parts = [
        f"{record['time']:%H:%M:%S}.{record['time'].microsecond // 1000:03}",
        f"{record['level'].name:<8}",
        component,
        record["name"] or "",
        _text(record["message"]),
        *(f"{name}={_word(value)}" for name, value in _fields(record).items()),
    ]
    lines = [" ".join(part for part in parts if part)]
    if (told := _told(record)) is not None:
        lines += told[1].rstrip("\n").split("\n")
    # A message with a line break or an escape sequence must not pass for a line of its own.
    return "\n".join(
        _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line) for line in lines
    )


def _fields(record: "Record") -> dict[str, Any]:
    """What was bound, or given to the line, as JSON knows it and masked."""
    return {_text(str(name)): _field(str(name), value) for name, value in record["extra"].items()}


def _field(name: str, value: Any) -> Any:
    as_it_is = (
        value is None
        or isinstance(value, str | float)
        or (isinstance(value, int) and _LEAST_INT <= value <= _GREATEST_INT)
    )
    if not as_it_is:
        try:
            # orjson turns whatever a stranger's __str__ raises into an error that has a name.
            value = orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
        except orjson.JSONEncodeError:
            return f"<{type(value).__name__}>"
    return _masked(name, value)


def _masked(name: str, value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case _ if is_secret_name(name):
            return MASK
        case str():
            return _text(value)
        case dict():
            return {_text(key): _masked(key, part) for key, part in value.items()}
        case list():
            return [_masked(name, part) for part in value]
        case _:
            return value


def _word(value: Any) -> str:
    if isinstance(value, str) and " " not in value:
        return value
    return orjson.dumps(value).decode()


def _told(record: "Record") -> tuple[str, str] | None:
    """An exception in one line, and with its traceback; without the values of variables."""
    exception = record["exception"]
    if exception is None or exception.type is None or exception.value is None:
        return None
    told = traceback.TracebackException(exception.type, exception.value, exception.traceback)
    line = " ".join(_text(f"{exception.type.__name__}: {told}").split())
    return line, _text("".join(told.format()))


def _text(text: str) -> str:
    shown = redact(text)
    # Half a surrogate pair, as names of files can have, has no place in UTF-8.
    return shown if shown.isascii() else shown.encode(errors="backslashreplace").decode()
