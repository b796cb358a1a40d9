"""Processes that race for the same occurrence make one run, and give each user exactly one job."""

import sys
from datetime import UTC, datetime, timedelta

from actors.transport import OutboxTransport
from tests.end_to_end.racing_tasks import TASK
from tq.child_process import start_child
from tq.models import RunStatus, UserId
from tq.registry import task_fingerprint
from tq.settings import Settings
from tq.store import Store
from tq.store.preferences import Enable
from tq.testing import FrozenClock

SCHEDULERS, DISTRIBUTORS = 2, 3
USERS = 8000


def test_two_schedulers_and_three_distributors_make_one_run_with_one_job_each(settings: Settings) -> None:
    store = Store(
        settings, OutboxTransport(settings), clock=FrozenClock(datetime.now(UTC) - timedelta(minutes=5))
    )
    store.planning.publish(1, "race", {task_fingerprint(TASK): TASK})
    users = [UserId(f"user-{number:05}") for number in range(USERS)]
    store.preferences.apply([Enable(user, TASK.id) for user in users])
    racers = SCHEDULERS + DISTRIBUTORS
    environment = {
        "TQ_REDIS_URL": settings.redis_url,
        "TQ_NAMESPACE": settings.namespace,
        "TQ_BROKER": "stub",
        # Nobody works the jobs off, so there must be room for all.
        "TQ_RATE_LIMIT": str(2 * USERS),
        "LOG_LEVEL": "WARNING",
    }

    processes = [
        start_child(
            [sys.executable, "-m", "tests.end_to_end.racing", str(number), str(racers)], env=environment
        )
        for number in range(racers)
    ]
    codes = [process.wait(timeout=90) for process in processes]

    assert codes == [0] * racers
    served = [run for run in store.runs.latest() if run.status is RunStatus.RUNNING]
    [run] = served
    sent = store.connection.call("LRANGE", f"{settings.namespace}:outbox", 0, -1)
    assert len(sent) == USERS
    assert len(set(sent)) == USERS
    assert sorted(store.runs.open_users(run.id)) == users
    assert run.counts.expected == run.counts.open == USERS
