"""The ledger is asked and told in groups, and nothing that was handed in is forgotten."""

from collections.abc import Iterator, Sequence

import pytest

from tests.waiting import eventually
from tq.bookkeeper import FIRST_PAUSE_S, Bookkeeper
from tq.limiter import Limiter
from tq.limits import Limit
from tq.models import Envelope, RunId, Verdict
from tq.models.rates import Strategy
from tq.store import Store

from . import distribute, end_of, hold, jobs_sent, names, running

HOLDER = "process-1"
UNLIMITED = Limit(Strategy.ADAPTIVE, 1000.0, 1000.0, 1000.0)


class Waiting:
    """Jobs that wait, and what the bookkeeper did with them."""

    def __init__(self) -> None:
        self.next: list[Envelope] = []
        self.handed_out: list[Envelope] = []
        self.ended: list[Envelope] = []
        self.is_starving = self.is_hungry = False

    def take_next(self) -> list[Envelope]:
        """All of them."""
        taken, self.next = self.next, []
        return taken

    def hand_out(self, jobs: Sequence[Envelope]) -> None:
        """Notes who may begin."""
        self.handed_out += jobs

    def prod(self) -> bool:
        """Nobody is to be woken."""
        return False

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """Notes whose end is stored."""
        self.ended += jobs


class Office:
    """A bookkeeper with the jobs of a run that its process has fetched."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waiting = Waiting()
        self.acknowledged: list[Envelope] = []
        self.limiter = Limiter(store.limits, UNLIMITED, lambda _job: (UNLIMITED, 1), process="test")
        self.bookkeeper = Bookkeeper(store.ledger, self.limiter)
        self.run_id = RunId("")

    def start(self) -> None:
        """Has the bookkeeper begin."""
        self.bookkeeper.start(self.waiting, on_settled=self.acknowledged.extend)

    def fetch(self, users: int) -> list[Envelope]:
        """The jobs of a run for so many users."""
        self.run_id = running(self.store, names(users))
        distribute(self.store, self.run_id)
        jobs = jobs_sent(self.store)
        hold(self.store, HOLDER, *jobs)
        return jobs

    def begin(self, *jobs: Envelope) -> None:
        """Has jobs wait for their beginning."""
        with self.limiter.lock:
            self.waiting.next += jobs
            self.limiter.pass_on()

    @property
    def held(self) -> int:
        """How many messages are not acknowledged."""
        return int(self.store.connection.call("SCARD", f"{self.store.keys.prefix[:-1]}.held"))

    @property
    def succeeded(self) -> int:
        """How many jobs of the run have ended."""
        return self.store.runs.get(self.run_id).counts.success


@pytest.fixture
def office(store: Store) -> Iterator[Office]:
    """A bookkeeper that waits to be started."""
    made = Office(store)
    yield made
    made.bookkeeper.stop()


def test_without_a_bookkeeper_whoever_calls_writes(office: Office) -> None:
    [job] = office.fetch(1)

    assert not office.bookkeeper.record(end_of(job))
    assert not job.is_recorded


def test_what_ends_together_is_written_and_acknowledged_in_few_round_trips(office: Office) -> None:
    jobs = office.fetch(300)
    before = office.store.connection.round_trips
    with office.limiter.lock:  # nothing is written before all have ended
        office.start()
        office.bookkeeper._endings += [end_of(job) for job in jobs]

    eventually(lambda: len(office.acknowledged) == 300)

    assert office.store.connection.round_trips - before <= 4
    assert (office.succeeded, office.held) == (300, 0)
    assert office.waiting.ended == office.acknowledged


def test_jobs_are_handed_out_with_what_the_ledger_says_of_each(office: Office) -> None:
    going, ended = office.fetch(2)
    office.store.ledger.finish([end_of(ended)])
    office.start()

    office.begin(going, ended)
    eventually(lambda: office.waiting.handed_out == [going, ended])

    told = [job.permission for job in (going, ended)]
    assert [permission.verdict for permission in told if permission] == [Verdict.GO, Verdict.ENDED]


def test_what_was_handed_in_is_written_before_it_stops(office: Office) -> None:
    jobs = office.fetch(50)
    office.start()

    recorded = [office.bookkeeper.record(end_of(job)) for job in jobs]
    office.bookkeeper.stop()

    assert all(recorded)
    assert (office.succeeded, office.held) == (50, 0)
    assert not office.bookkeeper.record(end_of(jobs[0]))


def test_ends_and_beginnings_that_redis_refuses_are_tried_until_it_takes_them(office: Office) -> None:
    first, second = office.fetch(2)
    keys, client = office.store.keys, office.store.connection.client
    client.rename(keys("open", office.run_id), "elsewhere")
    client.set(keys("open", office.run_id), "in the way")
    office.start()

    office.bookkeeper.record(end_of(first))
    office.begin(second)
    eventually(lambda: office.bookkeeper._pause_s > FIRST_PAUSE_S)
    assert (office.acknowledged, office.waiting.handed_out) == ([], [])
    client.rename("elsewhere", keys("open", office.run_id))

    eventually(lambda: office.acknowledged == [first] and office.waiting.handed_out == [second])
    assert office.succeeded == 1


def test_a_job_that_another_has_ended_is_acknowledged_and_not_counted_again(office: Office) -> None:
    [job] = office.fetch(1)
    office.store.ledger.finish([end_of(job)])
    hold(office.store, HOLDER, job)
    office.start()

    office.bookkeeper.record(end_of(job))
    eventually(lambda: office.acknowledged == [job])

    assert (office.succeeded, office.held) == (1, 0)
