"""Jobs that begin and end together: each message is its holder's, and Redis is asked once for many."""

import orjson
import pytest

from actors.transport import broker_namespace
from tests.store import distribute, end_of, names, running
from tq.models import SUSPECTS, Envelope, Priority, Verdict
from tq.settings import Settings
from tq.store import Store

QUEUE = Priority.NORMAL.value
OURS, THEIRS = "process-1", "process-2"


class Office:
    """Jobs in Dramatiq's queues, and who has fetched their messages."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.redis = store.connection.client
        self.prefix = broker_namespace(settings.namespace)
        self.store = store

    def jobs(self, users: int) -> list[Envelope]:
        """The jobs of a run for so many users, fetched by our process."""
        distribute(self.store, running(self.store, names(users)))
        bodies = self.store.connection.call("HVALS", f"{self.prefix}:{QUEUE}.msgs")
        jobs = [Envelope.from_wire(orjson.loads(body)["args"][0]) for body in bodies]
        self.redis.sadd(self.acks(OURS), *(job.message_id for job in jobs))
        for job in jobs:
            job.holder, job.queue = OURS, QUEUE
        return jobs

    def acks(self, holder: str, queue: str = QUEUE) -> str:
        """The set of what a process has fetched."""
        return f"{self.prefix}:__acks__.{holder}.{queue}"

    def hand_over(self, job: Envelope) -> None:
        """Another process has the message now, and ours does not know it."""
        self.redis.smove(self.acks(OURS), self.acks(THEIRS), job.message_id)

    def suspect(self, job: Envelope) -> None:
        """Our process has fetched the message from the queue of suspects."""
        self.redis.smove(self.acks(OURS), self.acks(OURS, SUSPECTS), job.message_id)
        body = self.store.connection.call("HGET", f"{self.prefix}:{QUEUE}.msgs", job.message_id)
        self.redis.hset(f"{self.prefix}:{SUSPECTS}.msgs", job.message_id, body)
        self.redis.hdel(f"{self.prefix}:{QUEUE}.msgs", job.message_id)
        job.queue = SUSPECTS

    @property
    def messages(self) -> set[str]:
        """The ids of all messages that are left."""
        call = self.store.connection.call
        return {id_ for queue in (QUEUE, SUSPECTS) for id_ in call("HKEYS", f"{self.prefix}:{queue}.msgs")}

    def commands(self) -> int:
        """How many commands Redis has carried out so far, those of scripts included."""
        statistics = self.store.connection.client.info("commandstats")
        return sum(statistics[name]["calls"] for name in statistics)


@pytest.fixture
def office(store: Store, settings: Settings) -> Office:
    """Queues in a namespace of their own."""
    return Office(store, settings)


def test_of_jobs_that_end_together_those_messages_go_that_the_process_has(office: Office) -> None:
    jobs = office.jobs(6)
    _, kept, suspect, *_ = jobs
    office.hand_over(kept)
    office.suspect(suspect)

    office.store.ledger.finish([end_of(job) for job in [*jobs, jobs[0]]])

    assert office.messages == {kept.message_id}
    assert office.redis.keys(f"{office.prefix}:__acks__.*") == [office.acks(THEIRS)]


def test_nothing_is_acknowledged_if_the_process_has_none_of_the_messages(office: Office) -> None:
    jobs = office.jobs(2)
    for job in jobs:
        office.hand_over(job)

    office.store.ledger.finish([end_of(job) for job in jobs])

    assert office.messages == {job.message_id for job in jobs}
    assert office.redis.smembers(office.acks(THEIRS)) == office.messages


def test_of_jobs_that_are_to_begin_together_those_go_ahead_that_the_process_has(office: Office) -> None:
    ours, theirs, suspect, elsewhere = office.jobs(4)
    office.hand_over(theirs)
    office.suspect(suspect)
    elsewhere.queue = SUSPECTS

    permissions = office.store.ledger.begin([ours, theirs, suspect, elsewhere])

    assert [permission.verdict for permission in permissions] == [
        *(Verdict.GO, Verdict.ELSEWHERE, Verdict.GO, Verdict.ELSEWHERE)
    ]
    begun = office.redis.smembers(office.store.keys("begun", OURS))
    assert begun == {ours.message_id, suspect.message_id}


def test_a_job_that_begins_and_ends_among_others_costs_redis_three_commands_at_most(office: Office) -> None:
    jobs = office.jobs(100)
    office.store.ledger.settle([], jobs[:1])
    before = office.commands()

    office.store.ledger.settle([], jobs)
    office.store.ledger.settle([end_of(job) for job in jobs], [])

    assert office.commands() - before <= 3 * len(jobs)
