"""Time, jobs and calls of a simulation."""

from random import Random

from tq.bench.downstream import Phase, Reply
from tq.bench.scenarios import Arrival, Scenario
from tq.bench.timeline import Timeline
from tq.bench.world import Backlog, Job, World
from tq.models import TaskId

BIG, SMALL, OTHER = TaskId("big"), TaskId("small"), TaskId("other")


def test_what_is_planned_happens_in_order_of_time_and_then_of_planning() -> None:
    timeline, seen = Timeline(), list[tuple[str, float]]()
    timeline.at(2.0, lambda: seen.append(("late", timeline.seconds)))
    timeline.at(1.0, lambda: timeline.after(1.0, lambda: seen.append(("planned later", timeline.seconds))))
    timeline.at(1.0, lambda: seen.append(("early", timeline.seconds)))
    timeline.at(2.5, lambda: seen.append(("too late", timeline.seconds)))

    timeline.run(until=2.0)

    assert seen == [("early", 1.0), ("late", 2.0), ("planned later", 2.0)]


def test_scripts_get_simulated_time_in_fractions_of_a_millisecond() -> None:
    timeline, seen = Timeline(), list[float]()
    for second in (1.0, 1.00025):
        timeline.at(second, lambda: seen.append(timeline.override_ms))

    timeline.run(until=2.0)

    assert seen[0] > 1.7e12
    assert round(seen[1] - seen[0], 2) == 0.25


def test_an_endless_task_always_has_a_job_and_a_small_one_is_soon_found_beside_it() -> None:
    backlog = Backlog([BIG], Random(1))
    backlog.add(Job(SMALL, since=0.0))

    fetched = [backlog.fetch() for _ in range(300)]

    assert fetched.count(Job(SMALL, since=0.0)) == 1
    assert fetched.count(Job(BIG)) == 299


def test_a_task_with_ten_times_the_jobs_is_not_found_ten_times_as_often() -> None:
    backlog = Backlog([], Random(1))
    for task, jobs in ((BIG, 1000), (SMALL, 100)):
        for _ in range(jobs):
            backlog.add(Job(task, since=0.0))

    fetched = [job.task for _ in range(100) if (job := backlog.fetch())]

    assert 35 <= fetched.count(SMALL) <= 65


def test_jobs_of_a_task_keep_their_order_and_what_is_given_back_is_the_next() -> None:
    backlog = Backlog([], Random(1))
    jobs = [Job(SMALL, since=float(number)) for number in range(3)]
    for job in jobs:
        backlog.add(job)

    first = backlog.fetch()
    assert first == jobs[0]
    backlog.give_back(first)

    assert [backlog.fetch() for _ in range(4)] == [*jobs, None]


def test_what_is_unwanted_is_left_to_others() -> None:
    backlog = Backlog([BIG], Random(1))
    backlog.add(Job(SMALL, since=0.0))

    assert backlog.fetch({BIG}) == Job(SMALL, since=0.0)
    assert backlog.fetch({BIG}) is None
    assert backlog.fetch() == Job(BIG)


def test_a_job_that_failed_is_there_again_a_second_later_and_waits_anew() -> None:
    scenario = Scenario(
        "",
        "",
        10,
        (Phase(0, 100),),
        endless=(),
        broken_task=SMALL,
        arrive=lambda *_: [Arrival(1.0, SMALL, 1)],
    )
    world, replies = World(scenario, seed=1), list[Reply]()
    arrived = list[float]()

    def begin() -> None:
        arrived.append(world.timeline.seconds)
        job = world.backlog.fetch()
        assert job is not None
        world.timeline.after(0.5, lambda: world.call(job, replies.append))

    world.on_arrival = begin
    world.timeline.run(until=4.0)

    assert [round(at, 3) for at in arrived] == [1.0, 2.53]
    assert world.trace.failed == len(replies) == 2
    assert world.trace.waits == [0.5, 0.5]
