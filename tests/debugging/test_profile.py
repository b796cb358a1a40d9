"""A CPU profile names what works, whatever waits beside it, and costs little."""

import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.debugging.work import burn, hot, restless, running, sleeper, waiter
from tests.waiting import eventually
from tq.debugging import profile as profiling
from tq.debugging.profile import NOT_SEEN, Profile, clock_of_threads, record
from tq.errors import ProfileRunning

WAITERS = 60


def by_thread(profile: Profile) -> Counter[str]:
    """Nanoseconds by the heading of the thread."""
    found: Counter[str] = Counter()
    for stack, weight in profile.weights.items():
        found[stack[0].function] += weight
    return found


def share_of(profile: Profile, heading: str) -> float:
    return by_thread(profile)[heading] / profile.total


def test_what_works_is_named_first_and_what_waits_beside_it_hardly_at_all() -> None:
    with running(hot, *[waiter] * WAITERS, *[sleeper] * 4):
        recording = record(seconds=1)

    profile = recording.profile
    [(place, weight), *_] = profile.hottest(5)
    assert (place.function, place.file) == ("burn", "tests/debugging/work.py")
    assert weight / profile.total > 0.8
    assert share_of(profile, "thread waiter-N") < 0.01
    assert share_of(profile, "thread sleeper-N") < 0.1
    [deepest] = [stack for stack in profile.weights if stack[-1].function == "burn"]
    assert [found.function for found in deepest[-2:]] == ["hot", "burn"]


def test_short_bursts_of_work_between_waits_are_found_where_the_work_is() -> None:
    with running(*[restless] * 4):
        profile = record(seconds=2).profile

    [(place, weight), *_] = profile.hottest(1)
    assert place.function == "burn"
    assert weight / profile.total > 0.5


def test_all_that_threads_have_used_counts_somewhere() -> None:
    clock = clock_of_threads()
    assert clock is not None

    with running(hot, restless, restless):
        began, process = time.thread_time(), time.process_time()
        recording = record(seconds=1)
        others_s = (time.process_time() - process) - (time.thread_time() - began)

    # The clocks are read one after the other, at the beginning and at the last look.
    assert recording.profile.total / 1e9 == pytest.approx(others_s, rel=0.1)


def test_looking_costs_a_small_part_of_what_is_looked_at() -> None:
    with running(hot, *[waiter] * 63):
        recording = record(seconds=1)

    assert recording.looks > 1
    assert recording.looking_s < 0.1 * recording.process_s


def test_a_thread_is_known_from_its_first_moment_and_after_its_end() -> None:
    def brief() -> None:
        for _ in range(300):
            burn()

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(record, 1)
        eventually(profiling._ONE_AT_A_TIME.locked)
        for number in range(3):
            thread = threading.Thread(target=brief, name=f"brief-{number}")
            thread.start()
            thread.join()
        profile = making.result().profile

    assert by_thread(profile)["thread brief-N"] > 0


def test_there_is_one_profile_at_a_time() -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(record, 0.5)
        eventually(profiling._ONE_AT_A_TIME.locked)

        with pytest.raises(ProfileRunning, match="ask again when it has ended"):
            record(0.5)

        assert first.result().looks
    assert record(0.1).looks


def test_the_interpreter_switches_threads_afterwards_as_before() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    try:
        record(0.2)
        after = sys.getswitchinterval()
    finally:
        sys.setswitchinterval(before)

    assert after == pytest.approx(0.004)


def test_without_clocks_of_threads_those_that_wait_still_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "clock_of_threads", lambda: None)

    with running(hot, *[waiter] * 8):
        profile = record(seconds=0.5).profile

    # Other tests may have left threads that wait in C, which only their clocks would tell of.
    assert share_of(profile, "thread waiter-N") < 0.1 * share_of(profile, "thread hot-N")


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "MOST_NODES", 3)
    monkeypatch.setattr(profiling, "MOST_NAMES", 1)
    with running(hot, hot):
        profile = record(seconds=0.3).profile

    assert len({stack[:2] for stack in profile.weights if stack[-1] is not NOT_SEEN}) <= 3
    assert len(by_thread(profile)) <= 2
    assert profile.total > 0


def test_the_clock_of_a_thread_that_has_ended_is_an_error_and_no_crash() -> None:
    clock = clock_of_threads()
    assert clock is not None
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()

    def has_ended() -> bool:
        # The system ends it a moment after Python has.
        try:
            return not clock(thread.native_id or 0)
        except OSError:
            return True

    eventually(has_ended)
