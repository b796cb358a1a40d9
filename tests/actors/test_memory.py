"""What a run that is under way costs in Redis' memory: as much as what it may have queued at most."""

from tests.store import distribute, keys_of, running
from tq.pipeline.distribute import MOST_QUEUED
from tq.store import Store

USERS = 2500
QUEUED_BYTES = 10_000_000


def test_what_a_run_may_have_queued_takes_at_most_10_mb(store: Store) -> None:
    # Ids of 36 characters; per job a place in the queue, a message, and an entry in the open set.
    run_id = running(store, [f"user-{number:031}" for number in range(USERS)])

    sent = distribute(store, run_id)

    kept = [key for key in keys_of(store) if ":queue:" in key or ":open:" in key]
    sizes = store.connection.calls([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in kept])
    assert sent == USERS
    assert len(kept) == 3
    assert sum(sizes) / USERS * MOST_QUEUED <= QUEUED_BYTES
