"""What a process answers about itself, to whom, and what it never tells."""

import http.client
import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from tests.debugging.work import hot, running, waiter
from tests.waiting import eventually
from tq.debugging import DebugServer
from tq.debugging import profile as profiling
from tq.debugging.places import file_shown

SECRET = "planted-in-a-local-variable-4711"

Ask = Callable[..., "Got"]


class Got:
    """An answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["error"]
        assert set(found) == {"code", "message", "details"}
        assert found["details"] is None or found["details"]
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[DebugServer]:
    """A server in this process."""
    opened = DebugServer()
    yield opened
    opened.close()


@pytest.fixture
def ask(server: DebugServer) -> Ask:
    """Asks it."""

    def send(target: str, method: str = "GET", **headers: str) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, headers=named)
        try:
            return Got(connection.getresponse())
        finally:
            connection.close()

    return send


@pytest.fixture
def _untraced() -> Iterator[None]:
    yield
    tracemalloc.stop()


# --- Threads -----------------------------------------------------------------------------------------


def test_every_thread_is_told_with_its_stack_innermost_last(ask: Ask) -> None:
    with running(waiter, hot):
        eventually(lambda: thread_named(ask, "hot-1")["cpu_seconds"] > 0.01)
        waiting, working = thread_named(ask, "waiter-0"), thread_named(ask, "hot-1")

    assert waiting["daemon"]
    assert [place["function"] for place in waiting["stack"]][-3:] == [
        "waiter",
        "Event.wait",
        "Condition.wait",
    ]
    assert waiting["stack"][-1]["file"] == "threading.py"
    assert waiting["cpu_seconds"] < working["cpu_seconds"]


def thread_named(ask: Ask, name: str) -> dict[str, Any]:
    found = {thread["name"]: thread for thread in ask("/debug/threads").document["threads"]}
    thread: dict[str, Any] = found[name]
    return thread


def test_threads_are_told_as_text_without_values_or_folders(ask: Ask) -> None:
    def keeper(secret: str, stopping: threading.Event) -> None:
        stopping.wait() or secret.upper()

    stopping = threading.Event()
    thread = threading.Thread(target=keeper, args=(SECRET, stopping), name="keeper password=hunter2")
    thread.start()
    text = ask("/debug/threads?format=text").body.decode()
    stopping.set()
    thread.join()

    assert "keeper password=*** [" in text
    assert "<locals>.keeper (tests/debugging/test_server.py:" in text
    assert SECRET not in text
    assert str(Path.cwd()) not in text
    assert not any(Path(entry).is_absolute() and f"({entry}/" in text for entry in sys.path)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (threading.__file__, "threading.py"),
        (pytest.__file__, "pytest/__init__.py"),
        (__file__, "tests/debugging/test_server.py"),
        ("/home/ada/secret project/tool.py", "tool.py"),
        ("../ada/tool.py", "tool.py"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
    ],
)
def test_a_file_is_named_as_it_is_imported_and_never_by_where_it_lies(path: str, shown: str) -> None:
    assert file_shown(path) == shown


# --- Heap --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_untraced")
def test_the_heap_names_a_place_that_allocates_and_keeps_while_that_is_traced(ask: Ask) -> None:
    untraced = ask("/debug/heap").document
    first = ask("/debug/heap?start=true").document
    kept = [bytes(1000 + number) for number in range(2000)]
    second = ask("/debug/heap").document
    kept += [bytes(1000 + number) for number in range(4000)]
    third = ask("/debug/heap").document
    text = ask("/debug/heap?format=text").body.decode()

    assert "nothing is traced" in untraced["note"]
    assert "tq debug heap PID --start" in untraced["note"]
    assert "tracing has begun" in first["note"]
    assert "several times as long" in first["note"]
    assert first["largest"] == untraced["largest"] == []
    place = next(found for found in second["largest"] if found["file"] == "tests/debugging/test_server.py")
    assert place["objects"] in (2000, 2001)  # the list itself may be one of them
    assert place["bytes"] == place["bytes_since_last"] > 2_000_000
    grown = next(found for found in third["growing"] if found["file"] == "tests/debugging/test_server.py")
    still = next(found for found in third["largest"] if found["line"] == place["line"])
    assert still["bytes_since_last"] < still["bytes"] / 10
    assert grown["line"] == place["line"] + 2
    assert grown["objects"] in (4000, 4001)
    assert f"tests/debugging/test_server.py:{grown['line']}" in text
    assert len(kept) == 6000


@pytest.mark.usefixtures("_untraced")
def test_tracing_ends_when_that_is_asked_for(ask: Ask) -> None:
    ask("/debug/heap")
    unasked = tracemalloc.is_tracing()
    ask("/debug/heap?start=true")
    was_tracing = tracemalloc.is_tracing()

    stopped = ask("/debug/heap?stop=true").document

    assert was_tracing
    assert not unasked
    assert not tracemalloc.is_tracing()
    assert stopped["note"] == "tracing has ended"
    assert ask("/debug/heap?stop=true").document["note"] == "nothing was traced"


@pytest.mark.usefixtures("_untraced")
def test_the_heap_always_tells_of_memory_objects_threads_and_files(ask: Ask) -> None:
    class Planted:
        pass

    planted = [Planted() for _ in range(100_000)]

    heap = ask("/debug/heap").document

    assert heap["rss"] > 10_000_000
    assert heap["types"][f"{__name__}.{Planted.__qualname__}"] == len(planted)
    assert len(heap["types"]) <= 25
    assert len(heap["generations"]) == 3
    assert heap["threads"] >= 3  # this one, the server's, and whoever answers
    assert heap["open_files"] > 3


# --- Profiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("svg", "image/svg+xml"),
        ("speedscope", "application/json"),
        ("collapsed", "text/plain; charset=utf-8"),
    ],
)
def test_a_profile_comes_in_each_format_and_names_what_is_hot(ask: Ask, form: str, content_type: str) -> None:
    with running(hot):
        got = ask(f"/debug/profile?seconds=0.3&format={form}")

    assert (got.status, got.headers["Content-Type"]) == (200, content_type)
    assert b"burn" in got.body
    if form == "svg":
        drawn = ET.fromstring(got.body)  # noqa: S314 - our own
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_second_profile_is_refused_while_one_is_made(ask: Ask) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, "/debug/profile?seconds=1")
        eventually(profiling._ONE_AT_A_TIME.locked)

        second = ask("/debug/profile?seconds=1")

        assert (second.status, second.error["code"]) == (409, "profile_running")
        assert first.result().status == 200


# --- Who may ask what --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("profile?seconds=0", "seconds: '0' is not a number from 0.1 to 300"),
        ("profile?seconds=301", "seconds: '301' is not a number from 0.1 to 300"),
        ("profile?seconds=nan", "seconds: 'nan' is not a number"),
        ("profile?hz=0", "hz: '0' is not a number from 1 to 1000"),
        ("profile?hz=fast", "hz: 'fast' is not a number"),
        ("profile?format=png", "format: 'png' is not known; write one of svg, speedscope, collapsed"),
        ("profile?second=3", "'second' is not a parameter here; known are format, seconds, hz, pid"),
        ("threads?format=json&format=text", "a parameter is given twice"),
        ("heap?start=true&stop=true", "say one of the two"),
        ("heap?stop=maybe", "stop: 'maybe' is not known; write one of false, true"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_told_with_what_can(ask: Ask, query: str, told: str) -> None:
    got = ask(f"/debug/{query}")

    assert (got.status, got.error["code"]) == (422, "invalid_input")
    assert told in got.error["message"]


@pytest.mark.parametrize("path", ["/", "/debug", "/debug/", "/debug/secrets", "/debug/../etc/passwd"])
def test_there_is_nothing_else(ask: Ask, path: str) -> None:
    got = ask(path)

    assert (got.status, got.error["code"]) == (404, "not_found")
    assert "/debug/threads, /debug/heap, /debug/profile" in got.error["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:99", "localhost", "LOCALHOST:99", "[::1]:99"])
def test_who_means_this_machine_is_answered(ask: Ask, host: str) -> None:
    assert ask("/debug/threads", Host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1.rebound.example"},
        {"Host": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"X_Forwarded_For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
    ],
)
def test_who_was_led_here_or_comes_from_elsewhere_is_not(ask: Ask, headers: dict[str, str]) -> None:
    got = ask("/debug/threads", **headers)

    assert (got.status, got.error["code"]) == (403, "forbidden")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_answered(ask: Ask, method: str) -> None:
    got = ask("/debug/threads", method)

    assert (got.status, got.headers["Allow"]) == (405, "GET")


def test_a_question_for_another_process_is_not_answered_by_this_one(ask: Ask) -> None:
    assert ask(f"/debug/threads?pid={os.getpid()}").status == 200

    got = ask(f"/debug/threads?pid={os.getpid() + 1}")

    assert (got.status, got.error["code"]) == (404, "process_not_found")


def test_nobody_can_ask_from_another_machine(server: DebugServer) -> None:
    elsewhere = socket.gethostbyname(socket.gethostname())
    address = elsewhere if not elsewhere.startswith("127.0.0.1") else "127.0.0.2"

    with socket.socket() as caller:
        assert caller.connect_ex((address, server.port)) != 0
