"""Messages come with the ledger's leave for jobs that could begin at once."""

from collections.abc import Iterator

import dramatiq
import pytest

from actors.broker import Broker
from tests.store import HOUR, distribute, end_of, names, running
from tq.models import SUSPECTS, Envelope, Priority, RunId, Verdict
from tq.settings import Settings
from tq.store import Store
from tq.store.ledger import Retry
from tq.testing import FrozenClock

QUEUE = Priority.NORMAL.value


@pytest.fixture
def broker(settings: Settings, store: Store) -> Iterator[Broker]:
    """The broker of a process with as many threads to spare as may come."""
    made = Broker(settings, [], store)
    made.declare_queue(QUEUE)
    made.declare_queue(SUSPECTS)
    made.spare = lambda: 100
    yield made
    made.client.close()


def sent(store: Store, users: int) -> RunId:
    """A run of so many users, whose messages are in the queue."""
    run_id = running(store, names(users))
    distribute(store, run_id)
    return run_id


def fetched(broker: Broker, queue: str = QUEUE) -> list[Envelope]:
    """The jobs that the process is handed, in the order of their queue."""
    consumer = broker.consume(queue, prefetch=1000, timeout=1)
    jobs = []
    while (message := next(consumer)) is not None:
        jobs.append(message.args[0])
    return jobs


def test_each_job_is_told_what_the_ledger_would_say_of_it_if_it_were_asked(
    broker: Broker, store: Store
) -> None:
    sent(store, 3)
    going, ended, tried_again = [_on_its_way(body) for body in broker.do_fetch(QUEUE, 3).bodies]
    store.ledger.finish([end_of(ended), Retry(tried_again, HOUR, 1, Priority.NORMAL)])
    for job in (going, ended, tried_again):
        broker.do_requeue(QUEUE, job.message_id)

    jobs = fetched(broker)

    told = {job.user_id: job.permission for job in jobs}
    assert {user: permission.verdict for user, permission in told.items() if permission} == {
        going.user_id: Verdict.GO,
        ended.user_id: Verdict.ENDED,
        tried_again.user_id: Verdict.SUPERSEDED,
    }
    for job, permission in zip(jobs, store.ledger.begin(jobs), strict=True):
        assert job.permission is not None
        assert job.permission[:3] == permission[:3]


def _on_its_way(body: bytes | None) -> Envelope:
    assert body is not None
    envelope: Envelope = dramatiq.Message.decode(body).args[0]
    return envelope


@pytest.mark.parametrize("how", [Verdict.EXPIRED, Verdict.CANCELLED])
def test_a_job_whose_run_is_over_comes_without_leave(
    broker: Broker, store: Store, clock: FrozenClock, how: Verdict
) -> None:
    run_id = sent(store, 1)
    if how is Verdict.CANCELLED:
        store.connection.call("HSET", store.keys("run", run_id), "cancelled_at", "1")
    else:
        clock.advance(2 * HOUR)

    [job] = fetched(broker)

    assert job.permission is not None
    assert job.permission.verdict is how


def test_what_has_leave_is_noted_as_begun_and_nothing_else_is(broker: Broker, store: Store) -> None:
    sent(store, 6)
    broker.spare = lambda: 2

    jobs = fetched(broker)

    assert [job.permission is not None for job in jobs] == [True, True, False, False, False, False]
    begun = store.connection.client.smembers(store.keys("begun", broker.broker_id))
    assert begun == {job.message_id for job in jobs[:2]}


def test_a_suspect_has_to_wait_until_it_is_asked_for_alone(broker: Broker, store: Store) -> None:
    sent(store, 1)
    prefix = f"{broker.namespace}:"
    broker.client.rename(f"{prefix}{QUEUE}", f"{prefix}{SUSPECTS}")
    broker.client.rename(f"{prefix}{QUEUE}.msgs", f"{prefix}{SUSPECTS}.msgs")

    [job] = fetched(broker, SUSPECTS)

    assert job.permission is None


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        "[]",
        '{"actor_name":"tick","args":[]}',
        '{"actor_name":"execute","args":[]}',
        '{"actor_name":"execute","args":[[null,{},7,"schedule","d",1,1,0,1,0,0,""]]}',
        '{"actor_name":"execute","args":[["t","u","r","schedule","d",1,1,"x","y",0,0,""]]}',
        '{"actor_name":"other","args":[["t","u","r","schedule","d",1,1,0,1,0,0,""]]}',
    ],
)
def test_a_message_that_is_no_job_does_not_keep_others_from_coming(
    broker: Broker, store: Store, body: str
) -> None:
    sent(store, 1)
    broker.client.hset(f"{broker.namespace}:{QUEUE}.msgs", "stranger", body)
    broker.client.lpush(f"{broker.namespace}:{QUEUE}", "stranger", "deleted")

    (deleted, stranger, job), permissions = broker.do_fetch(QUEUE, 10)

    assert deleted is None
    assert stranger == body.encode()
    assert list(permissions) == [_on_its_way(job).message_id]
