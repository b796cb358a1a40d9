"""What users and runs that have ended cost in Redis' memory; leaves of at most 128 entries keep users compact."""

from pathlib import Path

from tests.store import ListTransport, distribute, end_of, fresh_store, jobs_sent, keys_of, names, running
from tq.models import RunStatus, TaskId, UserId
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store import Store
from tq.store.connection import chunks
from tq.store.preferences import Enable

USERS = 30_000
FIRST_TASK_BYTES = 200
FURTHER_TASK_BYTES = 80
ENDED_RUN_BYTES = 3000


def used_memory(store: Store) -> int:
    return int(store.connection.call("INFO", "memory")["used_memory"])


def test_a_user_takes_at_most_200_bytes_with_one_task_and_80_for_each_further_one(tmp_path: Path) -> None:
    # Ids of 36 characters, both directions counted.
    users = [UserId(f"user-{number:031}") for number in range(USERS)]
    with RedisServer(tmp_path, persist=False) as server:
        store = Store(Settings(redis_url=server.url), ListTransport("memory"))
        store.preferences.apply([Enable(users[0], TaskId("warm_up"))])
        before = used_memory(store)

        store.preferences.apply([Enable(user, TaskId("email_digest")) for user in users])
        with_one = used_memory(store)
        store.preferences.apply([Enable(user, TaskId("hourly_sync")) for user in users])
        with_two = used_memory(store)
        store.close()

    assert (with_one - before) / USERS <= FIRST_TASK_BYTES
    assert (with_two - with_one) / USERS <= FURTHER_TASK_BYTES


def test_a_run_that_has_ended_takes_the_same_however_many_users_it_had(redis_server: RedisServer) -> None:
    with fresh_store(redis_server.url) as store:
        run_id = running(store, names(2000))
        distribute(store, run_id)

        for some in chunks([end_of(job) for job in jobs_sent(store)], 200):
            store.ledger.finish(some)

        kept = [key for key in keys_of(store) if run_id in key]
        sizes = store.connection.calls([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in kept])
        assert store.runs.get(run_id).status is RunStatus.ENDED
        assert sum(sizes) <= ENDED_RUN_BYTES
