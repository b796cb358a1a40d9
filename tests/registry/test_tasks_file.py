"""What tasks.yaml may look like, and what it means."""

from datetime import timedelta
from pathlib import Path

import pytest

from tq.models import FixedTime, Interval, Priority, RateBand, TaskType, Window
from tq.registry import read_tasks_file

SAMPLE = """\
tasks:
  - id: email_digest
    name: Email Digest
    description: Sends the daily email digest
    interval: {type: daily, value: 1, timezone: user, at_time: "09:00"}
    window: 30m
    timeout: 5m
    retries: 3
    rate_limit: 50          # per second, optional
    priority: normal
    config:
      endpoint: https://api.example.com/email/digest
      method: POST
      headers: {Content-Type: application/json, Authorization: "Bearer ${API_TOKEN}"}
      max_duration: 4m
"""

FROM_THE_GO_SERVICE = """\
- id: hourly_sync
  name: Hourly Sync
  interval:
    type: hourly
    value: 2
  timeout: 1h30m
  retries: 5
  rate_limit: 12.5
  config:
    endpoint: http://sync.example.com/run
    method: post
    max_duration: 90s
- id: weekly_report
  interval:
    type: weekly
    value: 1
    timezone: Europe/Berlin
    at_time:
      hour: 9
      minute: 30
  timeout: 30s
  config:
    endpoint: http://report.example.com/run
"""


def read(directory: Path, text: str, **environ: str) -> dict[str, TaskType]:
    """The tasks of a file with this text, by plain ids."""
    path = directory / "tasks.yaml"
    path.write_text(text, encoding="utf-8")
    return {str(task_id): task for task_id, task in read_tasks_file(path, environ).items()}


def read_one(directory: Path, lines: str) -> TaskType:
    """The only task of a file, of which the case says some lines."""
    config = "" if "config:" in lines else "config: {endpoint: https://example.com}\n"
    interval = "" if "interval:" in lines else "interval: {type: hourly}\n"
    task_id = "" if "id:" in lines else "id: digest\n"
    text = "tasks:\n  -\n" + "".join(
        f"    {line}\n" for line in (task_id + interval + config + lines).splitlines()
    )
    (task,) = read(directory, text).values()
    return task


def test_the_sample_of_the_documentation_is_read_as_it_stands(tmp_path: Path) -> None:
    tasks = read(tmp_path, SAMPLE, API_TOKEN="s3cret-token")

    digest = tasks["email_digest"]
    assert list(tasks) == ["email_digest"]
    assert digest.title == "Email Digest"
    assert digest.interval == Interval.daily(at="09:00", timezone="user")
    assert digest.window == Window(duration=timedelta(minutes=30))
    assert (digest.timeout, digest.retries, digest.rate_limit) == (timedelta(minutes=5), 3, 50)
    assert digest.priority is Priority.NORMAL
    assert digest.config is not None
    assert digest.config.max_duration == timedelta(minutes=4)


def test_a_variable_stays_unfilled_so_that_no_secret_is_stored(tmp_path: Path) -> None:
    tasks = read(tmp_path, SAMPLE, API_TOKEN="s3cret-token")

    text = tasks["email_digest"].to_json()
    assert "Bearer ${API_TOKEN}" in text
    assert "s3cret-token" not in text


def test_a_file_of_the_go_service_is_read_as_it_stands(tmp_path: Path) -> None:
    tasks = read(tmp_path, FROM_THE_GO_SERVICE)

    sync, report = tasks["hourly_sync"], tasks["weekly_report"]
    assert sync.interval == Interval.hourly(2)
    assert sync.timeout == timedelta(minutes=90)
    assert sync.rate_limit == 12.5
    assert sync.config is not None
    assert (sync.config.method, sync.config.max_duration) == ("POST", timedelta(seconds=90))
    assert report.interval.at_time == FixedTime(hour=9, minute=30)


@pytest.mark.parametrize(
    ("written", "rate_limit"),
    [
        ("12.5", 12.5),
        ("30/m", 0.5),
        ("3600/h", 1.0),
        ("{base: 50, min: 25/s, max: 6000/m}", RateBand(base=50, min=25, max=100)),
    ],
)
def test_a_rate_may_have_a_unit_and_may_be_a_band(
    tmp_path: Path, written: str, rate_limit: float | RateBand
) -> None:
    task = read_one(tmp_path, f"rate_limit: {written}\nconcurrency: 4")

    assert (task.rate_limit, task.concurrency) == (rate_limit, 4)


def test_tasks_may_be_a_mapping_from_id_to_task(tmp_path: Path) -> None:
    text = """\
tasks:
  digest: {interval: {type: daily}, config: {endpoint: https://example.com/digest}}
  sync: {id: sync, interval: {type: hourly}, config: {endpoint: https://example.com/sync}}
"""

    tasks = read(tmp_path, text)

    assert {task_id: task.id for task_id, task in tasks.items()} == {"digest": "digest", "sync": "sync"}


def test_no_tasks_at_all_has_to_be_written_out(tmp_path: Path) -> None:
    assert read(tmp_path, "tasks: []") == {}


@pytest.mark.parametrize(
    ("written", "hour", "minute"),
    [
        ("09:00", 9, 0),
        ("9:30", 9, 30),
        ('"09:00"', 9, 0),
        ("'23:59'", 23, 59),
        ("00:00", 0, 0),
        ("1:05", 1, 5),
    ],
)
def test_a_time_of_day_means_what_it_says_with_and_without_quotes(
    tmp_path: Path, written: str, hour: int, minute: int
) -> None:
    task = read_one(tmp_path, f"interval: {{type: daily, at_time: {written}}}")

    assert task.interval.at_time == FixedTime(hour=hour, minute=minute)


@pytest.mark.parametrize("task_id", ["on", "yes", "no", "123", "1.10", "0x1F", "2026-01-31", "1e3"])
def test_an_id_without_quotes_is_the_text_that_was_written(tmp_path: Path, task_id: str) -> None:
    task = read_one(tmp_path, f"id: {task_id}")

    assert task.id == task_id


def test_a_header_without_quotes_is_the_text_that_was_written(tmp_path: Path) -> None:
    task = read_one(
        tmp_path,
        "config: {endpoint: https://example.com, headers: {X-Version: 1.10, X-Time: 9:30, X-Debug: on}}",
    )

    assert task.config is not None
    assert task.config.headers == {"X-Version": "1.10", "X-Time": "9:30", "X-Debug": "on"}


@pytest.mark.parametrize(
    ("written", "interval"),
    [
        ("{type: weekly, weekday: mon}", Interval(type="weekly", weekday="mon")),
        ("{type: weekly, weekday: Friday}", Interval(type="weekly", weekday="fri")),
        ("{type: monthly, day: last}", Interval(type="monthly", day="last")),
        ("{type: monthly, day: 31}", Interval(type="monthly", day=31)),
        ("{type: cron, expression: 0 9 * * 1-5}", Interval.cron("0 9 * * 1-5")),
        ("{type: daily, at_time: {hour: 09, minute: 05}}", Interval.daily(at="09:05")),
        ("{type: daily, anchor: 2026-01-31}", Interval(type="daily", anchor="2026-01-31")),
    ],
)
def test_an_interval_needs_no_quotes(tmp_path: Path, written: str, interval: Interval) -> None:
    task = read_one(tmp_path, f"interval: {written}")

    assert task.interval == interval


def test_what_an_anchor_marks_may_be_repeated(tmp_path: Path) -> None:
    text = """\
tasks:
  - id: digest
    interval: &nightly {type: daily, at_time: 02:00}
    config: {endpoint: https://example.com/digest}
  - id: sync
    interval: *nightly
    config: {endpoint: https://example.com/sync}
"""

    tasks = read(tmp_path, text)

    assert tasks["sync"].interval == tasks["digest"].interval == Interval.daily(at="02:00")


def test_core_tags_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    task = read_one(tmp_path, "retries: !!int 2\nname: !!str 7\nwindow: !!str 10m")
    path = tmp_path / "tasks.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    with_mark = read_tasks_file(path, {})

    assert (task.retries, task.name) == (2, "7")
    assert list(with_mark.values()) == [task]


def test_nothing_is_allowed_where_a_task_can_do_without(tmp_path: Path) -> None:
    task = read_one(tmp_path, "rate_limit: null\ncatchup_window:\nexecutor: ~")

    assert (task.rate_limit, task.catchup_window, task.executor) == (None, None, None)
