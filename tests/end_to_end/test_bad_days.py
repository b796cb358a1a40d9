"""A worker lives through the bad days of its Redis in the middle of a run."""

from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.bad_days import State, administrator, busy, full, locked, read_only
from tests.chaos.proxy import Proxies
from tests.end_to_end.conftest import System
from tests.waiting import eventually
from tq.child_process import kill_group
from tq.models import RunStatus, TaskId, UserId
from tq.redis_server import RedisServer
from tq.store.preferences import Enable

DIGEST = TaskId("digest")
USERS = [f"user-{number:03}" for number in range(300)]
PASSING: list[tuple[State, str]] = [
    (full, "is full (maxmemory)"),
    (read_only, "is a read-only replica"),
    (locked, "refused the login"),
    (busy, "is busy with a slow script"),
]


@pytest.fixture
def _in_haste(system: System) -> None:
    system.environment |= {"TQ_RATE_LIMIT": "400", "DEBUG_REDIS": "false", "LOG_LEVEL": "INFO"}


@pytest.mark.usefixtures("_in_haste")
def test_a_worker_lives_through_the_bad_days_of_redis_and_every_job_ends_once_by_one_call(
    system: System, own_redis: RedisServer
) -> None:
    runtime = system.open_runtime()
    runtime.store.preferences.apply([Enable(UserId(user), DIGEST) for user in USERS])
    seen = system.endpoint.seen

    def goes_on(calls: int) -> None:
        done = len(seen)
        eventually(lambda: len(seen) >= min(done + calls, len(USERS)), why=system.log_text())

    with Proxies() as proxies, administrator(own_redis.url) as admin:
        way = proxies.open(urlsplit(own_redis.url).port or 0)
        system.environment["TQ_REDIS_URL"] = f"redis://127.0.0.1:{way.port}/0"
        worker = system.start_worker(threads=8)
        assert system.run("trigger", "digest").returncode == 0
        goes_on(20)
        for state, told in PASSING:
            with state(admin):
                eventually(lambda: told in system.log_text(), why=system.log_text())  # noqa: B023 - called at once
            admin.script_flush()
            goes_on(20)
        way.slow_down(0.1)  # each way
        goes_on(20)
        way.slow_down(0)
        eventually(lambda: runtime.store.runs.latest()[0].status is RunStatus.ENDED, why=system.log_text())
        [run] = runtime.store.runs.latest()
        kill_group(worker)
        worker.wait()

    assert run.counts.expected == run.counts.success == len(USERS)
    assert run.counts.unaccounted == 0
    assert Counter(call.user for call in seen) == dict.fromkeys(USERS, 1)
    runtime.close()
