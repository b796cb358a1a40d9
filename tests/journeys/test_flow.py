"""Jobs are sent only as far ahead as they will be carried out; the rest of a run stays a cursor."""

import importlib
import random
from collections import Counter
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
from tq.pipeline import distribute, execute, forecast, start_run
from tq.pipeline.distribute import LEAST_ROOM, MOST_QUEUED, RETRY_BACKLOG, room_of
from tq.slots import place_of
from tq.store.agenda import PutOff
from tq.store.ledger import Retry
from tq.store.limits import Outlook
from tq.testing import FakeExecutor, Journey, make_task, utc

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

    def serve(self, number: int) -> list[UserId]:
        """Works jobs as a worker does until so many calls are made, or none are left; returns to whom."""
        calls = self.journey.executor.jobs
        before = len(calls)
        while len(calls) < before + number and (jobs := self.take(1)):
            execute(self.runtime, jobs[0])
        return [job.user_id for job in calls[before:]]

    def claim_at(self, instant: str) -> RunId:
        """Has what is due at an instant claimed; returns the run of it."""
        self.journey.clock.move_to(instant)
        [run_id] = self.journey.claim_due()
        return run_id

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


# --- Runs that are cut ---------------------------------------------------------------------------------------------


MINUTE = timedelta(minutes=1)
EVERY = 5 * MINUTE
NOON = utc("2026-11-24T12:00")
HOURLY = make_task(interval=Interval.hourly(), window=0)
SPREAD = make_task(interval=Interval.hourly(), window="30m")
FOR_BEGINNING = "run begins with those whom the one before did not reach"
FOR_CUT = "run was cut before it had reached everybody"


def is_closed(flow: Flow, run_id: RunId, *, users: int) -> bool:
    """Whether a run has ended and everybody is accounted for, once each."""
    run = flow.store.runs.get(run_id)
    return run.status is RunStatus.ENDED and run.counts.expected == run.counts.ended == users


def crowd(flow: Flow, users: int) -> list[UserId]:
    names = [UserId(f"user-{number}") for number in range(users)]
    for name in names:
        flow.journey.enable(name, DIGEST)
    return names


def slots_in(flow: Flow, run_id: RunId) -> dict[UserId, timedelta]:
    """How long after the run's nominal time each user's slot was."""
    jobs = [job for job in flow.journey.executor.jobs if job.run_id == run_id]
    return {job.user_id: job.execute_after - job.scheduled_at for job in jobs}


def test_users_of_whom_each_run_serves_a_part_only_are_all_served_over_three(
    flowing: Flowing, lines: list[str]
) -> None:
    flow = flowing(HOURLY, rate=20)
    users = crowd(flow, 300)
    runs, served, queued = [], [], []

    for hour in (16, 17, 18):
        runs.append(flow.claim_at(f"2026-11-24T{hour}:00"))
        called: list[UserId] = []
        while len(called) < 110:
            for run_id in runs:
                flow.step(run_id)
            called += flow.serve(min(10, 110 - len(called)))
        served.append(called)
        queued.append(flow.queued(runs[-1]))
    flow.rate = 0
    flow.claim_at("2026-11-24T19:00")
    flow.step(runs[-1])
    flow.serve(1)

    # Each is cut with jobs in the queue, who are the first to be served by the next.
    assert min(queued) > 50
    assert set().union(*served) == set(users)
    assert [len(set(called)) for called in served] == [110, 110, 110]
    in_turn = [user for called in served for user in called]
    assert max(Counter(in_turn).values()) == 2
    assert set(in_turn[300:]) <= set(served[0])
    assert all(is_closed(flow, run_id, users=300) for run_id in runs)
    assert [flow.counts(run_id).success for run_id in runs] == [110, 110, 110]
    assert lines.count(FOR_CUT) == 3
    assert lines.count(FOR_BEGINNING) == 2


def test_after_a_cut_slots_come_as_much_earlier_and_after_a_whole_run_at_the_usual_minute_again(
    flowing: Flowing,
) -> None:
    flow = flowing(SPREAD, rate=10_000)
    users = crowd(flow, 200)
    usual, cut, after, back = (f"2026-11-24T{hour}:00" for hour in (16, 17, 18, 19))

    def whole(at: str) -> dict[UserId, timedelta]:
        run_id = flow.claim_at(at)
        while not flow.store.runs.get(run_id).fanned_out:
            flow.step(run_id, later=10 * SECOND)
            flow.serve(1000)
        assert is_closed(flow, run_id, users=200)
        return slots_in(flow, run_id)

    usually = whole(usual)
    cut_run = flow.claim_at(cut)
    for _ in range(60):
        flow.step(cut_run, later=10 * SECOND)
        flow.serve(1000)
    afterwards = whole(after)
    back_again = whole(back)

    reached = slots_in(flow, cut_run)
    cut_at = 10 * MINUTE + 10 * SECOND
    assert reached == {user: slot for user, slot in usually.items() if slot < cut_at}
    assert set(afterwards) == set(users)
    shifts = {(usually[user] - cut_at - afterwards[user]) % (30 * MINUTE) for user in users}
    assert shifts <= {timedelta(0), 30 * MINUTE - 10 * SECOND, 10 * SECOND}
    not_reached = set(users) - reached.keys()
    assert max(afterwards[user] for user in not_reached) <= min(afterwards[user] for user in reached)
    assert back_again == usually


def test_a_run_cut_by_its_deadline_in_a_pause_is_followed_by_one_that_goes_on(begin: Begin) -> None:
    journey = begin(SPREAD.model_copy(update={"max_lateness": HOUR}), at="2026-11-24T08:59:50")
    users = {f"user-{number}" for number in range(200)}
    for user in users:
        journey.enable(user, DIGEST)

    journey.until("2026-11-24T09:10:05")
    journey.pause(DIGEST)
    journey.until("2026-11-24T10:30")
    journey.resume(DIGEST)
    reached = set(journey.executor.users)
    journey.until("2026-11-24T11:14:55")
    after = journey.executor.users[len(reached) :]
    journey.until("2026-11-24T12:31")

    assert 0 < len(reached) < 100
    assert not set(after) & reached
    nine, ten, eleven, twelve = journey.runs(DIGEST)
    assert nine.counts.skipped_by_reason == {"paused": 200 - len(reached)}
    assert (ten.status, ten.reason) == (RunStatus.SKIPPED, "paused")
    assert eleven.counts == twelve.counts == RunCounts(expected=200, success=200)
    assert [journey.run(run.id).shares[0].first > 0 for run in (nine, eleven, twelve)] == [False, True, False]


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
def test_of_a_cut_it_is_told_how_much_of_the_run_was_reached(flowing: Flowing, ends: bool) -> None:
    told: list[dict[str, object]] = []
    flow = flowing(HOURLY, rate=20)
    crowd(flow, 300)
    cut = flow.claim_at("2026-11-24T16:00")
    reached = flow.step(cut)
    flow.claim_at("2026-11-24T17:00")
    if ends:
        flow.runtime.stopping.set()

    sink = logger.add(
        lambda message: told.append(message.record["extra"]), filter=lambda r: r["message"] == FOR_CUT
    )
    flow.step(cut)
    logger.remove(sink)

    assert told == [
        {
            "run_id": cut,
            "task_id": DIGEST,
            "not_reached": 300 - reached,
            "reached_percent": round(reached / 3, 1),
            "next_goes_on": True,
        }
    ]


def test_a_cancelled_run_is_not_told_of_as_cut(flowing: Flowing, lines: list[str]) -> None:
    flow = flowing(HOURLY, rate=20)
    crowd(flow, 300)
    run_id = flow.claim_at("2026-11-24T16:00")
    flow.step(run_id)
    flow.journey.cancel(run_id)

    flow.step(run_id)

    assert flow.counts(run_id).cancelled > 0
    assert FOR_CUT not in lines


def test_an_edit_of_the_interval_leaves_the_next_run_to_go_on_and_another_cohort_at_its_start(
    flowing: Flowing,
) -> None:
    flow = flowing(HOURLY, rate=20)
    crowd(flow, 300)
    cut = flow.claim_at("2026-11-24T16:00")
    flow.step(cut)
    called = flow.serve(50)

    flow.journey.edit([make_task(interval=Interval.hourly(2), window=0)])
    flow.journey.claim_due()
    flow.journey.enable("ada", DIGEST, interval=Interval.hourly())
    own = flow.claim_at("2026-11-24T17:00")
    edited = flow.claim_at("2026-11-24T18:00")

    by_cohort = {
        share.cohort: share.first for run_id in (own, edited) for share in flow.store.runs.get(run_id).shares
    }
    assert by_cohort[f"*|{Interval.hourly().canonical}"] == 0
    assert by_cohort["*|default"] > max(place_of(DIGEST, user) for user in called)


def test_a_run_that_begins_elsewhere_is_taken_up_by_others_whoever_ends_in_the_middle(
    flowing: Flowing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 20)
    flow = flowing(HOURLY, rate=20)
    users = crowd(flow, 300)
    cut = flow.claim_at("2026-11-24T16:00")
    flow.step(cut)
    flow.serve(70)
    run_id = flow.claim_at("2026-11-24T17:00")
    flow.step(cut)
    flow.rate = 1000

    # Each process ends after its first step, and one that was late does the same step again.
    flow.runtime.stopping.set()
    late, steps = flow.store.runs.get(run_id), 0
    real = flow.store.runs.get
    while not flow.store.runs.get(run_id).fanned_out:
        before = flow.store.runs.get(run_id)
        flow.step(run_id)
        monkeypatch.setattr(flow.store.runs, "get", lambda _: late)  # noqa: B023 - called before it changes
        assert flow.step(run_id) == 0
        monkeypatch.setattr(flow.store.runs, "get", real)
        late, steps = before, steps + 1
    flow.runtime.stopping.clear()
    called = flow.serve(1000)

    assert steps > 10
    assert Counter(called) == Counter(users)
    assert is_closed(flow, run_id, users=300)
    assert is_closed(flow, cut, users=300)


@pytest.mark.parametrize("seed", range(4))
def test_however_runs_are_cut_everybody_is_accounted_for_and_nobody_waits_for_ever(
    flowing: Flowing, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "PAGE", 20)
    chance = random.Random(seed)
    task = make_task(
        interval=Interval.minutely(EVERY // MINUTE), window=chance.choice([0, "1m", "5m"]), missed="skip"
    )
    flow = flowing(task, rate=1)
    users = crowd(flow, 60)
    runs: list[RunId] = []
    since_served = dict.fromkeys(users, 0)
    longest = 0

    for _ in range(12):
        now = flow.journey.clock.now()
        flow.journey.clock.move_to(now - (now - NOON) % EVERY + EVERY)
        runs += flow.journey.claim_due()
        called: list[UserId] = []
        for _ in range(26):
            flow.rate = chance.choice([0, 0.2, 1, 4])
            for run_id in runs:
                flow.step(run_id, later=SECOND)
            called += flow.serve(chance.randint(0, 2))
        for user in users:
            since_served[user] = 0 if user in called else since_served[user] + 1
        longest = max(longest, *since_served.values())
        runs = [run_id for run_id in runs if flow.store.runs.get(run_id).status is RunStatus.RUNNING]

    # About 26 of 60 have a call from each run.
    assert longest <= 4
    for run in flow.journey.runs()[:-1]:
        flow.serve(1000)
        assert is_closed(flow, run.id, users=60)


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
