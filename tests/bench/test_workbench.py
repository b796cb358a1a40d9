"""What benches measure on: nothing that is set outside counts, and nothing that fails is waited for."""

import os
import sys
from pathlib import Path

import pytest

from tests.waiting import eventually
from tq.bench.everything import has_failed, run_all
from tq.bench.machine import Cpus, cpus, members_of, use_of
from tq.bench.workbench import RunningEndpoint, Workbench, started, user_id
from tq.errors import TaskQueueError
from tq.redis_server import RedisServer
from tq.settings import Settings, variable_of

SLEEPS = "import time; time.sleep(600)"
# Like Dramatiq's command, it leaves the work to a child.
HAS_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{SLEEPS}'])"


def python(code: str) -> list[str]:
    """A command that runs such code."""
    return [sys.executable, "-c", code]


def test_every_setting_has_a_value_that_no_environment_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQ_RESULT_HISTORY", "77")
    with started([python(SLEEPS)], tmp_path / "log", {}) as processes:
        bench = Workbench(
            tmp_path, RedisServer(tmp_path, port=1), RunningEndpoint("http://127.0.0.1:1", processes)
        )

    assert {variable_of(field) for field in Settings.model_fields} <= set(bench.environment)
    assert bench.settings.result_history == Settings.model_fields["result_history"].default


def test_what_a_process_has_started_is_measured_with_it_and_ends_with_it(tmp_path: Path) -> None:
    with started([python(HAS_A_CHILD)], tmp_path / "log", {}) as processes:
        [process] = processes.children
        eventually(lambda: len(members_of(process.pid)) == 2)

        use = use_of([process.pid])

        assert use.peak_rss_mb >= use.rss_mb > 1
        assert use.open_files > 0
    eventually(lambda: members_of(process.pid) == [])


def test_cpu_time_is_that_of_all_processes_of_a_group(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(600)"
    with started([python(busy), python(busy)], tmp_path / "log", {}) as processes:
        eventually(lambda: processes.use.cpu_s >= 0.5)  # of 0.6, which are counted in hundredths


def test_what_the_host_gives_to_others_is_told_as_part_of_what_was_wanted() -> None:
    before = Cpus(worked=100, stolen=50)

    assert Cpus(worked=130, stolen=60).stolen_since(before) == 0.25
    assert Cpus(worked=130, stolen=50).stolen_since(before) == 0.0
    assert before.stolen_since(before) == 0.0


def test_what_all_processors_have_worked_goes_up_with_what_a_process_works(tmp_path: Path) -> None:
    before = cpus()
    busy = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(600)"
    with started([python(busy)], tmp_path / "log", {}) as processes:
        eventually(lambda: processes.use.cpu_s >= 0.25)

    now = cpus()
    assert now.worked - before.worked >= 20  # hundredths of a second
    assert now.stolen >= before.stolen


def test_a_process_that_ends_is_told_with_the_end_of_its_log_and_not_waited_for(tmp_path: Path) -> None:
    with (
        started([python("print('out of luck')")], tmp_path / "log", {}) as processes,
        pytest.raises(TaskQueueError, match=r"a process ended .* out of luck"),
    ):
        processes.wait_for(lambda: False, "what never comes")


def test_processes_that_were_started_end_when_the_next_cannot_be_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    first = python(f"import os; open('{pid_file}', 'w').write(str(os.getpid())); {SLEEPS}")

    with pytest.raises(FileNotFoundError), started([first, ["no-such-command"]], tmp_path / "log", {}):
        pass

    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [
        pid for pid in mine if "no-such-command" in _command_line(pid) or str(pid_file) in _command_line(pid)
    ]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_user_has_an_id_as_long_as_a_uuid() -> None:
    ids = {user_id(number) for number in (0, 1, 999_999)}

    assert {len(one) for one in ids} == {36}
    assert len(ids) == 3


def test_a_bench_that_fails_keeps_no_other_from_being_measured() -> None:
    def fails() -> dict[str, object]:
        raise TaskQueueError("no luck")

    ended = []
    report = run_all(
        {"first": fails, "second": lambda: {"unaccounted": 0, "machine": "a good one"}},
        on_end=lambda: ended.append(1),
    )

    assert report == {"machine": "a good one", "first": {"error": "no luck"}, "second": {"unaccounted": 0}}
    assert len(ended) == 2


@pytest.mark.parametrize(
    ("figures", "failed"),
    [({"unaccounted": 0}, False), ({"unaccounted": 1}, True), ({"error": ""}, True), ({}, False)],
)
def test_a_report_has_failed_if_a_bench_has_or_if_anybody_is_unaccounted_for(
    figures: dict[str, object], failed: bool
) -> None:
    assert has_failed({"machine": {"cpus": 2}, "execute": figures}) is failed
