"""`tq users import` and `export`: files of any size, line by line."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.transport import make_transport
from tests.cli.conftest import Tq
from tq.cli.transfer import MAX_LINE, export_file, import_file
from tq.models import Interval, TaskId, TaskSettings, UserId, UserPreference
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.preferences import Disable, Enable, Relocate

ADA, BOB, EVE = UserId("ada"), UserId("bob"), UserId("eve")
DIGEST, SYNC = TaskId("email_digest"), TaskId("hourly_sync")


def everybody(runtime: Runtime) -> dict[str, UserPreference]:
    return {preference.user_id: preference for preference in runtime.store.preferences.everybody()}


def ndjson(*lines: Any) -> bytes:
    return b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)


def test_a_line_holds_a_user_with_all_tasks_or_with_one(tq: Tq, runtime: Runtime) -> None:
    lines = ndjson(
        {
            "user_id": "ada",
            "timezone": "Europe/Berlin",
            "tasks": {
                "email_digest": {"enabled": True, "interval": {"type": "hourly"}, "parameters": {"a": 1}},
                "hourly_sync": {},
            },
        },
        b"\n",
        {"user_id": "bob", "task_id": "hourly_sync", "timezone": "Asia/Tokyo", "parameters": None},
        {"user_id": "eve", "timezone": "Asia/Tokyo", "tasks": {}},
    )

    answer = tq("users", "import", "-", "--json", stdin=lines)

    assert (answer.code, answer.err) == (0, "")
    assert answer.document == {"lines": 3, "imported": 3, "changed": 4, "bad": 0}
    found = everybody(runtime)
    assert found["ada"].timezone == "Europe/Berlin"
    assert found["ada"].tasks[DIGEST].interval == Interval.hourly()
    assert found["ada"].tasks[DIGEST].parameters == {"a": 1}
    assert found["ada"].tasks[SYNC].enabled
    assert (found["bob"].timezone, list(found["bob"].tasks)) == ("Asia/Tokyo", [SYNC])
    assert (found["eve"].timezone, found["eve"].tasks) == ("Asia/Tokyo", {})


def test_importing_the_same_again_changes_nothing(tq: Tq) -> None:
    off = {"enabled": False, "interval": {"type": "hourly"}, "parameters": {"a": 1}, "reason": "asked"}
    lines = ndjson(
        {"user_id": "ada", "timezone": "Asia/Tokyo", "tasks": {"email_digest": {"parameters": {"a": 1}}}},
        {"user_id": "bob", "timezone": "UTC", "tasks": {"email_digest": off}},
    )
    first = tq("users", "import", "-", "--json", stdin=lines).document

    second = tq("users", "import", "-", "--json", stdin=lines).document

    assert first == {"lines": 2, "imported": 2, "changed": 2, "bad": 0}
    assert second == {"lines": 2, "imported": 2, "changed": 0, "bad": 0}


def test_what_a_line_leaves_out_stays_and_null_takes_it_away(tq: Tq, runtime: Runtime) -> None:
    whole = Enable(ADA, DIGEST, "Asia/Tokyo", Interval.hourly(), {"a": 1})
    runtime.store.preferences.apply([whole, Enable(BOB, DIGEST, "Asia/Tokyo", Interval.hourly(), {"a": 1})])

    tq(
        "users", "import", "-",
        stdin=ndjson(
            {"user_id": "ada", "task_id": "email_digest"},
            {"user_id": "bob", "task_id": "email_digest", "interval": None, "parameters": None, "timezone": None},
        ),
    )  # fmt: skip

    found = everybody(runtime)
    assert found["ada"].tasks[DIGEST] == TaskSettings(interval=Interval.hourly(), parameters={"a": 1})
    assert found["bob"].tasks[DIGEST] == TaskSettings()
    assert found["bob"].timezone == "Asia/Tokyo"


def test_a_line_can_switch_off(tq: Tq, runtime: Runtime) -> None:
    runtime.store.preferences.apply([Enable(ADA, DIGEST, parameters={"a": 1}), Enable(BOB, DIGEST)])

    answer = tq(
        "users", "import", "-", "--json",
        stdin=ndjson(
            {"user_id": "ada", "task_id": "email_digest", "enabled": False, "reason": "asked"},
            {"user_id": "bob", "task_id": "email_digest", "enabled": False, "parameters": {"b": 2}},
        ),
    )  # fmt: skip

    assert answer.document["changed"] == 2
    found = everybody(runtime)
    assert found["ada"].tasks[DIGEST] == TaskSettings(enabled=False, parameters={"a": 1}, reason="asked")
    assert found["bob"].tasks[DIGEST] == TaskSettings(enabled=False, parameters={"b": 2})


def test_csv_has_a_header_that_names_its_columns(tq: Tq, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_bytes(
        b"\xef\xbb\xbfUser_ID,task_id,enabled,timezone,parameters\r\n"
        b'ada,email_digest,,Europe/Berlin,"{""a"": 1}"\r\n'
        b"bob,hourly_sync,no,,\r\n"
    )

    answer = tq("users", "import", "users.csv", "--json")

    assert answer.document == {"lines": 2, "imported": 2, "changed": 2, "bad": 0}
    found = everybody(runtime)
    assert found["ada"].timezone == "Europe/Berlin"
    assert found["ada"].tasks[DIGEST].parameters == {"a": 1}
    assert not found["bob"].tasks[SYNC].enabled


@pytest.mark.parametrize("text", [b"ada\nbob\n", b"user_id\nada\nbob", b"\xef\xbb\xbfada\r\n\r\nbob\r\n"])
def test_a_list_of_users_is_enough_where_the_task_is_named(tq: Tq, runtime: Runtime, text: bytes) -> None:
    answer = tq("users", "import", "-", "--task", "hourly_sync", "--json", stdin=text)

    assert answer.document == {"lines": 2, "imported": 2, "changed": 2, "bad": 0}
    assert set(everybody(runtime)) == {"ada", "bob"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{\n", "is not JSON"),
        (b'{"user_id": "\xff"}\n', "is not JSON"),
        (
            b'{"user_id": "x", "task_id": "email_digest", "zone": "UTC"}\n',
            "zone: is not a known key; known are user_id",
        ),
        ({"task_id": "email_digest"}, "user_id: is missing"),
        ({"user_id": 7, "task_id": "email_digest"}, "user_id: is not text; put it in quotes"),
        ({"user_id": "../etc", "task_id": "email_digest"}, "'../etc' cannot be the id of a user"),
        ({"user_id": "x"}, "names no task; write task_id or tasks, or give --task"),
        (
            {"user_id": "x", "task_id": "email_digst"},
            "no task 'email_digst' among the 2 defined; did you mean",
        ),
        (
            {"user_id": "x", "task_id": "email_digest", "timezone": "Mars"},
            "timezone: 'Mars' is not a time zone",
        ),
        ({"user_id": "x", "tasks": ["email_digest"]}, "tasks: is not a mapping"),
        ({"user_id": "x", "tasks": {"email_digest": True}}, "tasks.email_digest: is not a mapping"),
        ({"user_id": "x", "tasks": {"email_digest": {"on": 1}}}, "tasks.email_digest.on: is not a known key"),
        (
            {"user_id": "x", "tasks": {"email_digest": {"interval": {"type": "dayly"}}}},
            "tasks.email_digest.interval.type: 'dayly' is not one of the choices",
        ),
        (
            {"user_id": "x", "task_id": "email_digest", "parameters": {"x": "y" * 20_000}},
            "parameters: parameters have",
        ),
        (
            {"user_id": "x", "task_id": "email_digest", "enabled": False, "reason": "y" * 300},
            "reason: has 300",
        ),
        (b'{"user_id": "' + b"x" * MAX_LINE + b'"}\n', "has more than 1,000,000 bytes"),
        (b'{"user_id": "x", "parameters": ' + b"[" * 5000 + b"\n", "is not JSON"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_the_others_are_imported(
    tq: Tq, runtime: Runtime, line: bytes | dict[str, Any], told: str
) -> None:
    before = {"user_id": "ada", "task_id": "email_digest"}
    after = {"user_id": "bob", "task_id": "email_digest"}

    answer = tq("users", "import", "-", "--json", stdin=ndjson(before, line, after))

    assert answer.code == 1
    assert answer.document == {"lines": 3, "imported": 2, "changed": 2, "bad": 1}
    assert answer.err.startswith(f"line 2: {told}")
    assert answer.err.count("\n") == 1
    assert set(everybody(runtime)) == {"ada", "bob"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("ada", "has 1 cells; write 3, one for each column"),
        ('ada,"email_digest,', "is not CSV"),
        ("ada,email_digest,hourly", "interval: is not JSON"),
        ("ada,,", "names no task"),
        (",email_digest,", "'' cannot be the id of a user"),
    ],
)
def test_a_bad_row_is_told_with_its_number(tq: Tq, row: str, told: str) -> None:
    text = f"user_id,task_id,interval\n{row}\nbob,email_digest,\n"

    answer = tq("users", "import", "-", "--json", stdin=text.encode())

    assert (answer.code, answer.document) == (1, {"lines": 2, "imported": 1, "changed": 1, "bad": 1})
    assert answer.err.startswith(f"line 2: {told}")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("user_id;task_id", "line 1: 'user_id…' is not a column"),
        ("userid,task_id", "line 1: 'userid' is not a column; known are user_id"),
        ("user_id,user_id", "line 1: 'user_id' is named twice"),
        ("task_id,enabled", "line 1: there is no column user_id"),
    ],
)
def test_a_header_that_cannot_be_used_is_wrong_usage(tq: Tq, header: str, told: str) -> None:
    answer = tq("users", "import", "-", stdin=f"{header}\nada,email_digest\n".encode())

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {told}")


def test_only_the_first_bad_lines_are_told_one_by_one(tq: Tq) -> None:
    answer = tq("users", "import", "-", "--format", "ndjson", stdin=b"x\n" * 50)

    assert answer.code == 1
    assert answer.out == "0 of 50 lines imported, 0 settings changed, 50 bad lines\n"
    lines = answer.err.splitlines()
    assert lines[19].startswith("line 20: ")
    assert lines[20:] == ["and 30 more bad lines"]


def test_a_line_without_end_is_never_held_in_memory(runtime: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "endless.ndjson"
    with file.open("wb") as target:
        for _ in range(40):
            target.write(b"x" * MAX_LINE)
        target.write(b'\n{"user_id": "ada", "task_id": "email_digest"}\n')
    tracemalloc.start()

    summary = import_file(runtime, str(file), file_format=None, default_task=None)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert summary == {"lines": 2, "imported": 1, "changed": 1, "bad": 1}
    assert peak < 10 * MAX_LINE


def test_a_file_that_cannot_be_read_is_wrong_usage(tq: Tq, tmp_path: Path) -> None:
    missing = tq("users", "import", "nowhere.ndjson")
    folder = tq("users", "import", str(tmp_path))

    assert (missing.code, folder.code) == (2, 2)
    assert missing.err.startswith("error: nowhere.ndjson: cannot be read: No such file")


def test_an_empty_file_is_an_import_of_nothing(tq: Tq) -> None:
    answer = tq("users", "import", "-", "--json")

    assert (answer.code, answer.document) == (0, {"lines": 0, "imported": 0, "changed": 0, "bad": 0})


def test_an_export_is_a_line_for_every_user(tq: Tq, runtime: Runtime) -> None:
    runtime.store.preferences.apply(
        [Enable(ADA, DIGEST, "Asia/Tokyo", parameters={"a": 1}), Enable(BOB, SYNC)]
    )

    everything = tq("users", "export")
    only_digest = tq("users", "export", "--task", "email_digest", "--json")

    ada = {
        "user_id": "ada",
        "timezone": "Asia/Tokyo",
        "tasks": {"email_digest": {"enabled": True, "interval": None, "parameters": {"a": 1}}},
    }
    assert sorted(line["user_id"] for line in everything.objects) == ["ada", "bob"]
    assert ada in everything.objects
    assert everything.err == "2 users exported\n"
    assert only_digest.objects == [ada]


def test_an_export_to_a_file_replaces_it_when_all_is_written(
    tq: Tq, runtime: Runtime, tmp_path: Path
) -> None:
    runtime.store.preferences.apply([Enable(ADA, DIGEST)])
    (tmp_path / "users.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("users.csv")

    answer = tq("users", "export", "link.csv", "--json")

    assert (answer.code, answer.document, answer.err) == (0, {"users": 1}, "")
    assert (tmp_path / "users.csv").read_text() == (
        "user_id,task_id,enabled,timezone,interval,parameters,reason\nada,email_digest,true,UTC,,,\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir() if "csv" in path.name) == ["link.csv", "users.csv"]


def test_an_export_that_fails_leaves_the_file_as_it_was(
    tq: Tq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users.csv").write_text("old")
    monkeypatch.setenv("TQ_REDIS_URL", "redis://127.0.0.1:1/0")

    assert tq("users", "export", "users.csv").code == 1

    assert [path.read_text() for path in tmp_path.glob("*csv*")] == ["old"]


def test_where_nothing_can_be_written_an_export_says_so(tq: Tq, tmp_path: Path) -> None:
    folder = tq("users", "export", str(tmp_path))
    nowhere = tq("users", "export", "nowhere/users.csv")

    assert (folder.code, nowhere.code) == (1, 1)
    assert nowhere.err == "error: nowhere/users.csv: cannot be written: No such file or directory\n"


def test_a_device_is_written_to_and_not_replaced(tq: Tq) -> None:
    answer = tq("users", "export", "/dev/null")

    assert answer.code == 0
    assert Path("/dev/null").is_char_device()


def test_csv_on_standard_output_is_no_json(tq: Tq) -> None:
    assert tq("users", "export", "--json", "--format", "csv").code == 2


TEXT = st.text(max_size=20)
PARAMETERS = st.dictionaries(
    TEXT, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, max_size=3
)
INTERVALS = st.none() | st.sampled_from(
    [
        Interval.minutely(5),
        Interval.daily(at="08:00", timezone="user"),
        Interval.weekly("sun", every=2, at="23:59", timezone="Europe/Berlin"),
        Interval.monthly("last"),
        Interval.cron("*/5 9-17 * * mon-fri", timezone="user"),
    ]
)
REASONS = st.just("") | st.from_regex(r"[a-z,\"'; é=]{1,30}", fullmatch=True)
SETTINGS = st.tuples(st.booleans(), INTERVALS, PARAMETERS, REASONS)
USERS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_:@.-]{0,20}", fullmatch=True),
    st.tuples(
        st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
        st.dictionaries(st.sampled_from([DIGEST, SYNC]), SETTINGS, max_size=2),
    ),
    max_size=8,
)


@pytest.fixture
def fresh_runtime(settings: Settings) -> Callable[[], Runtime]:
    """Opens runtimes, each of which begins with nothing."""

    def fresh() -> Runtime:
        runtime = Runtime(settings, make_transport(settings))
        keys = runtime.store.connection.call("KEYS", f"{settings.namespace}:*")
        if keys:
            runtime.store.connection.call("DEL", *keys)
        return runtime

    return fresh


@pytest.mark.parametrize("file_format", ["ndjson", "csv"])
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(users=USERS)
def test_an_export_makes_the_same_of_everybody_elsewhere(
    fresh_runtime: Callable[[], Runtime],
    tmp_path: Path,
    file_format: Any,
    users: dict[str, tuple[str, dict[TaskId, tuple[bool, Interval | None, dict[str, Any], str]]]],
) -> None:
    here = fresh_runtime()
    for name, (zone, tasks) in users.items():
        user_id = UserId(name)
        here.store.preferences.apply([Relocate(user_id, zone)])
        for task_id, (enabled, interval, parameters, reason) in tasks.items():
            here.store.preferences.apply([Enable(user_id, task_id, zone, interval, parameters)])
            if not enabled:
                here.store.preferences.apply([Disable(user_id, task_id, reason)])
    before = everybody(here)
    file = str(tmp_path / "users")
    export_file(here, file, file_format=file_format, only_task=None)
    here.close()

    there = fresh_runtime()
    summary = import_file(there, file, file_format=file_format, default_task=None)

    after = everybody(there)
    there.close()
    assert summary["bad"] == 0
    assert after == before
    assert set(after) == set(users)
