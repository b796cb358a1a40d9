"""Worker processes that are asked to end finish what they can, give back the rest, and lose nothing."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

from actors.transport import broker_namespace
from tests.end_to_end.commands import BIN
from tests.end_to_end.conftest import System
from tests.end_to_end.flow_track import READY, Track
from tests.end_to_end.test_crashes import take_all_for_dead
from tests.end_to_end.test_main_job import DIGEST, enable, ended_runs
from tests.waiting import eventually
from tq.child_process import kill_group
from tq.models import SUSPECTS, TaskId, UserId
from tq.pipeline import start_run
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.preferences import Enable
from tq.testing import Behaviour

KINDS = ("plain", "awaiting", "threaded")
LONG_MODULE = """
import asyncio, os, time
from tq import Interval, task

LASTS = float(os.environ.get("LASTS", "0"))

@task("long", interval=Interval.daily(), retries=0)
def long(job):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{job.user_id} {job.attempt}\\n")
    match job.user_id:
        case "plain":
            return time.sleep(LASTS)
        case "awaiting":
            return asyncio.sleep(LASTS)
        case "threaded":
            return asyncio.to_thread(time.sleep, LASTS)
"""


def worker_command(*, shutdown_timeout: str, threads: int = 8) -> list[str]:
    options = ["--processes", "1", "--threads", str(threads), "--shutdown-timeout", shutdown_timeout]
    return [str(BIN / "tq"), "worker", *options]


def waiting(runtime: Runtime, queue: str = "normal") -> int:
    return int(runtime.store.connection.call("LLEN", f"{broker_namespace('e2e')}:{queue}"))


def last_sign(runtime: Runtime) -> float:
    """When the only worker process last showed that it lives."""
    alive = f"{broker_namespace('e2e')}:alive"
    [(_, shown)] = runtime.store.connection.call("ZRANGE", alive, 0, -1, "WITHSCORES")
    return float(shown)


def left_behind(runtime: Runtime) -> list[str]:
    """What Redis keeps only for processes that live, and for calls that are under way."""
    keys = [
        *(
            f"{broker_namespace('e2e')}:{kind}"
            for kind in ("__acks__*", "alive", "__heartbeats__", "noticed")
        ),
        *(runtime.store.keys(family, "*") for family in ("begun", "places")),
        *(runtime.store.keys(family) for family in ("suspects", "processes", "beats")),
    ]
    return [found for key in keys for found in runtime.store.connection.client.scan_iter(key)]


def test_calls_that_take_too_long_are_cut_off_and_carried_out_again_as_if_they_had_not_been_begun(
    system: System, tmp_path: Path
) -> None:
    (tmp_path / "long_tasks.py").write_text(LONG_MODULE)
    calls = tmp_path / "calls"
    calls.touch()
    system.environment |= {
        "TQ_TASK_MODULES": "long_tasks",
        "PYTHONPATH": str(tmp_path),
        "CALLS": str(calls),
    }
    enable(system, *(f"user-{number:02}" for number in range(20)))
    runtime = system.open_runtime()
    runtime.store.preferences.apply([Enable(UserId(kind), TaskId("long")) for kind in KINDS])
    system.endpoint.hold()
    worker = system.start("worker", worker_command(shutdown_timeout="4s"), {"LASTS": "600"})
    assert system.run("trigger", "long").returncode == 0
    eventually(lambda: len(calls.read_text().splitlines()) == 3, why=system.log_text())
    start_run(runtime, DIGEST)
    eventually(lambda: len(system.endpoint.seen) == 5, why=system.log_text())
    sign = last_sign(runtime)

    worker.terminate()

    eventually(lambda: waiting(runtime) == 15, why="what was not begun did not go back at once")
    eventually(lambda: last_sign(runtime) > sign, why="taken for dead while calls have their time")
    assert worker.wait(timeout=20) == 0
    assert (waiting(runtime), waiting(runtime, SUSPECTS)) == (23, 0)
    assert left_behind(runtime) == []
    assert runtime.store.agenda.size() == 0
    [outcomes] = runtime.store.limits.outcomes(["*"], over=timedelta(minutes=1)).values()
    assert outcomes.calls == 0
    cut_off = [call.user for call in system.endpoint.seen]

    system.endpoint.let_go()
    heir = system.start_worker("heir")

    eventually(lambda: len(ended_runs(runtime)) == 2, why=system.log_text())
    kill_group(heir)
    runs = ended_runs(runtime)
    assert all(run.counts.success == run.counts.expected and run.counts.retries == 0 for run in runs)
    assert sorted(calls.read_text().splitlines()) == sorted(f"{kind} 1" for kind in KINDS * 2)
    assert {call.attempt for call in system.endpoint.seen} == {"1"}
    times = Counter(call.user for call in system.endpoint.seen)
    assert times == Counter([*(f"user-{number:02}" for number in range(20)), *cut_off])


def test_a_worker_ends_in_time_and_good_order_while_redis_is_away_and_nothing_is_lost(
    system: System, own_redis: RedisServer
) -> None:
    users = [f"user-{number:02}" for number in range(20)]
    enable(system, *users)
    runtime = system.open_runtime()
    system.endpoint.hold()
    worker = system.start("worker", worker_command(shutdown_timeout="20s", threads=4))
    run = start_run(runtime, DIGEST)
    eventually(lambda: len(system.endpoint.seen) == 4, why=system.log_text())

    own_redis.kill()
    worker.terminate()
    eventually(lambda: "Shutting down" in system.log_text(), why=system.log_text())
    system.endpoint.let_go()

    assert worker.wait(timeout=15) == 0
    own_redis.start()
    take_all_for_dead(runtime)
    heir = system.start_worker("heir")
    eventually(lambda: runtime.store.runs.get(run.id).ended_at is not None, why=system.log_text())
    kill_group(heir)
    counts = runtime.store.runs.get(run.id).counts
    assert counts.success == counts.expected == 20
    assert counts.retries == 0
    times = Counter(call.user for call in system.endpoint.seen)
    assert len(times) == 20
    assert sum(times.values()) == 24


def test_a_worker_that_is_asked_to_end_while_it_starts_ends_in_good_order(system: System) -> None:
    worker = system.start("worker", worker_command(shutdown_timeout="10s"))
    eventually(lambda: "child started" in system.log_text())

    worker.terminate()

    assert worker.wait(timeout=15) == 0


def test_workers_that_are_restarted_one_after_the_other_make_one_call_for_each_job(tmp_path: Path) -> None:
    behaviour = Behaviour(takes=timedelta(milliseconds=300))
    with Track.laid(tmp_path, rate_limit=400, behaviour=behaviour) as track:
        old = [track.commands.start_worker(f"old-{number}", threads=8) for number in range(2)]
        eventually(lambda: track.commands.log_text().count(READY) == 2, why=track.commands.log_text())
        run = track.begin_run("digest", users=500)

        new = [track.commands.start_worker(f"new-{number}", threads=8) for number in range(2)]
        for number, worker in enumerate(old, start=1):
            track.until_served(100 * number)
            worker.terminate()
        counts = track.until_ended(run).counts
        calls = track.downstream.calls
        assert [worker.wait(timeout=20) for worker in old] == [0, 0]
        for worker in new:
            kill_group(worker)

    assert counts.success == counts.expected == 500
    assert counts.unaccounted == 0
    assert len(calls) == len({call.user for call in calls}) == 500
