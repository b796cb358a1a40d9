"""The command as a whole: how it ends, what it says when something is wrong, and where it says so."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import BIN, PASSWORD, REDIS_AWAY, REDIS_AWAY_TOLD, TASKS, Answer, Tq
from tests.waiting import eventually

NEEDS_REDIS = [
    ("tasks", "list"),
    ("tasks", "list", "--json"),
    ("tasks", "show", "email_digest"),
    ("limits",),
    ("limits", "--set", "200/s"),
    ("tasks", "limit", "email_digest", "50/s", "--json"),
    ("tasks", "pause", "email_digest", "--for", "2h"),
    ("tasks", "pause", "--all"),
    ("tasks", "resume", "email_digest"),
    ("users", "enable", "ada", "email_digest"),
    ("users", "disable", "ada", "email_digest"),
    ("users", "show", "ada"),
    ("users", "delete", "ada", "--yes"),
    ("users", "import", "users.ndjson"),
    ("users", "export"),
    ("users", "export", "users.csv"),
    ("trigger", "email_digest"),
    ("trigger", "email_digest", "--user", "ada", "--wait", "--json"),
    ("runs", "list"),
    ("runs", "show", "some-run"),
    ("runs", "watch", "some-run"),
    ("results", "email_digest", "ada"),
    ("results", "email_digest", "--failures"),
]


@pytest.mark.parametrize("words", NEEDS_REDIS, ids=" ".join)
def test_without_redis_a_command_fails_with_one_line_that_hides_the_password(
    tq: Tq, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users.ndjson").write_text('{"user_id": "ada", "task_id": "email_digest"}\n')
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)

    answer = tq(*words)

    assert answer.code == 1
    assert answer.out == ""
    assert answer.err.replace(
        "; of the lines read, 0 are imported, and importing all of them again is safe", ""
    ) == (REDIS_AWAY_TOLD)


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "validate"),
        ("tasks", "validate", "tasks.yaml"),
        ("tasks", "next", "email_digest"),
        ("settings",),
        ("--version",),
        ("--help",),
        ("users", "enable", "--help"),
    ],
    ids=" ".join,
)
def test_what_needs_no_redis_works_without_it(
    tq: Tq, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_REDIS_URL", REDIS_AWAY)

    answer = tq(*words)

    assert (answer.code, answer.err) == (0, "")
    assert PASSWORD not in answer.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task",), "error: No such command 'task'. Did you mean 'tasks'?; see tq --help"),
        (("users", "enable", "ada"), "error: Missing argument 'TASK'; see tq users enable --help"),
        (("runs", "list", "--all"), "error: No such option: --all"),
        (("tasks", "next", "email_digest", "--count", "0"), "error: Invalid value for '--count'"),
        (("tasks", "next", "email_digest", "--count", "1001"), "error: Invalid value for '--count'"),
        (("results", "email_digest"), "error: name a user, or say --failures"),
        (("results", "email_digest", "ada", "--failures"), "error: name a user, or say --failures"),
        (
            ("runs", "watch", "some-run", "--interval", "1ms"),
            "error: --interval: '1ms' is too short; write at least",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tq: Tq, words: tuple[str, ...], told: str) -> None:
    answer = tq(*words)

    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(told)
    assert answer.err.count("\n") == 1


def test_without_a_command_the_help_is_shown(tq: Tq) -> None:
    answer = tq()

    assert answer.code == 2
    assert "one job per enabled user" in answer.out + answer.err


def test_the_help_names_every_command_with_a_line(tq: Tq) -> None:
    answer = tq("--help")

    for name in ("worker", "scheduler", "tasks", "limits", "users", "trigger", "runs", "results", "settings"):
        assert f" {name} " in answer.out


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "TQ_REDIS_URL",
            f"redis://:{PASSWORD}#x@127.0.0.1:1/0",
            "error: TQ_REDIS_URL: not a Redis URL; write redis://",
        ),
        (
            "TQ_ACTORS",
            "no_such_module",
            "error: TQ_ACTORS: there is no module 'no_such_module'; unset TQ_ACTORS",
        ),
        ("TQ_ACTORS", "json", "error: TQ_ACTORS: the module 'json' has no make_transport"),
        ("TQ_RESULT_HISTORY", "0", "error: TQ_RESULT_HISTORY: "),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_exit_code_2(
    tq: Tq, variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    answer = tq("runs", "list")

    assert answer.code == 2
    assert answer.err.startswith(told)
    assert answer.err.count("\n") == 1
    assert PASSWORD not in answer.err


def test_every_problem_of_the_tasks_file_has_a_line(tq: Tq, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text("tasks:\n  - id: one\n    intervall: {}\n  - id: two\n")

    answer = tq("tasks", "list")

    assert answer.code == 2
    assert answer.err.count("\n") > 2
    assert all(line.startswith("error: tasks.yaml:") for line in answer.err.splitlines())


def test_an_argument_that_is_not_text_is_wrong_usage(tq: Tq) -> None:
    answer = tq("trigger", "email_digest", "--key", "half\udcff")

    assert answer.code == 2
    assert answer.err == "error: 'half\\udcff' is not UTF-8 text; write it in UTF-8\n"


def test_what_came_from_outside_cannot_steer_the_terminal(tq: Tq) -> None:
    answer = tq("runs", "show", "\x1b[2Jrun")

    assert answer.code == 1
    assert "\x1b" not in answer.err


def test_a_process_of_its_own_ends_with_the_same_exit_codes(tq_process: Tq) -> None:
    done = tq_process("tasks", "list", "--json")
    failed = tq_process("users", "show", "nobody")
    wrong = tq_process("users", "show", "../etc")

    assert (done.code, failed.code, wrong.code) == (0, 1, 2)
    assert [task["id"] for task in done.document] == ["email_digest", "hourly_sync"]
    assert (done.err, failed.out, wrong.out) == ("", "", "")


def test_a_reader_that_has_seen_enough_ends_an_export_quietly(tq: Tq) -> None:
    tq("users", "import", "-", "--task", "hourly_sync", stdin=b"\n".join(b"user-%d" % n for n in range(3000)))

    with subprocess.Popen(
        [str(BIN / "tq"), "users", "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read()

    assert told == b""
    assert process.returncode == 1


def test_ctrl_c_ends_a_command_quietly_with_130(
    tq: Tq, start_tq: Callable[..., subprocess.Popen[str]]
) -> None:
    tq("users", "enable", "ada", "hourly_sync")
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    process = start_tq("runs", "watch", run_id)
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGINT)

    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, "")


def test_a_letter_that_the_terminal_does_not_know_is_written_as_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.yaml").write_text(TASKS.replace("Email Digest", "Über alles"), encoding="utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    told = subprocess.run([str(BIN / "tq"), "tasks", "list"], capture_output=True, timeout=60, check=True)
    document = subprocess.run(
        [str(BIN / "tq"), "tasks", "list", "--json"], capture_output=True, timeout=60, check=True
    )

    assert b"\\xdcber alles" in told.stdout
    assert "Über alles".encode() in document.stdout


def test_a_terminal_is_asked_before_a_user_is_deleted(tq: Tq) -> None:
    tq("users", "enable", "ada", "email_digest")

    refused = answer_on_terminal("no\n", "users", "delete", "ada")
    agreed = answer_on_terminal("yes\n", "users", "delete", "ada")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("Delete ada, with settings for 1 task and all results?")
    assert refused.err.endswith("error: user 'ada' was not deleted\n")
    assert (agreed.code, agreed.out) == (0, "ada is deleted\n")


def answer_on_terminal(typed: str, *words: str) -> Answer:
    """What a command prints that is given a terminal to ask at."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        done = subprocess.run(
            [str(BIN / "tq"), *words], stdin=theirs, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return Answer(done.returncode, done.stdout, done.stderr)


def test_a_run_is_watched_in_place_on_a_terminal(tq: Tq, work: Callable[[], int]) -> None:
    tq("users", "enable", "ada", "hourly_sync")
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    work()
    ours, theirs = pty.openpty()

    code = subprocess.run(
        [str(BIN / "tq"), "runs", "watch", run_id], stdout=theirs, timeout=60, check=False
    ).returncode

    os.close(theirs)
    told = os.read(ours, 10_000).decode()
    os.close(ours)
    assert code == 0
    assert run_id in told
    assert "unaccounted" in told


def test_the_working_directory_is_where_the_operators_modules_are_found(
    tmp_path: Path,
) -> None:
    (tmp_path / "reports.py").write_text(
        "from tq.models import Interval\nfrom tq.registry import task\n\n"
        "@task('weekly_report', interval=Interval.weekly('mon'))\ndef weekly_report(job):\n    pass\n"
    )
    environ = {"TQ_TASK_MODULES": "reports", **os.environ}

    done = subprocess.run(
        [str(BIN / "tq"), "tasks", "validate"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "3 tasks are valid\n", "")


def test_the_command_starts_without_what_only_some_commands_need() -> None:
    slow = ("redis", "httpx", "dramatiq", "yaml", "tq.store", "tq.pipeline")
    code = f"import sys, tq.cli; print([name for name in {slow} if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "[]\n"


def test_a_watched_run_is_waited_for(
    tq: Tq, start_tq: Callable[..., subprocess.Popen[str]], work: Callable[[], int]
) -> None:
    tq("users", "enable", "ada", "hourly_sync")
    run_id = tq("trigger", "hourly_sync", "--json").document["run_id"]
    process = start_tq("runs", "watch", run_id, "--interval", "100ms")
    assert process.stdout is not None
    first = process.stdout.readline()

    work()

    eventually(lambda: process.poll() is not None)
    rest, told = process.communicate()
    assert first.startswith(f"{run_id}: running, 0 expected: none ended; expected end ")
    assert rest.endswith(f"{run_id}: ended, 1 expected: 1 success\n")
    assert (process.returncode, told) == (0, "")
