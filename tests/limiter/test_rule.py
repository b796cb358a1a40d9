"""How fast tasks may be called, by example: the real script on a real Redis, processes in virtual time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count, pairwise

import pytest

from tests.limiter.conftest import MakeFleet
from tests.limiter.fleet import BROKEN, BUSY_NOW, FINE, Endpoint, Fleet, Reply, adaptive
from tq.limits import EVERY_TASK, Kind, Limit, Signal, hold_of
from tq.models import ExecutionResult, Outcome, Strategy, TaskId
from tq.store.limits import Ask, Request

STEPPED = Limit(Strategy.STEPPED, floor=25, base=50, ceiling=100)
REFUSED = Reply(Signal.OVERLOAD, 0.01)


def every(number: int, reply: Reply) -> Endpoint:
    """An endpoint of which every so-manieth call comes out like this, and all others well."""
    calls = count(1)
    return lambda _: reply if next(calls) % number == 0 else FINE


def changing(*phases: tuple[float, Endpoint]) -> Endpoint:
    """An endpoint that behaves like each of these until its second."""
    return lambda now: next(endpoint for until, endpoint in phases if now < until)(now)


def always(reply: Reply) -> Endpoint:
    """An endpoint of which every call comes out alike."""
    return lambda _: reply


FOREVER = float("inf")


def capacity(per_second: float) -> Endpoint:
    """An endpoint that serves so many calls a second, with a quarter of a second's worth in its queue."""
    queue, last = 0.0, 0.0

    def answer(now: float) -> Reply:
        nonlocal queue, last
        queue, last = max(0.0, queue - (now - last) * per_second), now
        if queue > per_second / 4:
            return BUSY_NOW
        queue += 1
        return FINE

    return answer


def busiest(fleet: Fleet, task: TaskId | None = None, *, since: float = 0.0, seconds: float = 1.0) -> int:
    """The most calls that began within such a time."""
    begun = [at for at, of in fleet.log.begun if at >= since and task in (None, of)]
    first = most = 0
    for last, at in enumerate(begun):
        while begun[first] < at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


# --- Rising -------------------------------------------------------------------------------------


def test_a_rate_starts_at_half_its_ceiling_and_rises_to_it_while_calls_succeed(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100))
    fleet.start(2)

    fleet.run(1)
    at_first = fleet.rate(task)
    fleet.run(30)

    assert (at_first, fleet.rate(task)) == (50, 100)
    fleet.run(10)
    assert fleet.log.calls(since=31) >= 10 * 100 * 0.97


def test_a_rate_that_is_not_used_does_not_rise(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100), backlog=0)
    fleet.start(2)
    fleet.arrive(task, per_second=30, seconds=60)

    fleet.run(60)

    assert fleet.log.calls() >= 60 * 30 - 10
    assert fleet.rate(task) == 50


def test_a_rate_of_one_call_in_five_seconds_is_just_that(fleet: Fleet) -> None:
    fleet.task("a", adaptive(0.2))
    fleet.start(3)

    fleet.run(101)

    begun = [at for at, _ in fleet.log.begun]
    assert len(begun) == 20
    assert min(after - before for before, after in pairwise(begun)) >= 5


def test_ten_thousand_calls_a_second_are_given_if_they_are_asked_for(fleet_under: MakeFleet) -> None:
    at_once = replace(adaptive(10_000), base=10_000)
    fleet = fleet_under(at_once)
    fleet.task("a", at_once, endpoint=always(Reply(seconds=0.01)), backlog=128)
    fleet.start(2, threads=64)

    fleet.run(2)

    assert fleet.log.calls(since=1) >= 9500


# --- Falling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [Signal.OVERLOAD, Signal.ERROR])
def test_a_rate_falls_when_more_calls_fail_than_is_usual(fleet: Fleet, signal: Signal) -> None:
    half = every(2, Reply(signal, 0.01))
    task = fleet.task("a", adaptive(100), endpoint=changing((30, always(FINE)), (FOREVER, half)))
    fleet.start(2)
    fleet.run(30)
    before = fleet.rate(task)

    fleet.run(5)

    assert before == 100
    assert fleet.rate(task) < 60


def test_two_accidents_are_no_reason_to_go_slower(fleet: Fleet) -> None:
    answers = count()
    task = fleet.task(
        "a", adaptive(100), endpoint=lambda _: REFUSED if next(answers) in (2500, 2501) else FINE
    )
    fleet.start(2)
    fleet.run(30)

    rates = [fleet.rate(task)]
    while next(answers) < 3500:
        fleet.run(1)
        rates.append(fleet.rate(task))

    assert min(rates) == 100


@pytest.mark.parametrize("reply", [REFUSED, BROKEN], ids=["refused", "broken"])
def test_errors_that_are_always_there_do_not_bring_the_rate_down_for_good(fleet: Fleet, reply: Reply) -> None:
    fleet.task("a", adaptive(100), endpoint=every(50, reply))
    fleet.start(4)

    fleet.run(240)

    assert fleet.log.calls(since=120) >= 120 * 100 * 0.75


def test_an_endpoint_of_a_fifth_of_the_ceiling_is_found_and_used(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100), endpoint=capacity(20))
    fleet.start(4)

    fleet.run(60)

    served = sum(1 for at, _, reply in fleet.log.replies if reply is FINE and at >= 30)
    refused = sum(1 for at, _, reply in fleet.log.replies if reply is not FINE and at >= 30)
    assert served >= 30 * 20 * 0.85
    assert refused <= served * 0.07
    assert fleet.rate(task) <= 25


def test_a_rate_falls_when_answers_become_slow_under_it(fleet: Fleet) -> None:
    def slow_when_busy(now: float) -> Reply:
        begun = fleet.log.calls(since=now - 1)
        return Reply(seconds=1.0) if begun > 60 and now > 30 else FINE

    task = fleet.task("a", adaptive(100), endpoint=slow_when_busy)
    fleet.start(4, threads=64)
    fleet.run(30)
    before = fleet.rate(task)

    fleet.run(10)

    assert before == 100
    assert fleet.rate(task) < 65


def test_slowness_that_going_slower_does_not_mend_becomes_usual(fleet: Fleet) -> None:
    slow = Reply(seconds=1.0)
    task = fleet.task("a", adaptive(100), endpoint=changing((30, always(FINE)), (FOREVER, always(slow))))
    fleet.start(4, threads=64)
    fleet.run(30)

    fleet.run(20)
    at_first = fleet.rate(task)
    fleet.run(100)

    assert at_first < 60
    assert fleet.rate(task) == 100


# --- Waiting because the endpoint asks for it -----------------------------------------------------


def once_at(second: float, reply: Reply) -> Endpoint:
    """An endpoint that answers well but for one call."""
    told: list[float] = []

    def answer(now: float) -> Reply:
        if now >= second and not told:
            told.append(now)
            return reply
        return FINE

    return answer


@pytest.mark.parametrize("throttled", [True, False], ids=["429", "503"])
def test_a_retry_after_holds_the_whole_task_in_every_process(fleet: Fleet, throttled: bool) -> None:
    reply = Reply(Signal.OVERLOAD, 0.01, hold=20, throttled=throttled)
    task = fleet.task("a", adaptive(100), endpoint=once_at(10, reply))
    other = fleet.task("b", adaptive(100))
    fleet.start(4)

    fleet.run(60)

    told_at = next(at for at, _, found in fleet.log.replies if found is reply)
    assert fleet.log.calls(task, since=told_at + 0.25, until=told_at + 20) == 0
    assert fleet.log.calls(task, since=told_at + 20, until=told_at + 21) > 0
    assert fleet.log.calls(other, since=told_at, until=told_at + 20) > 20 * 50 * 0.9
    assert busiest(fleet, task, since=told_at + 20) <= 101


def test_a_503_with_a_retry_after_is_no_reason_to_go_slower_afterwards(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100), endpoint=once_at(30, Reply(Signal.OVERLOAD, 0.01, hold=5)))
    fleet.start(4)

    fleet.run(30)
    before = fleet.rate(task)
    fleet.run(6)

    assert (before, fleet.rate(task)) == (100, 100)


def test_a_429_that_names_no_time_holds_for_a_second(fleet: Fleet) -> None:
    reply = Reply(Signal.OVERLOAD, 0.01, hold=0.0, throttled=True)
    fleet.task("a", adaptive(100), endpoint=once_at(10, reply))
    fleet.start(4)

    fleet.run(15)

    told_at = next(at for at, _, found in fleet.log.replies if found is reply)
    assert fleet.log.calls(since=told_at + 0.1, until=told_at + 1) == 0
    assert fleet.log.calls(since=told_at + 1, until=told_at + 1.5) > 0


@pytest.mark.parametrize(
    ("outcome", "asked", "held"),
    [
        (Outcome.THROTTLED, timedelta(hours=2), 3600.0),
        (Outcome.BUSY, timedelta(hours=2), 3600.0),
        (Outcome.THROTTLED, timedelta(seconds=20), 20.0),
        (Outcome.THROTTLED, None, 0.0),
        (Outcome.BUSY, None, None),
        (Outcome.RETRY, timedelta(seconds=20), None),
    ],
)
def test_a_hold_is_as_long_as_was_asked_for_and_no_longer_than_is_allowed(
    outcome: Outcome, asked: timedelta | None, held: float | None
) -> None:
    result = ExecutionResult(outcome=outcome, retry_after=asked)

    assert hold_of(result, most=timedelta(hours=1)) == held


def quota(calls: int, seconds: float) -> Endpoint:
    """An endpoint that allows so many calls in each such time, and then says when the next one begins."""
    used = dict[int, int]()

    def answer(now: float) -> Reply:
        cycle = int(now // seconds)
        used[cycle] = used.get(cycle, 0) + 1
        if used[cycle] <= calls:
            return FINE
        return Reply(Signal.OVERLOAD, 0.01, hold=(cycle + 1) * seconds - now, throttled=True)

    return answer


def test_a_quota_is_found_and_hardly_touched(fleet: Fleet) -> None:
    fleet.task("a", adaptive(100), endpoint=quota(200, seconds=10))
    fleet.start(4)

    fleet.run(240)

    late = [reply for at, _, reply in fleet.log.replies if at >= 60]
    served = sum(1 for reply in late if reply is FINE)
    assert served >= 180 / 10 * 200 * 0.85
    assert len(late) - served <= served * 0.02


def test_429s_of_calls_that_were_under_way_together_count_as_one(fleet_under: MakeFleet) -> None:
    def throttled(now: float) -> Reply:
        # The slowest come two seconds after the first, and each asks for twenty of its own.
        lasts = 0.01 + 10 * (now - 30)
        return Reply(Signal.OVERLOAD, lasts, hold=20, throttled=True) if 30 <= now < 30.2 else FINE

    rates = []
    for endpoint in (throttled, once_at(30, Reply(Signal.OVERLOAD, 0.01, hold=20, throttled=True))):
        fleet = fleet_under(adaptive(1000))
        task = fleet.task("a", adaptive(100), endpoint=endpoint)
        fleet.start(4)
        fleet.run(45)
        rates.append(fleet.rate(task))

    several, one = rates
    assert several == pytest.approx(one, rel=0.05)


# --- The breaker --------------------------------------------------------------------------------

DEAD = Reply(Signal.OVERLOAD, 0.002)
HANGING = Reply(Signal.OVERLOAD, 3.0)


def test_a_dead_endpoint_gets_single_probes_until_two_come_out_well(fleet: Fleet) -> None:
    task = fleet.task(
        "a",
        adaptive(100),
        endpoint=changing((30, always(FINE)), (210, always(DEAD)), (FOREVER, always(FINE))),
    )
    fleet.start(4)

    fleet.run(40)
    state, spent = fleet.state(task), fleet.log.calls(since=30)
    fleet.run(170)
    probes = [slot for slot in fleet.log.given if slot.probe]
    fleet.run(10)

    assert state in ("open", "half_open")
    assert spent < 100
    assert fleet.log.calls(since=40, until=210) == sum(1 for slot in probes if slot.at >= 40) <= 60
    assert fleet.state(task) == "closed"
    assert [slot.probe for slot in fleet.log.given if slot.at > 210][:3] == [True, True, False]


def test_after_an_outage_the_rate_doubles_from_a_quarter_of_what_was_known_before(fleet: Fleet) -> None:
    task = fleet.task(
        "a", adaptive(100), endpoint=changing((30, always(FINE)), (60, always(DEAD)), (FOREVER, always(FINE)))
    )
    fleet.start(4)
    fleet.run(30)

    rates: list[float] = []
    while fleet.now < 90:
        fleet.run(0.1)
        if fleet.state(task) == "closed" and fleet.now > 60 and (not rates or rates[-1] != fleet.rate(task)):
            rates.append(fleet.rate(task))

    assert rates[:3] == pytest.approx([25, 50, 95], rel=0.25)
    assert rates[-1] == 100


def test_a_known_capacity_is_remembered_over_an_outage(fleet: Fleet) -> None:
    served = capacity(40)
    fleet.task("a", adaptive(200), endpoint=changing((60, served), (120, always(DEAD)), (FOREVER, served)))
    fleet.start(4)

    fleet.run(150)

    late = [reply for at, _, reply in fleet.log.replies if at >= 130]
    assert sum(1 for reply in late if reply is FINE) >= 20 * 40 * 0.8
    assert sum(1 for reply in late if reply is not FINE) <= 20 * 40 * 0.1


def test_a_probe_whose_process_died_is_replaced_when_its_patience_is_over(fleet: Fleet) -> None:
    hangs = changing((20, always(FINE)), (FOREVER, always(HANGING)))
    task = fleet.task("a", adaptive(100, patience=7), endpoint=hangs)
    fleet.start(2)
    while not fleet.log.given or not fleet.log.given[-1].probe:
        fleet.run(0.1)
    lost = fleet.log.given[-1]

    next(process for process in fleet.processes if process.name == lost.process).crash()
    fleet.run(lost.at + 7 - fleet.now)
    early = [slot for slot in fleet.log.given if slot.at > lost.at]
    fleet.run(1.5)

    assert early == []
    assert [slot.probe for slot in fleet.log.given if slot.at > lost.at] == [True]
    assert fleet.state(task) == "half_open"


# --- Stepped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "rate"),
    [(every(5, BROKEN), 25), (every(20, BROKEN), 50), (every(200, BROKEN), 100), (every(5, REFUSED), 25)],
    ids=["bad", "so so", "good", "refused"],
)
def test_of_three_steps_the_last_minutes_errors_choose_one(
    fleet: Fleet, endpoint: Endpoint, rate: float
) -> None:
    task = fleet.task("a", STEPPED, endpoint=endpoint)
    fleet.start(2)

    fleet.run(0.2)
    at_first = fleet.rate(task)
    fleet.run(90)

    assert (at_first, fleet.rate(task)) == (50, rate)


def test_a_minute_after_the_last_error_it_is_forgotten(fleet: Fleet) -> None:
    task = fleet.task("a", STEPPED, endpoint=changing((30, every(3, BROKEN)), (FOREVER, always(FINE))))
    fleet.start(2)
    fleet.run(30)
    before = fleet.rate(task)

    fleet.run(75)

    assert (before, fleet.rate(task)) == (25, 100)


def test_nothing_known_for_a_minute_means_the_middle_step(fleet: Fleet) -> None:
    task = fleet.task("a", STEPPED, endpoint=every(3, BROKEN))
    fleet.start(2)
    fleet.run(30)
    before = fleet.rate(task)

    fleet.backlog[task] = 0
    for process in fleet.processes:
        process.give_back(task)
    fleet.run(90)
    fleet.backlog[task] = 1
    fleet.processes[0].look()
    fleet.run(0.5)

    assert (before, fleet.rate(task)) == (25, 50)


# --- Orders -------------------------------------------------------------------------------------


def set_rate(scope: str, rate: float, *, pinned: bool = False) -> Callable[[Fleet], None]:
    """Has an operator order a rate."""
    return lambda fleet: fleet.order(lambda store: store.orders.set_rate(scope, rate, pinned=pinned), scope)


def test_a_pinned_rate_is_held_whatever_calls_come_out_like(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100), endpoint=every(3, REFUSED))
    fleet.start(2)
    set_rate(task, 40, pinned=True)(fleet)

    fleet.run(60)

    assert {slot.rate for slot in fleet.log.given} == {40}
    assert fleet.log.calls(since=10) == pytest.approx(50 * 40, rel=0.03)


@pytest.mark.parametrize("scope", ["a", EVERY_TASK])
def test_an_order_that_lowers_the_ceiling_holds_from_the_next_moment(fleet: Fleet, scope: str) -> None:
    fleet.task("a", adaptive(100))
    fleet.start(4)
    fleet.run(30)

    set_rate(scope, 10)(fleet)
    fleet.run(30)

    assert fleet.log.calls(since=30.1) == pytest.approx(30 * 10, rel=0.05)
    assert busiest(fleet, since=30.1) <= 11


def test_an_order_that_lifts_the_ceiling_is_tried_out_from_where_the_rate_stands(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(50))
    fleet.start(4)
    fleet.run(30)

    set_rate(task, 100)(fleet)
    fleet.run(2)
    soon = fleet.rate(task)
    fleet.run(30)

    assert 50 <= soon < 70
    assert fleet.rate(task) == 100


def test_the_configured_rate_holds_again_when_an_order_is_withdrawn(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100))
    fleet.start(4)
    set_rate(task, 10, pinned=True)(fleet)
    fleet.run(10)

    fleet.order(lambda store: store.orders.reset_rate(task), task)
    fleet.run(60)

    assert fleet.rate(task) == 100


@pytest.mark.parametrize("scope", ["a", EVERY_TASK])
def test_a_pause_stops_calls_in_a_moment_and_its_end_brings_no_burst(fleet: Fleet, scope: str) -> None:
    task = fleet.task("a", adaptive(100))
    other = fleet.task("b", adaptive(100))
    fleet.start(4)
    fleet.run(30)

    fleet.order(lambda store: store.orders.pause(scope), scope)
    fleet.run(60)
    fleet.order(lambda store: store.orders.resume(scope), scope)
    fleet.run(10)

    assert fleet.log.calls(task, since=30.1, until=90) == 0
    assert (fleet.log.calls(other, since=30.1, until=90) == 0) == (scope == EVERY_TASK)
    assert fleet.log.calls(task, since=91, until=92) >= 90
    assert busiest(fleet, task, since=90) <= 101


def test_a_pause_is_told_to_who_asks_for_nothing_too(fleet: Fleet) -> None:
    """Else a process that loses Redis in a pause would take the task for one that may be called."""
    task = fleet.task("a", adaptive(100))
    [process] = fleet.start(1)
    fleet.run(5)

    fleet.order(lambda store: store.orders.pause(task), task)
    states = set[str]()
    for _ in range(200):
        fleet.run(0.1)
        process.agent.count(task, fleet.limits[task], Kind.OK, process.local)
        process.look()
        states.add(fleet.state(task))

    assert states == {"paused"}


# --- Calls at a time ----------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_calls_are_under_way_than_are_allowed_at_a_time_and_no_fewer(
    fleet: Fleet, concurrency: int
) -> None:
    lasts = Reply(seconds=0.5)
    fleet.task("a", adaptive(100, concurrency=concurrency), endpoint=always(lasts))
    fleet.start(3)

    fleet.run(60)

    begun = [at for at, _ in fleet.log.begun]
    assert min(after - before for before, after in zip(begun, begun[concurrency:], strict=False)) >= 0.5
    assert len(begun) >= 60 / 0.5 * concurrency * 0.8


def test_the_place_of_a_process_that_died_is_free_when_its_patience_is_over(fleet: Fleet) -> None:
    fleet.task("a", adaptive(100, concurrency=1, patience=7), endpoint=always(Reply(seconds=2)))
    doomed, other = fleet.start(2)
    fleet.run(0.5)
    [taken] = fleet.log.given
    next(process for process in (doomed, other) if process.name == taken.process).crash()

    fleet.run(taken.at + 7 - fleet.now)
    early = len(fleet.log.given)
    fleet.run(1.5)

    assert early == 1
    assert len(fleet.log.given) == 2


# --- What stays ---------------------------------------------------------------------------------


def test_what_was_learned_is_there_for_processes_that_start_anew(fleet: Fleet) -> None:
    task = fleet.task("a", adaptive(100), endpoint=capacity(20))
    fleet.start(4)
    fleet.run(60)
    before = fleet.rate(task)

    for process in fleet.processes:
        process.crash()
    fleet.run(5)
    fleet.start(4)
    fleet.run(0.5)

    assert fleet.rate(task) == pytest.approx(before, rel=0.05)
    assert busiest(fleet, since=65) <= before + 1


# --- Sharing ------------------------------------------------------------------------------------


@pytest.fixture
def shared(fleet_under: MakeFleet) -> Fleet:
    """A fleet that may make a hundred calls per second."""
    return fleet_under(adaptive(100))


def shares(fleet: Fleet, *tasks: TaskId) -> list[float]:
    """Calls per second of each, once things have settled."""
    fleet.run(40)
    return [fleet.log.calls(task, since=25) / 15 for task in tasks]


def test_two_tasks_that_both_want_all_get_half_each(shared: Fleet) -> None:
    tasks = [shared.task(name, adaptive(100)) for name in "ab"]
    shared.start(3)

    assert shares(shared, *tasks) == pytest.approx([49, 49], rel=0.03)


def test_priorities_share_16_to_4_to_1_however_many_tasks_each_has(shared: Fleet) -> None:
    high, high_too = (shared.task(name, adaptive(100), weight=16) for name in ("a", "b"))
    normal, low = shared.task("c", adaptive(100), weight=4), shared.task("d", adaptive(100), weight=1)
    shared.start(3)

    whole = 98
    assert shares(shared, high, high_too, normal, low) == pytest.approx(
        [whole * 8 / 21, whole * 8 / 21, whole * 4 / 21, whole / 21], rel=0.06
    )


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("slow", [1, 10])
def test_what_a_task_of_a_low_limit_leaves_is_anothers(shared: Fleet, slow: float, processes: int) -> None:
    limited, free = shared.task("a", adaptive(slow)), shared.task("b", adaptive(100))
    shared.start(processes)

    slow_share, rest = shares(shared, limited, free)

    assert slow_share <= slow
    assert slow_share + rest >= 96


def test_a_task_that_is_held_leaves_everything_to_the_others(shared: Fleet) -> None:
    held = shared.task(
        "a", adaptive(100), endpoint=always(Reply(Signal.OVERLOAD, 0.01, hold=30, throttled=True))
    )
    dead = shared.task("b", adaptive(100), endpoint=always(DEAD))
    healthy = shared.task("c", adaptive(100))
    shared.start(4)

    assert shares(shared, healthy)[0] >= 95
    assert shared.log.calls(held) < 30
    assert shared.log.calls(dead) < 120


@pytest.mark.parametrize("tasks", [2, 10])
def test_tasks_in_processes_of_their_own_get_what_they_may_as_long_as_there_is_enough(
    fleet: Fleet, tasks: int
) -> None:
    names = [fleet.task(f"task-{number}", adaptive(1000 / 10)) for number in range(tasks)]
    for name in names:
        fleet.start(1, tasks=[name])

    assert min(shares(fleet, *names)) >= 95


def test_two_tasks_in_processes_of_their_own_get_the_same(shared: Fleet) -> None:
    tasks = [shared.task(name, adaptive(100)) for name in "ab"]
    for task in tasks:
        shared.start(1, tasks=[task])

    one, other = shares(shared, *tasks)

    assert one == pytest.approx(other, rel=0.05)


def test_no_slot_lies_beyond_two_seconds_even_if_there_is_a_gap_that_is_too_small(
    fleet_under: MakeFleet,
) -> None:
    fleet = fleet_under(adaptive(10))
    slow, quick = adaptive(0.7), adaptive(10)

    def slots(name: str, limit: Limit) -> list[float]:
        ask = Ask(TaskId(name), limit, slots=1, weight=4, waiting=1, in_use=0)
        answer = fleet.store.limits.exchange(Request("process", fleet.everything, slots=1, tasks=[ask]))
        return [grant.delay for grant in answer.grants]

    slots("slow", slow)
    slots("slow", slow)  # leaves a gap of more than a second
    fleet.store.orders.set_rate(EVERY_TASK, 0.5)  # in which no slot fits now

    found = [delay for number in range(10) for delay in slots(f"quick-{number}", quick)]

    assert max(found, default=0) <= 2


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_task_of_a_low_limit_gets_it_beside_one_that_takes_what_it_can(
    shared: Fleet, processes: int
) -> None:
    limited, free = shared.task("a", adaptive(10)), shared.task("b", adaptive(100))
    shared.start(processes)

    slow_share, _ = shares(shared, limited, free)

    assert slow_share >= 9


def test_one_task_may_get_more_than_half_if_that_is_its_weight(shared: Fleet) -> None:
    tasks = [shared.task(f"weight-{weight}", adaptive(100), weight=weight) for weight in (16, 4, 1)]
    shared.start(2)

    assert shares(shared, *tasks) == pytest.approx([98 * weight / 21 for weight in (16, 4, 1)], rel=0.06)


def test_two_tasks_in_processes_of_their_own_use_all_there_is(shared: Fleet) -> None:
    tasks = [shared.task(name, adaptive(100)) for name in "ab"]
    for task in tasks:
        shared.start(1, tasks=[task])

    assert sum(shares(shared, *tasks)) >= 90
