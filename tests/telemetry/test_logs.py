"""Log lines: their fields, which are written, and that no text and no value breaks or betrays one."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from io import StringIO
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loguru import logger

from tq.settings import Settings
from tq.telemetry import configure_logs, register_secret


def make_settings(**values: Any) -> Settings:
    # Past the environment of whoever runs the tests.
    return Settings.model_construct(**{"log_format": "json", "log_level": "INFO", **values})


def lines_of(stream: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


def line_of(stream: StringIO) -> dict[str, Any]:
    (line,) = lines_of(stream)
    return line


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


# --- The shape of a line ---------------------------------------------------------------------------


def test_a_line_says_when_how_important_what_who_and_where(stream: StringIO) -> None:
    configure_logs(make_settings(), component="worker", stream=stream)

    logger.info("slot distributed", slot=3, jobs=10)

    line = line_of(stream)
    written_at = datetime.fromisoformat(line.pop("time"))
    assert written_at.tzinfo == UTC
    assert line == {
        "level": "INFO",
        "message": "slot distributed",
        "logger": __name__,
        "component": "worker",
        "pid": os.getpid(),
        "slot": 3,
        "jobs": 10,
    }


def test_the_time_is_utc_with_milliseconds(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logger.info("slot distributed")

    assert line_of(stream)["time"][-5:-4] == "."
    assert line_of(stream)["time"][-1] == "Z"


def test_ids_bound_around_the_work_are_fields_of_every_line_beneath(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    with logger.contextualize(run_id="r1", job_id="job_1"):
        logger.info("call made", status=200)
        logging.getLogger("library").warning("slow")
    logger.info("done")

    ids = [(line.get("run_id"), line.get("job_id")) for line in lines_of(stream)]
    assert ids == [("r1", "job_1"), ("r1", "job_1"), (None, None)]


def test_a_number_of_a_class_of_its_own_is_a_number(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logger.info("answered", status=HTTPStatus.SERVICE_UNAVAILABLE, least=-(2**63))

    line = line_of(stream)
    assert (line["status"], line["least"]) == (503, -(2**63))


def test_a_field_cannot_pass_for_one_of_the_lines_own(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logger.bind(level="DEBUG", pid=0, time="never").info("call made")

    line = line_of(stream)
    assert line["level"] == "INFO"
    assert line["pid"] == os.getpid()
    assert line["time"] != "never"


def test_an_exception_is_told_in_one_line_and_with_its_traceback(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("call failed")

    line = line_of(stream)
    assert line["error"] == "ValueError: two lines"
    assert line["traceback"].startswith("Traceback (most recent call last):")
    assert "test_an_exception_is_told" in line["traceback"]


def test_the_values_of_variables_are_in_no_traceback(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)
    parameters = {"diagnosis": "private"}

    try:
        parameters["missing"]
    except KeyError:
        logger.exception("call failed")

    assert "private" not in stream.getvalue()


def test_an_exception_line_without_an_exception_is_a_plain_line(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logger.exception("nothing was raised")
    logging.getLogger("library").error("nothing was raised", exc_info=(None, None, None))

    assert [("error" in line) for line in lines_of(stream)] == [False, False]


def test_people_read_text_with_fields_behind_the_message(stream: StringIO) -> None:
    configure_logs(make_settings(log_format="console"), component="worker", stream=stream)

    logger.info("slot distributed", slot=3, task_id="email_digest", note="two words")

    _, text = stream.getvalue().rstrip("\n").split(" ", 1)
    assert text == (
        f'INFO     worker {__name__} slot distributed slot=3 task_id=email_digest note="two words"'
    )


def test_people_read_the_traceback_beneath_the_line(stream: StringIO) -> None:
    configure_logs(make_settings(log_format="console"), stream=stream)

    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("call failed")

    first, second, *_, last = stream.getvalue().rstrip("\n").split("\n")
    assert first.endswith("call failed")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: broken"


def test_a_message_cannot_forge_a_line_or_steer_a_terminal(stream: StringIO) -> None:
    configure_logs(make_settings(log_format="console"), stream=stream)

    logger.info("one\n12:00:00.000 ERROR two\x1b[2J\u2028three", note="a\nb")

    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert r"one\n12:00:00.000 ERROR two\x1b[2J\u2028three" in stream.getvalue()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_format_set_a_terminal_gets_text_and_all_else_gets_json(stream: StringIO) -> None:
    terminal = Terminal()

    configure_logs(make_settings(log_format=None), stream=terminal)
    logger.info("watched")
    configure_logs(make_settings(log_format=None), stream=stream)
    logger.info("collected")

    assert not terminal.getvalue().startswith("{")
    assert line_of(stream)["message"] == "collected"


def test_standard_error_may_be_replaced_after_logs_are_configured(
    stream: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logs(make_settings())

    monkeypatch.setattr(sys, "stderr", stream)
    logger.info("in the pipe")

    assert line_of(stream)["message"] == "in the pipe"


def test_configuring_again_replaces_what_was_set_before(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)
    configure_logs(make_settings(), stream=stream)

    logger.info("once")
    logging.getLogger("library").warning("once")

    assert len(lines_of(stream)) == 2


# --- What comes from libraries ---------------------------------------------------------------------


def test_what_libraries_log_keeps_its_logger_and_level(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logging.getLogger("dramatiq.worker").info("Worker %s has %d threads", "one", 8)
    logging.getLogger("library").log(35, "between warning and error")

    worker, between = lines_of(stream)
    assert (worker["logger"], worker["level"]) == ("dramatiq.worker", "INFO")
    assert worker["message"] == "Worker one has 8 threads"
    assert (between["logger"], between["level"]) == ("library", "Level 35")


@pytest.mark.parametrize(
    "text", ["{", "{}", "{0.__class__}", "{missing!r:>{width}}", "100 %", "%(name)s", "<red>"]
)
def test_braces_percents_and_markup_in_a_librarys_message_mean_nothing(stream: StringIO, text: str) -> None:
    configure_logs(make_settings(), stream=stream)

    with logger.contextualize(task_id="{task_id}"):
        logging.getLogger("library").warning(text)
        logging.getLogger("library").warning("%s", text)

    assert [line["message"] for line in lines_of(stream)] == [text, text]


@pytest.mark.parametrize(
    "arguments", [("%d", "many"), ("%s %s", "one"), ("%(name)s", "x"), ("none", "x"), ("%s", Unprintable())]
)
def test_a_librarys_message_whose_arguments_do_not_fit_is_written_without_them(
    stream: StringIO, arguments: tuple[str, object]
) -> None:
    configure_logs(make_settings(), stream=stream)

    logging.getLogger("library").warning(*arguments)

    assert line_of(stream)["message"].startswith(f"{arguments[0]} (its arguments do not fit: ")


def test_a_librarys_exception_is_told(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("library").exception("lost")

    assert line_of(stream)["error"] == "OSError: gone"


# --- Which lines are written -----------------------------------------------------------------------

LOGGERS = (
    "tq.pipeline.tick",
    "tq.pipeline.execute",
    "tq.schedule",
    "tq.executors.http",
    "tq.store.runs",
    "middleware.gate",
    "actors.execute",
    "actors.tick",
    "dramatiq.worker",
    "periodiq",
    "library",
    "httpx",
    "httpcore.http11",
)


def loggers_heard(stream: StringIO) -> set[str]:
    for name in LOGGERS:
        logging.getLogger(name).debug("looked")
    return {line["logger"] for line in lines_of(stream)}


@pytest.mark.parametrize(
    ("switches", "heard"),
    [
        ({}, set()),
        ({"debug_scheduler": True}, {"tq.pipeline.tick", "tq.schedule", "periodiq", "actors.tick"}),
        (
            {"debug_worker": True},
            {
                "tq.pipeline.tick",
                "tq.pipeline.execute",
                "tq.executors.http",
                "dramatiq.worker",
                "middleware.gate",
                "actors.execute",
                "actors.tick",
            },
        ),
        ({"debug_redis": True}, {"tq.store.runs"}),
        ({"log_level": "ERROR", "debug_redis": True}, {"tq.store.runs"}),
        ({"log_level": "DEBUG"}, set(LOGGERS) - {"dramatiq.worker", "httpx", "httpcore.http11"}),
        ({"log_level": "TRACE", "debug_worker": True}, set(LOGGERS) - {"httpx", "httpcore.http11"}),
    ],
)
def test_a_debug_switch_lowers_the_level_of_its_own_part_only(
    stream: StringIO, switches: Mapping[str, object], heard: set[str]
) -> None:
    configure_logs(make_settings(**switches), stream=stream)

    assert loggers_heard(stream) == heard


def test_a_switch_turned_off_again_leaves_nothing_behind(stream: StringIO) -> None:
    configure_logs(make_settings(debug_scheduler=True, debug_worker=True, debug_redis=True), stream=stream)
    configure_logs(make_settings(), stream=stream)

    assert loggers_heard(stream) == set()


def test_the_level_holds_for_our_own_lines_too(stream: StringIO) -> None:
    configure_logs(make_settings(log_level="WARNING"), stream=stream)

    logger.info("a stage ended")
    logger.warning("we coped")

    assert line_of(stream)["message"] == "we coped"


@pytest.mark.parametrize("level", ["INFO", "TRACE"])
def test_what_a_server_says_of_itself_and_of_requests_is_not_logged(stream: StringIO, level: str) -> None:
    configure_logs(make_settings(log_level=level), stream=stream)

    logging.getLogger("uvicorn.error").info("Started server process [1]")
    logging.getLogger("uvicorn.asgi").log(5, "headers")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")

    assert [line["message"] for line in lines_of(stream)] == ["Invalid HTTP request received."]


def test_the_token_of_the_web_process_is_in_no_line(stream: StringIO) -> None:
    configure_logs(make_settings(api_token="tok-planted-for-the-web"), stream=stream)

    logger.info("somebody sent tok-planted-for-the-web")

    assert line_of(stream)["message"] == "somebody sent ***"


def test_the_urls_of_calls_are_not_logged_by_httpx(stream: StringIO) -> None:
    configure_logs(make_settings(log_level="DEBUG"), stream=stream)

    logging.getLogger("httpx").info("HTTP Request: POST https://host/?token=abc")

    assert stream.getvalue() == ""


# --- Nothing secret --------------------------------------------------------------------------------

SECRET = "planted-value-77"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_registered_secret_is_in_no_part_of_any_line(stream: StringIO, log_format: str) -> None:
    register_secret(SECRET)
    configure_logs(make_settings(log_format=log_format), stream=stream)

    logger.info(f"message {SECRET}")
    logger.info("field", note=f"it is {SECRET}", deep={"list": [f"a {SECRET}", {SECRET: 1}]}, object=[SECRET])
    logging.getLogger("library").warning("argument %s", SECRET)
    logging.getLogger("library").warning("misfit %d " + SECRET, SECRET)
    with logger.contextualize(bound=SECRET):
        try:
            try:
                raise OSError(f"inner {SECRET}")
            except OSError as error:
                raise ValueError(f"outer {SECRET}") from error
        except ValueError:
            logger.exception("raised")
            logging.getLogger("library").exception("raised")

    assert SECRET not in stream.getvalue()
    assert stream.getvalue().count("***") >= 10


def test_secrets_are_known_by_their_form_too(stream: StringIO) -> None:
    configure_logs(make_settings(), stream=stream)

    logger.info("calling https://ada:pw-1@host/p?key=pw-2", header="Bearer pw-3", body='{"password": "pw-4"}')
    logger.info("fields", api_token="pw-5", headers={"Authorization": "pw-6", "Cookie": ["pw-7"]})

    assert "pw-" not in stream.getvalue()


# --- No line breaks, and none is lost --------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_that_cannot_be_shown_is_named_by_its_type(stream: StringIO, log_format: str) -> None:
    configure_logs(make_settings(log_format=log_format), stream=stream)
    circle: list[object] = []
    circle.append(circle)

    logger.info("shown", value=Unprintable(), deep=[Unprintable()], huge=2**70, circle=circle, kinds={1: UTC})

    text = stream.getvalue()
    for shown in ("<Unprintable>", "<list>", "<int>", "UTC"):
        assert shown in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_that_cannot_be_shown_is_named_by_its_type(stream: StringIO, log_format: str) -> None:
    configure_logs(make_settings(log_format=log_format), stream=stream)

    try:
        raise Unspeakable
    except Unspeakable:
        logger.exception("call failed")

    assert "Unspeakable: <exception str() failed>" in stream.getvalue()


def test_a_stream_that_is_gone_does_not_stop_the_work(
    stream: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = StringIO()
    closed.close()
    configure_logs(make_settings(), stream=closed)

    logger.info("to no one")
    logging.getLogger("library").warning("to no one")
    configure_logs(make_settings())
    monkeypatch.setattr(sys, "stderr", None)
    logger.info("to no one")

    assert stream.getvalue() == ""


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
any_text = st.text() | st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp", "P"]))


# The stream is the same for all examples, and emptied before each.
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, value=anything, name=st.text(), log_format=st.sampled_from(["json", "console"]))
def test_whatever_is_logged_is_one_line(
    stream: StringIO, text: str, value: object, name: str, log_format: str
) -> None:
    stream.seek(0)
    stream.truncate()
    configure_logs(make_settings(log_format=log_format), stream=stream)

    logger.bind(**{"copy": text, name: value}).info(text)
    logging.getLogger("library").warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.bind(**{name: value}).opt(exception=log_format == "json").info("call failed")

    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert stream.getvalue().endswith("\n")
    if log_format == "json":
        assert all(json.loads(line)["level"] in {"INFO", "WARNING"} for line in lines)
