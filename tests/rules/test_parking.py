"""Threads that wait: who came last is woken first, and nobody is woken for nothing or forgotten."""

import threading

from tests.waiting import eventually
from tq.parking import Parking


class Park:
    """Threads that come one after the other, and note when they are woken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parking = Parking(self.lock)
        self.woken: list[int] = []
        self._came = 0

    def come(self, seconds: float | None = None) -> threading.Thread:
        """One more waits."""
        thread = threading.Thread(target=self._wait, args=(self._came, seconds), daemon=True)
        self._came += 1
        waiting = len(self.parking._parked)
        thread.start()
        eventually(lambda: len(self.parking._parked) > waiting)
        return thread

    def wake(self, threads: int) -> None:
        """Wakes so many, and waits for them."""
        before = len(self.woken)
        there = len(self.parking._parked)
        with self.lock:
            self.parking.wake(threads)
        eventually(lambda: len(self.woken) == before + min(threads, there))

    def _wait(self, number: int, seconds: float | None) -> None:
        with self.lock:
            self.parking.wait(seconds)
            self.woken.append(number)


def test_who_came_last_is_woken_first() -> None:
    park = Park()
    for _ in range(3):
        park.come()

    for _ in range(3):
        park.wake(1)

    assert park.woken == [2, 1, 0]


def test_as_many_are_woken_as_are_asked_for_and_no_more_than_there_are() -> None:
    park = Park()
    threads = [park.come() for _ in range(4)]

    park.wake(2)
    assert sorted(park.woken) == [2, 3]

    park.wake(9)
    assert sorted(park.woken) == [0, 1, 2, 3]
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_who_has_waited_long_enough_is_not_woken_any_more() -> None:
    park = Park()
    park.come()
    park.come(0.01).join(timeout=10)

    park.wake(1)

    assert park.woken == [1, 0]


def test_all_are_woken_at_the_end() -> None:
    park = Park()
    threads = [park.come() for _ in range(5)]

    with park.lock:
        park.parking.wake_all()

    for thread in threads:
        thread.join(timeout=10)
    assert sorted(park.woken) == [0, 1, 2, 3, 4]
