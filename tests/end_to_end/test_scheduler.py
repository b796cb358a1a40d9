"""`tq scheduler` as real processes: whatever happens to one costs nothing but its tick.

periodiq sleeps until a SIGALRM that it has ordered for the next minute. Sent by hand, it has the
minute be over at once.
"""

import os
import signal
from pathlib import Path

import orjson
import pytest

from tests.end_to_end.commands import BIN
from tests.end_to_end.conftest import System
from tests.end_to_end.test_main_job import enable, ended_runs
from tests.waiting import eventually
from tq.models import RunStatus
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.heartbeats import SCHEDULER


def start_scheduler(system: System, name: str) -> None:
    """Starts the service, and waits until it has ticked and sleeps."""
    system.start(name, [str(BIN / "tq"), "scheduler"])
    eventually(
        lambda: bool(pids_of(system, name)) and sleeps(pids_of(system, name)[-1]), why=system.log_text()
    )


def pids_of(system: System, name: str) -> list[int]:
    """The processes of periodiq that a service has started so far."""
    lines = (system.logs / f"{name}.log").read_bytes().splitlines()
    told = [orjson.loads(line) for line in lines if line.startswith(b"{")]
    return [line["child_pid"] for line in told if line["message"] == "child started"]


def sleeps(pid: int) -> bool:
    """Whether periodiq has ticked once, and takes SIGALRM; before, that would kill it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    [caught] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(caught >> (signal.SIGALRM - 1) & 1)


def ticks_to_do(runtime: Runtime) -> int:
    """How many ticks, and distributions, wait or are being carried out."""
    return int(runtime.store.connection.call("HLEN", f"{runtime.settings.namespace}:queue:control.msgs"))


def shown(runtime: Runtime) -> dict[int, float]:
    """The schedulers that have sent a tick, by process id, and when that was last."""
    signs = runtime.store.vitals.signs()
    return {who.pid: who.seen_at.timestamp() for who in signs.processes if who.component == SCHEDULER}


def is_at_rest(runtime: Runtime) -> bool:
    """Whether every tick that was sent is carried out, and every run of it has ended."""
    return ticks_to_do(runtime) == 0 and runtime.store.vitals.signs().running == 0


def test_a_scheduler_goes_on_ticking_when_redis_was_away(system: System, own_redis: RedisServer) -> None:
    runtime = system.open_runtime()
    start_scheduler(system, "scheduler")
    [periodiq] = pids_of(system, "scheduler")
    assert ticks_to_do(runtime) >= 1
    assert list(shown(runtime)) == [periodiq]

    own_redis.kill()
    os.kill(periodiq, signal.SIGALRM)
    eventually(lambda: "tick not sent" in system.log_text(), why=system.log_text())
    own_redis.start()
    runtime.store.connection.call("FLUSHALL")
    os.kill(periodiq, signal.SIGALRM)

    eventually(lambda: ticks_to_do(runtime) >= 1, why=system.log_text())
    eventually(lambda: list(shown(runtime)) == [periodiq], why=system.log_text())
    assert pids_of(system, "scheduler") == [periodiq]


def test_a_scheduler_that_is_stopped_or_killed_neither_misses_nor_doubles_a_run(system: System) -> None:
    runtime = system.open_runtime()
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    system.start_worker()
    start_scheduler(system, "stopped")
    start_scheduler(system, "killed")
    [stopped], [killed] = pids_of(system, "stopped"), pids_of(system, "killed")

    os.kill(stopped, signal.SIGSTOP)
    os.kill(stopped, signal.SIGALRM)  # a minute passes while it stands still
    enable(system, "ada")
    os.kill(killed, signal.SIGALRM)
    eventually(lambda: bool(ended_runs(runtime)), why=system.log_text())
    before = shown(runtime)[stopped]
    os.kill(stopped, signal.SIGCONT)
    eventually(lambda: shown(runtime)[stopped] > before, why=system.log_text())
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(pids_of(system, "killed")) == 2, why=system.log_text())
    heir = pids_of(system, "killed")[-1]
    eventually(lambda: heir in shown(runtime), why=system.log_text())
    eventually(lambda: is_at_rest(runtime), why=system.log_text())

    served = [run for run in runtime.store.runs.latest() if run.status is not RunStatus.SKIPPED]
    assert [(run.counts.expected, run.counts.success) for run in served] == [(1, 1)] * len(served)
    assert len({call.key for call in system.endpoint.seen}) == len(system.endpoint.seen) == len(served)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT], ids=lambda asked: asked.name)
def test_periodiqs_own_command_takes_its_health_file_along_when_it_is_asked_to_end(
    system: System, tmp_path: Path, asked: signal.Signals
) -> None:
    file = tmp_path / "healthy"
    scheduler = system.start("bare", [str(BIN / "periodiq"), "actors"], {"TQ_HEALTH_FILE": str(file)})
    eventually(file.exists, why=system.log_text())
    eventually(lambda: sleeps(scheduler.pid))

    scheduler.send_signal(asked)
    scheduler.wait(timeout=30)

    assert not file.exists()
