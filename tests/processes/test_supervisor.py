"""Children are kept running, each alone, and end when the supervisor does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from loguru import logger

from tq.errors import InvalidInput
from tq.supervisor import Child, Supervisor

from . import ends, eventually, python

NO_TIME = timedelta(0)
LONG = timedelta(seconds=30)
INSTANT = timedelta(milliseconds=1)

SLEEPS = "import time; time.sleep(60)"
TOUCHES_AND_SLEEPS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
FAILS = "import sys; sys.exit(3)"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
# Tells the id of what it has started in a file that is complete as soon as it is there.
STARTS_ANOTHER = """
import os, pathlib, sys, time
grandchild = os.fork()
if grandchild:
    draft = pathlib.Path(sys.argv[1] + ".draft")
    draft.write_text(str(grandchild))
    draft.rename(sys.argv[1])
time.sleep(60)
"""

# Runs in a process of its own: two children that print their ids, until it is told to stop.
SUPERVISED_PAIR = """
import sys
from datetime import timedelta
from tq.supervisor import Child, Supervisor

code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
pair = [Child(name, [sys.executable, "-I", "-S", "-c", code]) for name in ("left", "right")]
sys.exit(Supervisor(pair, stop_timeout=timedelta(seconds=20)).run())
"""
# Likewise with a child that has to be killed; it touches the file given.
SUPERVISED_STUBBORN = """
import sys
from datetime import timedelta
from tq.supervisor import Child, Supervisor

code = (
    "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)
child = Child("stubborn", [sys.executable, "-I", "-S", "-c", code, sys.argv[1]])
sys.exit(Supervisor([child], stop_timeout=timedelta(minutes=1)).run())
"""


# Notes each SIGTERM, and ends by the first half a second later.
COUNTS_SIGTERMS = """
import pathlib, signal, sys, time
noted, told = pathlib.Path(sys.argv[1]), []
def note(*_):
    told.append(1)
    with noted.open("a") as lines:
        lines.write("SIGTERM\\n")
signal.signal(signal.SIGTERM, note)
with noted.open("a") as lines:
    lines.write("started\\n")
while not told:
    time.sleep(0.01)
time.sleep(0.5)
"""


@pytest.fixture
def warnings() -> Iterator[list[dict[str, object]]]:
    """The fields of each warning that is logged during the test."""
    found: list[dict[str, object]] = []
    sink = logger.add(lambda message: found.append(message.record["extra"]), level="WARNING")
    yield found
    logger.remove(sink)


def supervisor_of(
    *children: Child,
    stop_timeout: timedelta = LONG,
    restart_delay: timedelta = INSTANT,
    healthy_after: timedelta = LONG,
) -> Supervisor:
    return Supervisor(
        children,
        stop_timeout=stop_timeout,
        restart_delay=restart_delay,
        max_restart_delay=4 * INSTANT,
        healthy_after=healthy_after,
    )


def supervised_pair() -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that supervises two children, and their ids, once both run."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISED_PAIR], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(2)]


def test_a_killed_child_is_replaced_and_its_sibling_goes_on() -> None:
    supervisor = supervisor_of(Child("victim", python(SLEEPS)), Child("sibling", python(SLEEPS)))
    supervisor.start()
    before = supervisor.pids

    os.kill(before["victim"], signal.SIGKILL)
    is_replaced = polled_until(
        supervisor, lambda: supervisor.pids.get("victim", before["victim"]) != before["victim"]
    )
    after = supervisor.pids
    code = supervisor.stop()

    assert is_replaced
    assert after["sibling"] == before["sibling"]
    assert code == 0


def test_the_delay_before_a_restart_doubles_up_to_its_bound(warnings: list[dict[str, object]]) -> None:
    supervisor = supervisor_of(Child("broken", python(FAILS)))

    supervisor.run(until=lambda: len(warnings) >= 4)

    assert [(warning["child"], warning["code"], warning["retry_in_s"]) for warning in warnings[:4]] == [
        ("broken", 3, 0.001),
        ("broken", 3, 0.002),
        ("broken", 3, 0.004),
        ("broken", 3, 0.004),
    ]


def test_a_child_that_lived_for_a_while_is_restarted_without_the_old_delay(
    warnings: list[dict[str, object]],
) -> None:
    supervisor = supervisor_of(Child("mended", python(FAILS)), healthy_after=NO_TIME)

    supervisor.run(until=lambda: len(warnings) >= 3)

    assert [warning["retry_in_s"] for warning in warnings[:3]] == [0.001, 0.001, 0.001]


def test_a_child_that_cannot_be_started_is_tried_again(
    tmp_path: Path, warnings: list[dict[str, object]]
) -> None:
    late = tmp_path / "late"
    supervisor = supervisor_of(Child("late", [str(late)]))
    supervisor.start()

    late.symlink_to("/bin/cat")
    is_started = polled_until(supervisor, lambda: "late" in supervisor.pids)
    supervisor.stop()

    assert is_started
    assert str(late) in str(warnings[0]["reason"])


def test_children_that_are_to_start_anew_are_told_once_and_replaced_without_a_delay(
    tmp_path: Path, warnings: list[dict[str, object]]
) -> None:
    noted = tmp_path / "noted"
    supervisor = supervisor_of(Child("child", python(COUNTS_SIGTERMS, noted)), restart_delay=LONG)
    supervisor.start()
    assert eventually(noted.exists)
    assert eventually(lambda: noted.read_text() == "started\n")

    supervisor.restart()
    supervisor.restart()

    assert polled_until(supervisor, lambda: noted.read_text().count("started") == 2)
    assert noted.read_text() == "started\nSIGTERM\nstarted\n"
    assert warnings == []
    supervisor.stop()


def test_what_a_killed_child_had_started_is_killed_before_it_is_replaced(tmp_path: Path) -> None:
    supervisor = supervisor_of(Child("parent", python(STARTS_ANOTHER, tmp_path / "pid")))
    supervisor.start()
    assert eventually((tmp_path / "pid").exists)
    grandchild = int((tmp_path / "pid").read_text())

    os.kill(supervisor.pids["parent"], signal.SIGKILL)
    is_noticed = polled_until(supervisor, lambda: "parent" not in supervisor.pids)
    has_ended = ends(grandchild)
    supervisor.stop()

    assert is_noticed
    assert has_ended


def test_a_child_gets_its_own_environment_on_top_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "kept")
    tells = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['OURS'] + os.environ['ITS'])"
    told = tmp_path / "told"

    supervisor_of(Child("it", python(tells, told), env={"ITS": "added"})).run(
        until=lambda: told.exists() and told.read_text() == "keptadded"
    )

    assert told.read_text() == "keptadded"


def test_a_stop_in_good_order_gives_exit_code_0(tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    code = supervisor_of(Child("one", python(TOUCHES_AND_SLEEPS, ready))).run(until=ready.exists)

    assert code == 0


def test_a_child_that_ignores_sigterm_is_killed_with_all_it_started_and_gives_exit_code_1(
    tmp_path: Path,
) -> None:
    pid_file = tmp_path / "pid"
    stubborn = Child("stubborn", python(IGNORES_SIGTERM + STARTS_ANOTHER, pid_file))

    code = supervisor_of(stubborn, stop_timeout=timedelta(milliseconds=50)).run(until=pid_file.exists)

    assert code == 1
    assert ends(int(pid_file.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_children_and_gives_exit_code_0(number: signal.Signals) -> None:
    process, children = supervised_pair()

    process.send_signal(number)
    process.communicate(timeout=20)

    assert process.returncode == 0
    assert all(ends(child) for child in children)


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISED_STUBBORN, ready])
    assert eventually(ready.exists)

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)

    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_children_end_when_their_supervisor_is_killed() -> None:
    process, children = supervised_pair()

    process.kill()
    process.communicate(timeout=20)

    assert all(ends(child) for child in children)


def test_signals_mean_what_they_meant_before_once_a_supervisor_has_run() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]

    supervisor_of().run(until=lambda: True)

    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]


def test_two_children_cannot_have_the_same_name() -> None:
    twins = [Child("twin", python(SLEEPS)), Child("twin", python(SLEEPS))]

    with pytest.raises(InvalidInput, match="two children are named 'twin'"):
        supervisor_of(*twins)


def polled_until(supervisor: Supervisor, condition: Callable[[], bool]) -> bool:
    def is_met_after_a_poll() -> bool:
        supervisor.poll()
        return condition()

    return eventually(is_met_after_a_poll)
