"""`tq debug`: which process is asked, what is told of it, and what is wrong with the question."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from actors.transport import make_transport
from tests.cli.conftest import Tq
from tests.debugging.work import hot, running
from tq.debugging import DebugServer
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.heartbeats import WORKER, Presence

PID = str(os.getpid())
HERE = socket.gethostname()


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """What processes show themselves in."""
    opened = Runtime(settings, make_transport(settings))
    yield opened
    opened.close()


@pytest.fixture
def server() -> Iterator[DebugServer]:
    """The endpoints of this process."""
    opened = DebugServer()
    yield opened
    opened.close()


def show(runtime: Runtime, **facts: Any) -> None:
    """Has a worker show itself: this process, unless other facts are told."""
    Presence(runtime.store.heartbeats, WORKER, facts).show()


def test_the_threads_of_a_process_are_told_for_people_and_programs(
    tq: Tq, runtime: Runtime, server: DebugServer
) -> None:
    show(runtime, debug_port=server.port)

    text, document = tq("debug", "threads", PID), tq("debug", "threads", "all", "--json").document

    assert text.out.startswith(f"worker {PID} on {HERE}\n")
    assert "MainThread [" in text.out
    [told] = document
    assert (told["component"], told["pid"]) == (WORKER, os.getpid())
    assert "MainThread" in {thread["name"] for thread in told["threads"]}


def test_the_heap_is_traced_until_that_is_stopped(tq: Tq, runtime: Runtime, server: DebugServer) -> None:
    show(runtime, debug_port=server.port)

    begun, stopped = tq("debug", "heap", PID, "--start"), tq("debug", "heap", PID, "--stop")

    assert "tracing has begun" in begun.out
    assert "tracing has ended" in stopped.out
    assert "objects by type" in stopped.out


@pytest.mark.parametrize(
    ("form", "ending", "begin"),
    [("svg", ".svg", "<svg"), ("speedscope", ".speedscope.json", "{"), ("collapsed", ".txt", "thread")],
)
def test_a_profile_is_written_and_its_hottest_functions_told(
    tq: Tq, runtime: Runtime, server: DebugServer, tmp_path: Path, form: str, ending: str, begin: str
) -> None:
    show(runtime, debug_port=server.port)

    with running(hot):
        told = tq("debug", "profile", PID, "--seconds", "0.3", "--format", form)

    assert told.code == 0, told.err
    [written] = [path for path in tmp_path.iterdir() if path.name.startswith("worker-")]
    assert written.name.endswith(ending)
    assert written.read_text().startswith(begin)
    assert f"written to {written.name}" in told.out
    assert "burn" in told.out
    assert "tests/debugging/work.py:" in told.out
    assert "it was idle" not in told.out


def test_of_an_idle_process_it_is_told_that_its_shares_mean_nothing(
    tq: Tq, runtime: Runtime, server: DebugServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(runtime, debug_port=server.port)
    monkeypatch.setattr("tq.cli.debug.IDLE", 100.0)

    told = tq("debug", "profile", PID, "--seconds", "0.1")

    assert "it was idle: these are shares of next to nothing" in told.out


def test_profiles_of_all_go_into_a_folder_and_one_into_the_file_that_is_named(
    tq: Tq, runtime: Runtime, server: DebugServer, tmp_path: Path
) -> None:
    show(runtime, debug_port=server.port)

    everybody = tq("debug", "profile", "all", "--seconds", "0.1", "--output", "new/folder", "--json")
    one = tq("debug", "profile", PID, "--seconds", "0.1", "--output", "one.svg", "--json")
    refused = tq("debug", "profile", "all", "--seconds", "0.1", "--output", "one.svg")

    [document] = everybody.document
    assert [tmp_path / document["path"]] == list((tmp_path / "new/folder").iterdir())
    assert one.document[0]["path"] == "one.svg"
    assert len(document["hottest"]) <= 5
    assert (refused.code, "is a file; for all processes name a folder" in refused.err) == (2, True)


def test_a_process_that_there_is_not_is_told_with_those_that_there_are(
    tq: Tq, runtime: Runtime, server: DebugServer
) -> None:
    nobody = tq("debug", "threads", "all")
    show(runtime, debug_port=server.port)
    another = tq("debug", "threads", "999999999")

    assert (nobody.code, another.code) == (1, 1)
    assert f"no process of TaskQueue shows itself on {HERE}; there is none" in nobody.err
    assert f"no process 999999999 shows itself on {HERE}; there are worker {PID}" in another.err


def test_a_process_of_another_host_is_told_with_its_host(tq: Tq, runtime: Runtime) -> None:
    show(runtime, host="app-2", pid=4711, debug_port=1)

    told = tq("debug", "profile", "4711")

    assert told.code == 1
    assert f"process 4711 runs on app-2, and answers there only; this is {HERE}" in told.err


def test_who_has_no_endpoints_or_has_ended_is_told_so(tq: Tq, runtime: Runtime, server: DebugServer) -> None:
    show(runtime)
    without = tq("debug", "threads", PID)
    show(runtime, debug_port=1)
    away = tq("debug", "threads", PID)
    show(runtime, pid=os.getppid(), debug_port=server.port)
    others = tq("debug", "threads", str(os.getppid()))

    assert (without.code, away.code, others.code) == (1, 1, 1)
    assert "does not answer; set TQ_DEBUG_ENDPOINTS=true for it and restart it" in without.err
    assert "does not answer at port 1 (ConnectionRefusedError)" in away.err
    assert f"this is process {PID}, not {os.getppid()}" in others.err


def test_of_all_those_that_answer_are_shown_and_the_others_told(
    tq: Tq, runtime: Runtime, server: DebugServer
) -> None:
    show(runtime, debug_port=server.port)
    show(runtime, pid=os.getppid())

    text, document = tq("debug", "threads", "all"), tq("debug", "threads", "all", "--json")

    assert (text.code, document.code) == (1, 1)
    assert "MainThread" in text.out
    assert f"error: worker {os.getppid()} on {HERE} does not answer" in text.err
    assert {("error" in told, told["pid"]) for told in document.document} == {
        (False, os.getpid()),
        (True, os.getppid()),
    }


def test_one_that_was_killed_is_nobody_although_it_is_remembered(tq: Tq, runtime: Runtime) -> None:
    show(runtime, pid=999_999_999, debug_port=1)

    assert f"no process 999999999 shows itself on {HERE}" in tq("debug", "threads", "999999999").err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("threads", "eleven"), "'eleven' is neither the id of a process nor all"),
        (("profile", PID, "--seconds", "301"), "--seconds"),
        (("profile", PID, "--hz", "0"), "--hz"),
        (("profile", PID, "--format", "png"), "png"),
        (("profile", PID, "--output", "missing/file.svg"), "--output: there is no folder 'missing'"),
    ],
)
def test_what_cannot_be_asked_is_wrong_usage(tq: Tq, words: tuple[str, ...], told: str) -> None:
    answer = tq("debug", *words)

    assert answer.code == 2
    assert told in answer.err


def test_a_process_of_a_version_that_knew_no_port_is_read_all_the_same(tq: Tq, runtime: Runtime) -> None:
    store = runtime.store
    store.heartbeats.beat(
        "old", {"component": WORKER, "host": HERE, "pid": 1, "version": "0", "skew": None}, age=timedelta(0)
    )

    [process] = store.vitals.signs().processes

    assert process.debug_port is None
    assert orjson.loads(tq("debug", "threads", "all", "--json").out)[0]["pid"] == 1
