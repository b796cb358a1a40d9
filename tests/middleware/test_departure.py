"""How a worker process takes its leave; with real processes in tests/end_to_end/test_shutdown.py."""

import threading
import time

from dramatiq.common import join_all

from middleware.departure import Crew


class Sleeper(threading.Thread):
    """A worker's thread with a job that takes so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self._seconds = seconds
        self.start()

    def run(self) -> None:
        time.sleep(self._seconds)

    def stop(self) -> None:
        """Has it end after its job."""


def test_threads_that_end_one_after_the_other_all_have_the_whole_time() -> None:
    crew = Crew([Sleeper(number / 10) for number in range(1, 11)])

    join_all([crew], timeout=4000)

    assert crew.at_work == 0


def test_threads_that_do_not_end_in_time_are_counted() -> None:
    crew = Crew([Sleeper(0), Sleeper(600), Sleeper(600)])

    join_all([crew], timeout=200)

    assert crew.at_work == 2
