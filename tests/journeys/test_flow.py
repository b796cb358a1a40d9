"""Jobs are sent only as far ahead as they will be carried out; the rest of a run stays a cursor."""

import importlib
import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import dramatiq
import pytest
from loguru import logger

from actors.transport import OutboxTransport
from tests.journeys.conftest import Begin
from tests.store import agenda_entries, end_of
from tq.clock import to_ms
from tq.models import Envelope, Interval, Priority, RunCounts, RunId, RunStatus, TaskId, TaskType, UserId
from tq.models.runs import Wait
from tq.pipeline import distribute, forecast, start_run
from tq.pipeline.distribute import LEAST_ROOM, MOST_QUEUED, RETRY_BACKLOG, room_of
from tq.store.agenda import PutOff
from tq.store.ledger import Retry
from tq.store.limits import Outlook
from tq.testing import FakeExecutor, Journey, make_task

# `tq.pipeline.distribute` names the function.
module = importlib.import_module("tq.pipeline.distribute")
DIGEST = TaskId("email_digest")
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Flow:
    """A journey in which jobs are worked only when a case says so, and whose limiter is told what to expect."""

    def __init__(self, journey: Journey, monkeypatch: pytest.MonkeyPatch, *, rate: float) -> None:
        self.journey = journey
        self.runtime = journey.runtime
        self.store = journey.runtime.store
        self.rate = rate
        monkeypatch.setattr(self.runtime, "outlook", self._outlook)

    def _outlook(self, _task: TaskType) -> Outlook:
        return Outlook(self.rate, held=self.rate == 0, why="paused by ada" if self.rate == 0 else "steady")

    def start(self, users: int, *, prefix: str = "user", task_id: str = DIGEST) -> RunId:
        """Starts a run for so many users."""
        names = [f"{prefix}-{number}" for number in range(users)]
        for name in names:
            self.journey.enable(name, task_id)
        return start_run(self.runtime, TaskId(task_id)).id

    def step(self, run_id: RunId, *, later: timedelta = SECOND) -> int:
        """Lets time pass and the run be distributed once more; returns how many jobs were sent."""
        self.journey.clock.advance(later)
        self.store.agenda.release_due()
        return distribute(self.runtime, run_id)

    def counts(self, run_id: RunId) -> RunCounts:
        return self.store.runs.get(run_id).counts

    def queued(self, run_id: RunId) -> int:
        """How many jobs of a run are queued or under way."""
        counts = self.counts(run_id)
        return counts.open - counts.waiting

    def take(self, number: int) -> list[Envelope]:
        """So many jobs from the queue, as workers take them."""
        transport = self.runtime.transport
        assert isinstance(transport, OutboxTransport)
        jobs: list[Envelope] = []
        while len(jobs) < number and (body := self.store.connection.call("LPOP", transport.outbox)):
            message: dramatiq.Message[None] = dramatiq.Message.decode(body.encode())
            if message.actor_name == "execute":
                jobs.append(message.args[0])
        return jobs

    def work(self, number: int) -> int:
        """Has so many jobs succeed; returns how many there were."""
        return sum(self.store.ledger.finish([end_of(job) for job in self.take(number)]))

    def fail(self, number: int) -> None:
        """Has so many jobs fail, to be tried again in an hour."""
        self.store.ledger.finish([Retry(job, HOUR, 1, Priority.NORMAL) for job in self.take(number)])

    def put_off(self, number: int) -> None:
        """Has so many jobs come again in an hour, because there was no slot for them."""
        message = self.runtime.transport.job_message
        jobs = self.take(number)
        self.store.agenda.put_off([PutOff(job, message(job, Priority.NORMAL), HOUR) for job in jobs])

    def wakes_in(self, run_id: RunId) -> timedelta:
        """After which time the run is distributed further."""
        due = agenda_entries(self.store)[f"d|{run_id}"]
        return (due - to_ms(self.journey.clock.now())) * timedelta(milliseconds=1)


Flowing = Callable[..., Flow]


@pytest.fixture
def flowing(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> Flowing:
    """Begins a journey at an instant at which nothing is due, with a rate that may be expected."""

    def _flowing(*tasks: TaskType, rate: float) -> Flow:
        return Flow(begin(*(tasks or (make_task(),)), at="2026-11-24T15:00"), monkeypatch, rate=rate)

    return _flowing


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged as a warning, or about new jobs."""
    found: list[str] = []
    sink = logger.add(lambda message: found.append(message.record["message"]), level="INFO")
    yield found
    logger.remove(sink)


def about(users: int) -> Callable[[int], bool]:
    """A page is about as large as was asked for: members are evenly spread, but not laid out."""
    return lambda found: abs(found - users) <= 4 * users**0.5 + 4


# --- How much room there is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "rate", "runs", "room"),
    [
        (RunCounts(), 100, 1, 500),
        (RunCounts(open=200), 100, 1, 300),
        (RunCounts(open=700), 100, 1, 0),
        (RunCounts(open=700, waiting=300), 100, 1, 100),
        (RunCounts(), 100, 4, 125),
        (RunCounts(), 0.5, 1, LEAST_ROOM),
        (RunCounts(), 0.5, 100, LEAST_ROOM),
        (RunCounts(open=3), 0.5, 1, LEAST_ROOM - 3),
        (RunCounts(), 10_000, 1, MOST_QUEUED),
        (RunCounts(), 0, 1, 0),
        (RunCounts(open=RETRY_BACKLOG, waiting=RETRY_BACKLOG), 100, 1, 0),
        (RunCounts(open=RETRY_BACKLOG, waiting=RETRY_BACKLOG - 1), 100, 1, 499),
    ],
)
def test_a_run_has_room_for_its_part_of_what_five_seconds_carry_out(
    counts: RunCounts, rate: float, runs: int, room: int
) -> None:
    assert room_of(counts, rate=rate, runs=runs) == room


# --- A run that is larger than its room ----------------------------------------------------------------


def test_a_run_is_sent_as_far_ahead_as_its_room_and_refilled_as_it_is_worked_off(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(2000)

    first, at_once = flow.step(run_id), flow.step(run_id)
    worked = flow.work(100)
    refilled = flow.step(run_id)

    assert about(500)(first)
    assert at_once <= 4
    assert about(worked)(refilled)
    assert about(500)(flow.queued(run_id))


def test_a_run_that_has_no_room_is_looked_at_again_in_a_second(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(2000)
    flow.store.agenda.release_due()
    watched = flow.wakes_in(run_id)

    flow.step(run_id)
    woken = flow.wakes_in(run_id)
    flow.step(run_id)

    assert (watched, woken, flow.wakes_in(run_id)) == (30 * SECOND, SECOND, SECOND)
    assert flow.store.runs.get(run_id).waits_for is Wait.ROOM


def test_nothing_is_sent_while_nothing_may_be_called_and_it_goes_on_afterwards(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(2000)
    flow.step(run_id)
    flow.work(2000)
    before = flow.store.runs.get(run_id).shares

    flow.rate = 0
    held = [flow.step(run_id) for _ in range(3)]
    wakes_in, shares = flow.wakes_in(run_id), flow.store.runs.get(run_id).shares
    flow.rate = 100
    after = flow.step(run_id)

    assert held == [0, 0, 0]
    assert wakes_in == SECOND
    assert [share.cursor for share in shares] == [share.cursor for share in before]
    assert about(500)(after)


def test_a_rate_of_one_call_in_two_seconds_keeps_a_run_moving(flowing: Flowing) -> None:
    flow = flowing(rate=0.5)
    run_id = flow.start(40)
    most = worked = steps = 0

    while flow.store.runs.get(run_id).status is RunStatus.RUNNING and steps < 400:
        flow.step(run_id)
        most = max(most, flow.queued(run_id))
        worked += flow.work(1)
        steps += 1

    assert worked == 40
    assert most <= 2 * LEAST_ROOM + 4


def test_jobs_that_wait_for_their_retry_take_up_no_room(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(2000)
    flow.step(run_id)

    flow.fail(2000)
    after_failures = flow.step(run_id)

    assert about(500)(after_failures)
    assert about(500)(flow.counts(run_id).waiting)


def test_jobs_that_were_put_off_take_up_room_for_they_are_still_to_be_called(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(2000)
    flow.step(run_id)

    flow.put_off(2000)

    assert flow.step(run_id) <= 4
    assert flow.counts(run_id).waiting == 0


def test_members_whose_deadline_is_past_need_no_room(flowing: Flowing) -> None:
    flow = flowing(rate=0)
    run_id = flow.start(300)

    flow.step(run_id, later=timedelta(hours=25))

    run = flow.store.runs.get(run_id)
    assert (run.status, run.counts.expired, run.counts.expected) == (RunStatus.ENDED, 300, 300)


# --- Retries -----------------------------------------------------------------------------------------------


def test_no_new_jobs_are_sent_while_too_many_wait_for_their_retry_and_it_is_said_once(
    flowing: Flowing, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(module, "RETRY_BACKLOG", 20)
    flow = flowing(rate=100)
    run_id = flow.start(2000)
    flow.step(run_id)
    flow.fail(20)

    held = [flow.step(run_id) for _ in range(3)]
    waits_for, wakes_in = flow.store.runs.get(run_id).waits_for, flow.wakes_in(run_id)
    flow.work(2000)
    after = [flow.step(run_id, later=HOUR) for _ in range(3)]

    assert held == [0, 0, 0]
    assert (waits_for, wakes_in) == (Wait.RETRIES, SECOND)
    assert about(480)(after[0])
    assert lines.count("no new jobs are sent, because too many wait for their retry") == 1
    assert lines.count("new jobs are sent again") == 1


# --- Runs beside each other --------------------------------------------------------------------------------


def test_a_small_run_is_served_at_once_beside_a_huge_one(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    huge = flow.start(2000)
    flow.step(huge)
    small = start_run(flow.runtime, DIGEST, user_ids=[job.user_id for job in flow.take(5)]).id

    assert flow.step(small) == 5
    assert flow.store.runs.get(small).fanned_out


def test_runs_that_want_more_than_there_is_share_it(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    first, second = flow.start(2000), start_run(flow.runtime, DIGEST).id

    for _ in range(12):
        flow.work(200)
        flow.step(first)
        flow.step(second)

    assert about(250)(flow.queued(first))
    assert about(250)(flow.queued(second))


def test_a_run_that_wants_no_more_takes_no_part_of_the_rate(flowing: Flowing) -> None:
    flow = flowing(rate=100)
    straggling = flow.start(600)
    while not flow.store.runs.get(straggling).fanned_out:
        flow.step(straggling)
        flow.fail(1000)
    huge = flow.start(2000)

    flow.step(huge)

    assert flow.counts(straggling).open == 600
    assert about(500)(flow.queued(huge))


def test_a_run_that_waits_for_its_next_slot_takes_no_part_of_the_rate(flowing: Flowing) -> None:
    flow = flowing(make_task(interval=Interval.hourly(), window="30m"), rate=100)
    for number in range(2000):
        flow.journey.enable(f"user-{number}", DIGEST)
    flow.journey.clock.move_to("2026-11-24T16:00")
    flow.journey.claim_due()
    [spread] = flow.journey.runs()
    flow.step(spread.id)
    huge = start_run(flow.runtime, DIGEST).id

    assert not flow.store.runs.get(spread.id).fanned_out
    assert about(500)(flow.step(huge))


def test_a_run_whose_last_jobs_were_sent_by_a_process_that_ends_takes_no_part_of_the_rate(
    flowing: Flowing,
) -> None:
    flow = flowing(rate=100)
    run_id = flow.start(600)
    flow.step(run_id)
    wanted_more = flow.store.runs.out_of_room(DIGEST)
    flow.work(600)

    flow.runtime.stopping.set()
    while not flow.store.runs.get(run_id).fanned_out:
        flow.step(run_id)

    assert wanted_more == {run_id}
    assert flow.store.runs.out_of_room(DIGEST) == set()


# --- Whatever happens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_at_any_rates_everybody_is_sent_once_and_the_run_wakes_itself(
    flowing: Flowing, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "PAGE", 20)
    chance = random.Random(seed)
    flow = flowing(
        make_task(interval=Interval.hourly(), window="10m", max_lateness="20h", overlap="allow"), rate=20
    )
    for number in range(300):
        own = chance.choice([None, Interval.minutely(60), Interval.hourly()])
        flow.journey.enable(f"user-{number}", DIGEST, interval=own)
    flow.journey.clock.move_to("2026-11-24T16:00")
    flow.journey.claim_due()
    [run] = flow.journey.runs()
    flow.store.agenda.release_due()

    while not flow.store.runs.get(run.id).fanned_out:
        flow.rate = chance.choice([0, 0.2, 1, 5, 50])
        before = flow.queued(run.id)
        sent = flow.step(run.id, later=SECOND * chance.randint(1, 10))
        room = max(LEAST_ROOM, 5 * flow.rate) if flow.rate else 0
        assert sent == 0 or about(int(room))(before + sent) or before + sent < room
        still = flow.store.runs.get(run.id)
        assert still.fanned_out or flow.wakes_in(run.id) <= 10 * SECOND
        assert still.counts.unaccounted == 0
        (flow.fail if chance.random() < 0.2 else flow.work)(chance.randint(0, 60))

    counts = flow.counts(run.id)
    assert counts.expected == 300
    assert counts.expected == counts.success + counts.open


# --- Jobs that have no slot ---------------------------------------------------------------------------------------


def test_a_job_without_a_slot_comes_again_later_and_has_lost_nothing(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = FakeExecutor()
    journey = begin(make_task(window=0), at="2026-11-24T08:59:50", executor=executor)
    journey.enable("ada", DIGEST)
    waits = iter([30.0])
    monkeypatch.setattr(journey.runtime.limiter, "enter", lambda *_, **__: next(waits, 0.0))

    journey.until("2026-11-24T09:00:20")
    early = list(executor.jobs)
    journey.until("2026-11-24T09:01")

    [run] = journey.runs()
    assert early == []
    assert [job.attempt for job in executor.jobs] == [1]
    assert (run.status, run.counts.success, run.counts.retries) == (RunStatus.ENDED, 1, 0)


# --- What is expected of a run ---------------------------------------------------------------------------------------


def test_a_run_that_goes_on_has_an_expected_end_by_its_rate(flowing: Flowing) -> None:
    flow = flowing(rate=10)
    run_id = flow.start(600)
    flow.step(run_id)
    flow.work(30)

    expected = forecast(flow.runtime, flow.journey.run(run_id))

    assert expected is not None
    assert expected.ends_at is not None
    assert abs((expected.ends_at - flow.journey.clock.now()).total_seconds() - 57) <= 2
    assert expected.in_time


def test_of_a_run_for_users_who_were_named_they_alone_are_expected(flowing: Flowing) -> None:
    flow = flowing(rate=0.1)
    named = [UserId(f"user-{number}") for number in range(5)]
    flow.start(600)
    run_id = start_run(flow.runtime, DIGEST, user_ids=named).id

    expected = forecast(flow.runtime, flow.journey.run(run_id))

    assert expected is not None
    assert expected.ends_at == flow.journey.clock.now() + timedelta(seconds=50)


def test_a_run_whose_deadline_comes_first_is_expected_to_end_with_it(flowing: Flowing) -> None:
    flow = flowing(rate=0.001)
    run_id = flow.start(600)

    expected = forecast(flow.runtime, flow.journey.run(run_id))

    assert expected is not None
    assert (expected.ends_at, expected.in_time) == (flow.journey.run(run_id).deadline_at, False)


def test_of_a_run_that_is_held_it_is_told_why(flowing: Flowing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_BACKLOG", 20)
    flow = flowing(rate=0)
    run_id = flow.start(600)

    def held() -> str:
        expected = forecast(flow.runtime, flow.journey.run(run_id))
        assert expected is not None
        return expected.held

    paused = held()
    flow.rate = 100
    flow.step(run_id)
    flow.fail(30)
    flow.step(run_id)
    many_wait = held()
    monkeypatch.setattr(module, "RETRY_BACKLOG", 2000)
    flow.step(run_id)
    flow.fail(1000)
    flow.step(run_id)
    flow.fail(1000)
    last_wait = held()

    assert paused == "paused by ada"
    assert many_wait.startswith("30 jobs wait for their retry")
    assert last_wait == "the last 600 jobs wait for their retry"


def test_nothing_is_expected_of_a_run_that_has_ended(begin: Begin) -> None:
    journey = begin(make_task(), at="2026-11-24T15:00")
    journey.enable("ada", DIGEST)

    assert forecast(journey.runtime, journey.trigger(DIGEST)) is None
