"""The main job on real parts: `periodiq actors`, `dramatiq actors`, Redis, HTTP."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from tests.end_to_end.commands import BIN
from tests.end_to_end.conftest import PARAMETER_SECRET, SECRETS, System
from tests.waiting import eventually
from tq.child_process import kill_group
from tq.errors import StoreUnavailable
from tq.models import Run, RunStatus, TaskId, UserId
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store import Store
from tq.store.preferences import Enable
from tq.testing import FrozenClock, make_envelope

DIGEST = TaskId("digest")


def enable(system: System, *users: str, since: timedelta = timedelta(minutes=2)) -> None:
    """Enables users as if it had been done a while ago, so that an occurrence is due at once."""
    transport = system.open_runtime().transport
    store = Store(system.settings, transport, clock=FrozenClock(datetime.now(UTC) - since))
    changes = [Enable(UserId(user), DIGEST, parameters={"word": PARAMETER_SECRET}) for user in users]
    store.preferences.apply(changes)
    store.close()


def ended_runs(runtime: Runtime) -> list[Run]:
    return [run for run in runtime.store.runs.latest(limit=100) if run.status is RunStatus.ENDED]


def test_the_clock_ticks_and_everybody_is_served(system: System) -> None:
    users = [f"user-{number}" for number in range(25)]
    runtime = system.open_runtime()
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    enable(system, *users)

    system.start_worker()
    system.start_scheduler()

    eventually(lambda: bool(ended_runs(runtime)), why=system.log_text())
    run = ended_runs(runtime)[-1]
    assert run.counts.expected == run.counts.success == 25
    assert run.counts.unaccounted == 0
    assert {call.user for call in system.endpoint.seen} == set(users)
    first = system.endpoint.seen[0]
    assert first.authorization == f"Bearer {SECRETS['API_TOKEN']}"
    assert SECRETS["URL_KEY"] in first.path
    assert orjson.loads(first.body)["parameters"] == {"word": PARAMETER_SECRET}


def test_planted_secrets_appear_in_no_log_line(system: System) -> None:
    enable(system, "ada", "bob")
    runtime = system.open_runtime()
    system.endpoint.answer = lambda call: 500 if call.user == "ada" else 200
    system.start_worker()

    result = system.run("trigger", "digest", "--wait", "--json")

    run = ended_runs(runtime)[0]
    text = system.log_text() + result.stdout + result.stderr
    assert (run.counts.success, run.counts.failed) == (1, 1)
    assert len(system.endpoint.seen) == 4
    assert "attempt failed, to be retried" in text
    for secret in [*SECRETS.values(), PARAMETER_SECRET]:
        assert secret not in text
    failures = [result.to_json() for result in runtime.store.results.failures(DIGEST)]
    assert failures
    assert not any(secret in failure for secret in SECRETS.values() for failure in failures)


def test_a_job_whose_worker_is_killed_in_mid_call_is_carried_out_again_under_the_same_key(
    system: System,
) -> None:
    enable(system, "ada")
    runtime = system.open_runtime()
    system.endpoint.hold()
    doomed = system.start_worker("doomed")
    system.run("trigger", "digest", "--json")
    eventually(lambda: len(system.endpoint.seen) == 1, why=system.log_text())

    kill_group(doomed)
    doomed.wait()
    system.endpoint.let_go()
    system.start_worker("heir")

    eventually(lambda: bool(ended_runs(runtime)), why=system.log_text())
    [run] = ended_runs(runtime)
    first, second = system.endpoint.seen
    assert first.key == second.key
    assert first.body == second.body
    assert run.counts.success == run.counts.expected == 1


def test_the_message_of_a_finished_job_that_is_delivered_again_makes_no_call(system: System) -> None:
    enable(system, "ada")
    runtime = system.open_runtime()
    system.start_worker()
    system.run("trigger", "digest", "--wait", "--json")
    [run] = ended_runs(runtime)
    calls = len(system.endpoint.seen)

    envelope = make_envelope("ada", task_id="digest", run_id=run.id, definition=run.definition)
    message = runtime.transport.job_message(envelope, runtime.definitions.get(run.definition).priority)
    queue = f"e2e:queue:{message.queue}"
    runtime.store.connection.calls(
        [
            ("HSET", f"{queue}.msgs", message.id, message.body),
            ("RPUSH", queue, message.id),
            ("PUBLISH", "e2e:wake", message.queue),
        ]
    )

    eventually(lambda: runtime.store.connection.call("HLEN", f"{queue}.msgs") == 0, why=system.log_text())
    assert len(system.endpoint.seen) == calls == 1
    assert runtime.store.runs.get(run.id).counts.success == 1


def test_two_schedulers_and_three_workers_make_one_run_with_one_job_each(system: System) -> None:
    users = [f"user-{number:04}" for number in range(1500)]
    runtime = system.open_runtime()
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    enable(system, *users)

    for number in range(3):
        system.start_worker(f"worker-{number}", threads=8)
    for number in range(2):
        system.start_scheduler(f"scheduler-{number}")

    eventually(lambda: bool(ended_runs(runtime)), why=system.log_text())
    run = ended_runs(runtime)[-1]
    calls = [call for call in system.endpoint.seen if run.id.encode() in call.body]
    assert sorted(call.user for call in calls) == users
    assert run.counts.expected == run.counts.success == len(users)


def test_work_goes_on_after_redis_was_away(system: System, own_redis: RedisServer) -> None:
    users = [f"user-{number:03}" for number in range(300)]
    enable(system, *users)
    runtime = system.open_runtime()
    system.start("worker", [str(BIN / "tq"), "worker", "--processes", "1", "--threads", "4"])
    system.run("trigger", "digest", "--json")
    eventually(lambda: len(system.endpoint.seen) > 20, why=system.log_text())

    own_redis.kill()
    own_redis.start()

    eventually(lambda: bool(_ended(runtime)), why=system.log_text())
    [run] = ended_runs(runtime)
    assert run.counts.expected == run.counts.success == 300
    assert {call.user for call in system.endpoint.seen} == set(users)


def test_a_scheduler_and_a_worker_wait_for_redis_and_end_when_they_are_asked(
    system: System, own_redis: RedisServer
) -> None:
    enable(system, "ada")
    own_redis.stop()
    worker = system.start("worker", [str(BIN / "tq"), "worker", "--processes", "1", "--threads", "2"])
    scheduler = system.start("scheduler", [str(BIN / "tq"), "scheduler"])
    eventually(lambda: system.log_text().count("cannot be reached") >= 2, why=system.log_text())

    own_redis.start()

    runtime = system.open_runtime()
    eventually(lambda: runtime.store.heartbeats.last_tick() is not None, why=system.log_text())
    worker.terminate()
    scheduler.terminate()
    assert worker.wait(timeout=30) == 0
    assert scheduler.wait(timeout=30) == 0


def _ended(runtime: Runtime) -> list[Run]:

    try:
        return ended_runs(runtime)
    except StoreUnavailable:
        return []


def test_a_python_task_is_carried_out_by_a_worker(system: System, tmp_path: Path) -> None:
    written = tmp_path / "written"
    (tmp_path / "my_tasks.py").write_text(
        "from pathlib import Path\n"
        "from tq import Interval, Job, task\n"
        "@task('note', interval=Interval.hourly(), retries=2, retry_delay='1s')\n"
        "async def note(job: Job) -> None:\n"
        "    if job.attempt == 1:\n"
        "        raise RuntimeError('not yet')\n"
        f"    Path({str(written)!r}).write_text(f'{{job.user_id}} {{job.attempt}} {{job.parameters}}')\n"
    )
    system.environment |= {"TQ_TASK_MODULES": "my_tasks", "PYTHONPATH": str(tmp_path)}
    system.start_worker()

    system.run("users", "enable", "ada", "note", "--param", "colour=blue")
    done = system.run("trigger", "note", "--wait", "--json")

    assert done.returncode == 0, done.stderr
    assert written.read_text() == "ada 2 {'colour': 'blue'}"


def test_a_worker_that_is_asked_to_end_finishes_what_it_has_begun_and_loses_nothing(system: System) -> None:
    users = [f"user-{number}" for number in range(40)]
    enable(system, *users)
    runtime = system.open_runtime()
    system.endpoint.hold()
    worker = system.start("worker", [str(BIN / "tq"), "worker", "--processes", "1", "--threads", "4"])
    system.run("trigger", "digest", "--json")
    eventually(lambda: len(system.endpoint.seen) == 4, why=system.log_text())

    worker.terminate()
    eventually(lambda: "Shutting down" in system.log_text())
    system.endpoint.let_go()

    assert worker.wait(timeout=40) == 0
    begun = len(system.endpoint.seen)
    [run] = runtime.store.runs.latest()
    assert begun < len(users)
    assert run.counts.success == begun
    system.start_worker("heir")
    eventually(lambda: bool(ended_runs(runtime)), why=system.log_text())
    assert sorted(call.user for call in system.endpoint.seen) == sorted(users)


def test_a_task_that_is_edited_or_broken_while_all_runs_is_taken_or_left(system: System) -> None:
    runtime = system.open_runtime()
    system.start_worker()
    # It shows itself when it has read the definitions: until then there is nothing for it to keep to.
    eventually(lambda: bool(runtime.store.vitals.signs().processes), why=system.log_text())
    system.run("users", "enable", "ada", "digest")
    tasks = system.settings.tasks_file
    good = tasks.read_text()

    tasks.write_text(good + "\n    retires: 2\n")
    eventually(lambda: "task definitions not reloaded" in system.log_text(), why=system.log_text())
    refused = system.run("trigger", "digest", "--wait", "--json")
    tasks.write_text(good.replace("/digest/", "/edited/"))
    done = system.run("trigger", "digest", "--wait", "--json")

    assert refused.returncode == 2
    assert "did you mean retries?" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert [call.path.split("?")[0] for call in system.endpoint.seen] == ["/edited/ada"]
    assert len(ended_runs(runtime)) == 1
