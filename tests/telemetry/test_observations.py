"""What processes see, until it is brought away."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from tq.telemetry.observations import ATTEMPTS, BOUNDS, DURATION, TICK, Observations, Tallies

seconds = st.floats(-1, 1e5, allow_nan=False)


def seen(*durations: float) -> Observations:
    observations = Observations()
    for duration in durations:
        observations.time(DURATION, "digest", duration)
    return observations


@given(st.lists(seconds, min_size=1))
def test_everything_seen_is_in_one_bucket_and_in_the_sum(durations: list[float]) -> None:
    taken = seen(*durations).take()

    assert {task: [*of_task] for task, of_task in taken.items()} == {"digest": [DURATION]}
    *buckets, total = taken["digest"][DURATION]
    assert len(buckets) == len(BOUNDS[DURATION]) + 1
    assert sum(buckets) == len(durations)
    assert total == sum(max(0.0, duration) for duration in durations)


def test_a_bucket_holds_what_is_not_longer_than_its_bound() -> None:
    *buckets, _ = seen(0.0, 0.005, 0.0051, 30.0, 30.1).take()["digest"][DURATION]

    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)


def test_what_was_taken_is_gone_and_what_is_given_back_is_there_again() -> None:
    observations = seen(0.1)
    observations.count(f"{ATTEMPTS}|2xx|done", "digest")
    taken = observations.take()

    assert observations.take() == {}

    observations.time(DURATION, "digest", 0.1)
    observations.give_back(taken)
    observations.time(TICK, "", 0.2)
    again = observations.take()
    assert again["digest"][DURATION] == [2 * number for number in taken["digest"][DURATION]]
    assert again["digest"]["attempts|2xx|done"] == [1]
    assert again[""][TICK][-1] == 0.2


def test_nothing_is_lost_between_threads_that_see_and_one_that_takes() -> None:
    observations, taken = Observations(), list[Tallies]()

    def see() -> None:
        for _ in range(40_000):
            observations.count("attempts|2xx|done", "digest")

    threads = [threading.Thread(target=see) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.append(observations.take())
    taken.append(observations.take())

    assert sum(part["digest"]["attempts|2xx|done"][0] for part in taken if part) == 160_000


def test_a_process_whose_observations_nobody_takes_stays_small() -> None:
    observations = Observations()

    for _ in range(200_000):
        observations.count("attempts|2xx|done", "digest")

    assert len(observations._seen) <= 50_000
    assert observations.take() == {"digest": {"attempts|2xx|done": [200_000]}}
