"""A process' side of the limiter by itself: answers are made by hand, and no time passes but what is handed in."""

import copy
import math
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.limiter.fleet import adaptive
from tq.limiter.agent import BREATH_S, SPARE_LATER_S, Agent, Slot
from tq.limits import EVERY_TASK, Kind, Limit, Signal
from tq.models import TaskId
from tq.store.limits import Answer, Grant, Report, Request, Scope, State

A, B = TaskId("a"), TaskId("b")
LIMIT = adaptive(100)
START = 1000.0


def an_agent(*, threads: int = 16, jobs: int = 0, limit: Limit = LIMIT) -> Agent:
    """An agent, with so many jobs of task a waiting."""
    agent = Agent("process", adaptive(200))
    agent.threads = threads
    if jobs:
        agent.wait(A, limit, jobs=jobs)
    return agent


def answer_to(
    request: Request,
    *delays: float,
    task: TaskId = A,
    epoch: int = 0,
    wait: float = 0.0,
    state: State = "closed",
    probe: bool = False,
    places: bool = False,
    processes: int = 1,
    rate: float = 100.0,
) -> Answer:
    """An answer that gives slots of a task after these delays, and says the same of all tasks."""
    grants = [
        Grant(task, delay, epoch, probe, f"place-{number}" if places else "")
        for number, delay in enumerate(delays)
    ]
    scopes = {ask.task: Scope(rate, wait, epoch, state, None) for ask in request.tasks}
    return Answer(grants, scopes, rate=200.0, processes=processes, events=[])


def ask(agent: Agent, now: float) -> Request:
    """The request that is wanted now."""
    request = agent.request(now)
    assert request is not None
    return request


def in_hand(
    *delays: float, agent: Agent | None = None, jobs: int = 8, now: float = START, **fields: object
) -> Agent:
    """An agent that has just got slots of task a after these delays."""
    agent = agent or an_agent(jobs=jobs)
    request = ask(agent, now)
    agent.accept(request, answer_to(request, *delays, **fields), now)  # type: ignore[arg-type] # passed on as they are
    return agent


def reports_of(request: Request, task: TaskId = A) -> list[Report]:
    """What a request tells of a task."""
    return next((ask.reports for ask in request.tasks if ask.task == task), [])


def taken(agent: Agent, now: float, task: TaskId = A) -> Slot:
    """A slot that there is now."""
    slot = agent.take(task, now)
    assert slot is not None
    return slot


# --- When it asks ---------------------------------------------------------------------------------


def test_who_has_nothing_to_do_asks_for_nothing() -> None:
    agent = an_agent()

    assert agent.exchange_at(START) == math.inf
    assert agent.request(START) is None


@pytest.mark.parametrize(("jobs", "asked_for"), [(3, 3), (16, 16), (50, 16)])
def test_slots_are_asked_for_at_once_and_no_more_than_threads_can_use(jobs: int, asked_for: int) -> None:
    request = ask(an_agent(threads=16, jobs=jobs), START)

    assert [(found.task, found.slots, found.waiting) for found in request.tasks] == [(A, asked_for, jobs)]
    assert request.slots == 16


def test_who_has_more_slots_due_than_it_comes_to_use_asks_for_no_more() -> None:
    agent = in_hand(*[0.0] * 32, agent=an_agent(threads=256, jobs=100))
    assert agent.exchange_at(START + 0.01) > START + 1

    for _ in range(16):
        taken(agent, START + 0.01)

    assert ask(agent, START + 0.01).tasks[0].slots == 16


def called_every(
    seconds: float, *, limit: Limit = LIMIT, delay: float = 0.0, state: State = "closed"
) -> Agent:
    """An agent that began ten calls of task a, so far apart, each with a slot that was granted for it; the last at START."""
    agent = an_agent()
    for number in range(-9, 1):
        now = START + number * seconds
        agent.wait(A, limit)
        request = ask(agent, now - delay)
        agent.accept(request, answer_to(request, delay, state=state), now - delay)
        taken(agent, now)
    return agent


@pytest.mark.parametrize(("seconds", "spare"), [(0.025, 0), (0.01, 2), (0.005, 4), (0.001, 4)])
def test_who_calls_steadily_has_slots_in_hand_for_as_many_jobs_as_will_come_while_they_are_good(
    seconds: float, spare: int
) -> None:
    agent = called_every(seconds)

    request = agent.request(START + SPARE_LATER_S)

    assert (request.tasks[0].slots if request else 0) == spare


def test_a_job_that_comes_finds_its_slot_and_no_more_are_asked_for_until_all_are_used() -> None:
    agent = called_every(0.01)
    request = ask(agent, START + 0.002)
    agent.accept(request, answer_to(request, 0.0, 0.0), START + 0.003)

    for now in (START + 0.01, START + 0.02):
        assert agent.request(now) is None
        agent.wait(A, LIMIT)
        taken(agent, now)

    assert agent.exchange_at(START + 0.02) == pytest.approx(START + 0.02 + SPARE_LATER_S)


def test_who_calls_no_more_asks_for_nothing_and_at_once_when_a_job_comes_after_all() -> None:
    agent = called_every(0.01)
    request = ask(agent, START + 0.002)
    agent.accept(request, answer_to(request, 0.0, 0.0), START + 0.003)
    assert agent.request(START + 1.0) is None

    agent.wait(A, LIMIT)

    assert not agent.has_slot(A, START + 1.0)
    assert [(told.slots, told.unused) for told in ask(agent, START + 1.0).tasks] == [(1, 2)]


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(called_every(0.01, delay=0.002), id="slots are not to be had at once"),
        pytest.param(
            called_every(0.01, limit=replace(LIMIT, concurrency=8)), id="calls at a time are limited"
        ),
        pytest.param(called_every(0.01, state="half_open"), id="the endpoint is in trouble"),
    ],
)
def test_no_slot_is_had_in_hand_that_others_could_need(agent: Agent) -> None:
    request = agent.request(START + SPARE_LATER_S)

    assert request is None or [told.slots for told in request.tasks] == [0]


def test_slots_for_jobs_that_have_gone_keep_nobody_from_asking_for_others() -> None:
    agent = an_agent(threads=16, jobs=32)
    request = ask(agent, START)
    agent.leave(A, jobs=32)
    agent.accept(request, answer_to(request, *[0.0] * 32), START)

    agent.wait(B, LIMIT, jobs=4)

    assert ask(agent, START + 1).tasks[-1].slots == 4


def test_who_calls_by_the_hundred_a_second_takes_a_breath_between_two_questions() -> None:
    agent = in_hand(*[0.0] * 500, agent=an_agent(threads=1000, jobs=501))
    for _ in range(500):
        taken(agent, START)

    assert agent.exchange_at(START) == START + BREATH_S


def test_who_calls_now_and_then_asks_when_there_is_a_job() -> None:
    agent = in_hand(0.0, jobs=2)
    taken(agent, START)

    assert agent.exchange_at(START) <= START


def test_there_is_never_a_second_exchange_before_the_first_has_ended() -> None:
    agent = an_agent(jobs=5)
    request = ask(agent, START)

    agent.wait(B, LIMIT, jobs=5)
    assert agent.request(START + 60) is None

    agent.accept(request, answer_to(request), START + 60)
    assert agent.request(START + 61) is not None


def test_the_next_question_lingers_after_the_last_slot_in_hand_for_more_jobs_to_share_it() -> None:
    agent = in_hand(0.5, 0.6, 0.7)

    assert agent.exchange_at(START) == pytest.approx(START + 0.7 + 0.25)


def test_who_is_served_at_once_does_not_linger() -> None:
    agent = in_hand(0.0, 0.01, 0.02)

    assert agent.exchange_at(START) == pytest.approx(START + 0.02)


def test_a_slow_tasks_slot_far_ahead_does_not_hold_up_another_task() -> None:
    agent = an_agent(jobs=8)
    agent.wait(B, LIMIT, jobs=8)
    request = ask(agent, START)
    far = answer_to(request, 1.9, task=B)
    near = answer_to(request, 0.0, 0.01, 0.02)

    agent.accept(request, replace(near, grants=[*near.grants, *far.grants]), START)

    assert agent.exchange_at(START) <= START + 0.02 + 0.25


def test_nothing_is_asked_while_all_threads_are_busy() -> None:
    agent = in_hand(0.0, 0.0, agent=an_agent(threads=2, jobs=8))
    slots = [taken(agent, START), taken(agent, START)]

    assert agent.exchange_at(START) == START + 5

    agent.end(slots[0], START + 1, signal=Signal.OK)
    assert agent.exchange_at(START + 1) <= START + 1


def test_who_is_told_to_wait_asks_when_the_wait_is_over() -> None:
    agent = in_hand(wait=3.0)

    assert agent.exchange_at(START) == START + 3


def test_who_got_nothing_and_was_told_nothing_asks_again_a_little_later() -> None:
    agent = in_hand()

    assert agent.exchange_at(START) == pytest.approx(START + 0.05)


def test_outcomes_wait_for_three_quarters_of_a_second_at_most() -> None:
    agent = in_hand(0.0, jobs=1)
    agent.end(taken(agent, START), START + 0.1, signal=Signal.OK, seconds=0.1)

    assert agent.exchange_at(START + 0.1) == pytest.approx(START + 0.85)
    request = ask(agent, START + 0.85)
    assert [(report.ok, report.seconds) for report in reports_of(request)] == [(1, 0.1)]


def test_outcomes_go_with_a_question_that_is_due_soon_after() -> None:
    agent = in_hand(0.0, 0.5, 0.7)
    agent.end(taken(agent, START), START, signal=Signal.OK)

    assert agent.exchange_at(START) == pytest.approx(START + 0.7)


def test_five_failures_in_a_row_are_told_at_once_and_four_are_not() -> None:
    agent = in_hand(*[0.0] * 5, jobs=5)
    slots = [taken(agent, START) for _ in range(5)]
    for slot in slots[:4]:
        agent.end(slot, START + 0.2, signal=Signal.ERROR)
    before = agent.exchange_at(START + 0.2)

    agent.end(slots[4], START + 0.2, signal=Signal.OVERLOAD)

    assert before == pytest.approx(START + 0.95)
    assert agent.exchange_at(START + 0.2) <= START + 0.2


def test_a_success_between_failures_starts_their_count_anew() -> None:
    agent = in_hand(*[0.0] * 6, jobs=6)
    signals = [Signal.ERROR] * 3 + [Signal.OK] + [Signal.ERROR] * 2
    for signal in signals:
        agent.end(taken(agent, START), START + 0.2, signal=signal)

    assert agent.exchange_at(START + 0.2) > START + 0.9


@pytest.mark.parametrize("signal", [Signal.OK, Signal.OVERLOAD, None])
def test_how_a_probe_came_out_is_told_at_once(signal: Signal | None) -> None:
    agent = in_hand(0.0, jobs=1, probe=True, state="half_open")
    agent.end(taken(agent, START), START + 0.2, signal=signal)

    request = ask(agent, START + 0.2)
    assert [report.probe for report in reports_of(request)] == [True]


def test_a_hold_is_told_at_once() -> None:
    agent = in_hand(0.0, jobs=1)
    agent.end(taken(agent, START), START + 0.2, signal=Signal.OVERLOAD, hold=20.0, throttled=True)

    request = ask(agent, START + 0.2)
    assert [(report.hold, report.throttled) for report in reports_of(request)] == [(20.0, True)]


def test_urgent_news_does_not_go_out_more_often_than_ten_times_a_second() -> None:
    agent = in_hand(*[0.0] * 12, jobs=12)
    slots = [taken(agent, START) for _ in range(12)]
    told_at, now = [], START
    for slot in slots:
        now += 0.02
        agent.end(slot, now, signal=Signal.OVERLOAD, hold=5.0)
        while agent.exchange_at(now) <= now:
            request = ask(agent, now)
            told_at.append(now)
            agent.accept(request, answer_to(request, wait=5.0), now)

    assert len(told_at) <= 3


@pytest.mark.parametrize("call_under_way", [True, False])
def test_who_has_jobs_or_calls_shows_every_five_seconds_that_it_is_alive(call_under_way: bool) -> None:
    agent = in_hand(0.0, 30.0, jobs=2) if not call_under_way else in_hand(0.0, jobs=1)
    if call_under_way:
        taken(agent, START)

    assert agent.exchange_at(START) == START + 5


# --- Slots ----------------------------------------------------------------------------------------


def test_a_slot_is_there_from_its_instant_on_and_for_one_job() -> None:
    agent = in_hand(0.5, jobs=2)

    assert agent.take(A, START + 0.499) is None
    assert agent.ready(START + 0.5) == [A]
    assert taken(agent, START + 0.5).task == A
    assert agent.take(A, START + 0.5) is None


def test_a_slot_that_was_not_used_in_time_is_let_go_and_told() -> None:
    agent = in_hand(0.0, 1.0, places=True)

    assert not agent.has_slot(A, START + 0.05)
    assert taken(agent, START + 1.0).place == "place-1"
    request = ask(agent, START + 5)
    assert [(found.unused, found.ended_places) for found in request.tasks] == [(1, ["place-0"])]


def late_calls(agent: Agent, now: float) -> int:
    """How many calls in a row may begin late now."""
    return sum(agent.may_be_late(A, now) for _ in range(10_000))


@pytest.mark.parametrize(
    ("rate", "processes", "late"),
    [(100.0, 1, 1), (99.0, 1, 0), (100_000.0, 4, 250), (100_000.0, 1, 1000)],
)
def test_of_a_process_part_of_all_calls_one_in_a_hundred_may_be_late(
    rate: float, processes: int, late: int
) -> None:
    agent = an_agent(jobs=2)
    request = ask(agent, START)
    agent.accept(request, replace(answer_to(request, 0.0, rate=rate, processes=processes), rate=1e6), START)

    assert late_calls(agent, START) == late
    assert late_calls(agent, START + 0.5) == late // 2
    assert late_calls(agent, START + 10) == late


def test_no_call_is_late_of_a_task_that_is_held() -> None:
    agent = an_agent(jobs=2)
    request = ask(agent, START)
    agent.accept(request, answer_to(request, 0.0, rate=10_000.0, state="held"), START)

    assert late_calls(agent, START) == 0


def test_a_probe_does_not_go_stale_for_there_is_only_one() -> None:
    agent = in_hand(0.0, probe=True, state="half_open")

    assert taken(agent, START + 9).probe


def test_slots_of_epochs_before_the_one_that_was_told_are_void() -> None:
    agent = in_hand(0.1, epoch=4)
    in_hand(0.2, 0.3, agent=agent, epoch=5, now=START + 0.4)

    agent.heard(A, 5, START + 0.4)

    assert [taken(agent, START + 0.4 + delay).epoch for delay in (0.2, 0.3)] == [5, 5]


@pytest.mark.parametrize("scope", [A, EVERY_TASK])
@pytest.mark.parametrize("epoch", [6, None])
def test_an_event_voids_what_is_in_hand_and_has_the_agent_ask_again_at_once(
    scope: str, epoch: int | None
) -> None:
    agent = in_hand(0.5, 0.6, 0.7, epoch=5, places=True)

    agent.heard(scope, epoch, START + 0.1)

    assert agent.take(A, START + 0.6) is None
    [told] = ask(agent, START + 0.1).tasks
    assert (told.slots, told.unused, sorted(told.ended_places)) == (8, 3, ["place-0", "place-1", "place-2"])


def test_an_event_of_another_task_voids_nothing() -> None:
    agent = in_hand(0.5)

    agent.heard(B, None, START)

    assert taken(agent, START + 0.5).due == START + 0.5


def test_an_event_that_comes_during_an_exchange_holds_for_what_the_exchange_brings() -> None:
    agent = an_agent(jobs=8)
    request = ask(agent, START)

    agent.heard(A, 5, START + 0.001)
    agent.accept(request, answer_to(request, 0.01, 0.02, epoch=4), START + 0.002)

    assert agent.take(A, START + 0.02) is None
    assert agent.exchange_at(START + 0.02) <= START + 0.02


def test_the_end_of_a_pause_that_comes_during_an_exchange_is_not_overheard() -> None:
    agent = an_agent(jobs=8)
    request = ask(agent, START)

    agent.heard(A, None, START + 0.001)
    agent.accept(request, answer_to(request, wait=5.0, state="paused"), START + 0.002)

    assert agent.exchange_at(START + 0.002) <= START + 0.01


def test_the_event_of_ones_own_exchange_takes_nothing_of_what_it_brought() -> None:
    agent = an_agent(jobs=8)
    request = ask(agent, START)

    agent.heard(A, 5, START + 0.001)
    agent.accept(request, answer_to(request, 0.01, 0.02, epoch=5), START + 0.002)

    assert taken(agent, START + 0.012).epoch == 5


def test_ones_own_429_voids_what_is_in_hand_before_anybody_says_so() -> None:
    agent = in_hand(0.0, 0.1, 0.2)
    agent.end(taken(agent, START), START + 0.05, signal=Signal.OVERLOAD, hold=20.0, throttled=True)

    assert agent.take(A, START + 0.2) is None
    assert agent.expected_wait(A, START + 0.05) == pytest.approx(20)


def test_slots_of_jobs_that_went_elsewhere_are_given_back() -> None:
    agent = in_hand(0.1, 0.2, 0.3, jobs=3, places=True)

    agent.leave(A, jobs=2)

    assert taken(agent, START + 0.1).place == "place-0"
    [told] = ask(agent, START + 5).tasks
    assert (told.unused, sorted(told.ended_places)) == (2, ["place-1", "place-2"])


def test_the_place_of_a_call_is_free_when_its_thread_is_and_whoever_waits_for_it_asks() -> None:
    agent = in_hand(0.0, places=True, wait=1.0)
    slot = taken(agent, START)

    agent.learn(slot, START + 0.2, signal=Signal.OK)
    before = agent.exchange_at(START + 0.2)
    agent.release(slot)

    assert before > START + 0.2
    [told] = ask(agent, START + 0.2).tasks
    assert told.ended_places == ["place-0"]


# --- Without Redis --------------------------------------------------------------------------------


def test_what_a_lost_exchange_was_to_tell_is_told_with_the_next_one() -> None:
    agent = in_hand(0.0, 0.0, 0.0, jobs=3, places=True)
    slots = [taken(agent, START) for _ in range(3)]
    agent.end(slots[0], START + 0.1, signal=Signal.OK, seconds=0.5)
    agent.count(A, LIMIT, Kind.OK, START + 0.1)
    lost = ask(agent, START + 0.85)
    agent.end(slots[1], START + 0.9, signal=Signal.OVERLOAD, hold=7.0, throttled=True)
    agent.count(A, LIMIT, Kind.THROTTLED, START + 0.9)

    agent.lost(lost, START + 1)
    agent.end(slots[2], START + 1.1, signal=Signal.OK, seconds=0.25)

    [told] = ask(agent, START + 2).tasks
    [report] = told.reports
    assert (report.ok, report.overload, report.seconds) == (2, 1, 0.75)
    assert (report.hold, report.throttled) == (7.0, True)
    assert told.counts == [1, 0, 0, 0, 1]
    assert sorted(told.ended_places) == ["place-0", "place-1", "place-2"]


@pytest.mark.parametrize("counted_before", [True, False])
@pytest.mark.parametrize("counted_meanwhile", [True, False])
def test_counts_survive_a_lost_exchange(counted_before: bool, counted_meanwhile: bool) -> None:
    agent = an_agent(jobs=1)
    if counted_before:
        agent.count(A, LIMIT, Kind.OK, START)
    lost = ask(agent, START)
    if counted_meanwhile:
        agent.count(A, LIMIT, Kind.ERROR, START)

    agent.lost(lost, START + 1)

    [told] = ask(agent, START + 2).tasks
    expected = [int(counted_before), 0, int(counted_meanwhile), 0, 0]
    assert told.counts == (expected if any(expected) else [])


def test_after_a_lost_exchange_the_next_one_is_a_second_later() -> None:
    agent = an_agent(jobs=1)
    agent.lost(ask(agent, START), START + 0.5)

    assert agent.exchange_at(START + 0.5) == START + 1.5


def begun_without_redis(agent: Agent, *, seconds: float, limit: Limit = LIMIT) -> list[float]:
    """When calls begin while every exchange fails; each takes a hundredth of a second."""
    begun: list[float] = []
    ends: list[tuple[float, Slot]] = []
    now = START
    while now < START + seconds:
        now += 0.005
        while ends and ends[0][0] <= now:
            agent.end(ends.pop(0)[1], now, signal=Signal.OK, seconds=0.01)
        if (request := agent.request(now)) is not None:
            agent.lost(request, now)
        while (slot := agent.take(A, now)) is not None:
            begun.append(now)
            ends.append((now + 0.01, slot))
            agent.wait(A, limit)
    return begun


@pytest.mark.parametrize(
    ("rate", "processes", "expected"), [(100, 1, 50), (100, 4, 12.5), (20, 2, 10), (1000, 4, 25)]
)
def test_without_redis_calls_are_paced_at_half_the_ceiling_at_most_shared_by_all(
    rate: float, processes: int, expected: float
) -> None:
    limit = adaptive(100) if rate <= 100 else adaptive(1000)
    agent = in_hand(agent=an_agent(threads=64, jobs=64, limit=limit), rate=rate, processes=processes)

    begun = begun_without_redis(agent, seconds=20, limit=limit)

    assert len(begun) <= 20 * expected + 1
    assert len(begun) >= 20 * expected * 0.85
    for first, at in enumerate(begun):
        assert sum(1 for other in begun[first:] if other < at + 1) <= expected + 2


@pytest.mark.parametrize("state", ["open", "half_open", "paused"])
def test_without_redis_no_call_of_a_held_task_begins(state: State) -> None:
    agent = in_hand(wait=1.0, state=state)

    assert begun_without_redis(agent, seconds=10) == []


def test_without_redis_no_call_begins_of_a_task_whose_calls_at_a_time_are_limited() -> None:
    limit = adaptive(100, concurrency=3)
    agent = in_hand(agent=an_agent(jobs=8, limit=limit))

    assert begun_without_redis(agent, seconds=10, limit=limit) == []


@pytest.mark.parametrize("hold", [0.5, 3.3, 7.9])
def test_a_hold_is_kept_without_redis_too(hold: float) -> None:
    agent = in_hand(0.0)
    agent.end(taken(agent, START), START, signal=Signal.OVERLOAD, hold=hold)

    begun = begun_without_redis(agent, seconds=12)

    # It may be longer: whether others were asked for more is known to Redis alone.
    assert [at for at in begun if at < START + hold] == []


# --- The end --------------------------------------------------------------------------------------


def test_a_farewell_tells_the_last_outcomes_and_gives_back_what_is_in_hand() -> None:
    agent = in_hand(0.0, 0.1, 0.2, places=True)
    agent.end(taken(agent, START), START, signal=Signal.OK, seconds=0.1)

    request = agent.farewell()

    [told] = request.tasks
    assert (told.slots, told.waiting, told.in_use, told.unused) == (0, 0, 0, 2)
    assert [report.ok for report in told.reports] == [1]
    assert sorted(told.ended_places) == ["place-0", "place-1", "place-2"]


def test_a_farewell_of_who_had_nothing_to_do_tells_nothing() -> None:
    assert an_agent().farewell().tasks == []


# --- Whatever happens -----------------------------------------------------------------------------


@dataclass
class Books:
    """What must come back: each place once, each outcome once."""

    given_places: Counter[str] = field(default_factory=Counter)
    ended_places: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[Signal] = field(default_factory=Counter)
    told: Counter[Signal] = field(default_factory=Counter)
    counted: int = 0
    counts_told: int = 0


MOST_TURNS = 60


class AnyHistory(RuleBasedStateMachine):
    """An agent to which anything happens that can happen."""

    @initialize(threads=st.sampled_from([1, 3, 16]))
    def begin(self, threads: int) -> None:
        """A process starts."""
        self.agent = an_agent(threads=threads)
        self.now = START
        self.request: Request | None = None
        self.calls: list[Slot] = []
        self.waiting: Counter[TaskId] = Counter()
        self.books = Books()
        self.epoch = 0
        self.place = 0

    @rule(task=st.sampled_from([A, B]), jobs=st.integers(1, 20))
    def jobs_come(self, task: TaskId, jobs: int) -> None:
        """Jobs wait here."""
        limit = adaptive(100, concurrency=5) if task == B else LIMIT
        self.agent.wait(task, limit, jobs=jobs)
        self.waiting[task] += jobs

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def jobs_leave(self, data: st.DataObject) -> None:
        """Jobs go elsewhere."""
        task = data.draw(st.sampled_from([task for task, jobs in self.waiting.items() if jobs]))
        jobs = data.draw(st.integers(1, self.waiting[task]))
        self.agent.leave(task, jobs=jobs)
        self.waiting[task] -= jobs

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.05, 0.3, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing else happens for a while."""
        self.now += seconds

    @rule()
    def calls_begin(self) -> None:
        """All threads that are free begin what can begin."""
        due, begun = {task: self.agent.slots_due(task, self.now) for task in (A, B)}, dict.fromkeys((A, B), 0)
        while len(self.calls) < self.agent.threads and (ready := self.agent.ready(self.now)):
            slot = taken(self.agent, self.now, ready[0])
            assert slot.due <= self.now
            self.waiting[slot.task] -= 1
            self.calls.append(slot)
            begun[slot.task] += 1
        assert begun == due or len(self.calls) == self.agent.threads
        assert all(begun[task] <= due[task] for task in due)

    @precondition(lambda self: self.calls)
    @rule(
        signal=st.sampled_from([*Signal, None]),
        hold=st.sampled_from([None, None, None, 0.0, 0.5, 4.0]),
        data=st.data(),
    )
    def a_call_ends(self, signal: Signal | None, hold: float | None, data: st.DataObject) -> None:
        """A call is over, or was not made."""
        slot = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        hold = hold if signal is Signal.OVERLOAD else None
        self.agent.end(slot, self.now, signal=signal, seconds=0.1, hold=hold, throttled=hold == 0.0)
        if signal is not None:
            self.books.outcomes[signal] += 1
            self.agent.count(slot.task, LIMIT, Kind(signal.value), self.now)
            self.books.counted += 1

    @rule(scope=st.sampled_from([A, B, EVERY_TASK]), is_known=st.booleans())
    def an_event_comes(self, scope: str, is_known: bool) -> None:
        """Another process changed something, or an operator."""
        if is_known:
            self.epoch += 1
        self.agent.heard(scope, self.epoch if is_known else None, self.now)

    @precondition(lambda self: self.request is None)
    @rule()
    def it_asks(self) -> None:
        """An exchange begins, if one is wanted."""
        self.request = self.agent.request(self.now)
        if self.request is not None:
            assert self.agent.request(self.now + 100) is None

    @precondition(lambda self: self.request is not None)
    @rule(
        data=st.data(),
        state=st.sampled_from(["closed", "closed", "closed", "open", "half_open", "paused"]),
        wait=st.sampled_from([0.0, 0.0, 0.01, 1.0, 5.0]),
    )
    def it_gets_an_answer(self, data: st.DataObject, state: State, wait: float) -> None:
        """The exchange has happened."""
        assert self.request is not None
        answer = Answer([], {}, rate=200.0, processes=data.draw(st.integers(1, 4)), events=[])
        for ask in self.request.tasks:
            slots = data.draw(st.integers(0, ask.slots))
            slots = {"open": 0, "paused": 0, "half_open": min(1, slots)}.get(state, slots)
            answer.scopes[ask.task] = Scope(100.0, 0.0 if slots else wait, self.epoch, state, None)
            lead = data.draw(st.sampled_from([0.0, 0.2, 1.5]))
            for number in range(slots):
                self.place += 1
                place = f"place-{self.place}" if ask.limit.concurrency else ""
                self.books.given_places[place] += bool(place)
                delay = lead + number * 0.01
                answer.grants.append(Grant(ask.task, delay, self.epoch, state == "half_open", place))
            self._is_told(self.request)
        self.request = self.agent.accept(self.request, answer, self.now)  # type: ignore[func-returns-value] # None

    @precondition(lambda self: self.request is not None)
    @rule()
    def it_gets_no_answer(self) -> None:
        """Redis is away."""
        assert self.request is not None
        self.agent.lost(self.request, self.now)
        self.request = None

    @invariant()
    def it_is_not_busy_without_time_passing(self) -> None:
        """Whatever it has come to: were it to get empty answers only from now on, it would not ask without end."""
        if not hasattr(self, "agent"):
            return
        agent, now = copy.deepcopy(self.agent), self.now
        if self.request is not None:
            agent.accept(self.request, _nothing(self.request), now)
        began, turns = now, 0
        while turns < MOST_TURNS and (at := agent.exchange_at(now)) < math.inf:
            turns += 1
            now = max(now, at)
            request = agent.request(now)
            assert request is not None, f"an exchange is wanted at {at}, and at {now} there is none"
            agent.accept(request, _nothing(request), now)
        assert now - began >= 0.001 * (turns - 5)

    def teardown(self) -> None:
        """At its end everything has come back."""
        if not hasattr(self, "agent"):
            return
        if self.request is not None:
            self.agent.lost(self.request, self.now)
        for slot in self.calls:
            self.agent.end(slot, self.now, signal=None)
        farewell = self.agent.farewell()
        self._is_told(farewell)
        assert self.books.ended_places == self.books.given_places
        assert self.books.told == self.books.outcomes
        assert self.books.counts_told == self.books.counted

    def _is_told(self, request: Request) -> None:
        for ask in request.tasks:
            self.books.ended_places.update(ask.ended_places)
            self.books.counts_told += sum(ask.counts)
            for report in ask.reports:
                self.books.told.update({Signal.OK: report.ok, Signal.ERROR: report.error})
                self.books.told.update({Signal.OVERLOAD: report.overload})
            ask.ended_places, ask.counts, ask.reports = [], [], []


def _nothing(request: Request) -> Answer:
    scopes = {ask.task: Scope(100.0, 0.0, 0, "closed", None) for ask in request.tasks}
    return Answer([], scopes, rate=200.0, processes=1, events=[])


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
