"""How a worker process takes its leave; with real processes in tests/end_to_end/test_shutdown.py."""

import threading
import time

import dramatiq
from dramatiq.common import join_all
from loguru import logger

from actors.broker import make_broker
from actors.transport import make_transport
from middleware.departure import Crew, Departure
from tq.settings import Settings
from tq.store import Store

# Nobody listens at port 1.
REDIS_AWAY = "redis://127.0.0.1:1/0"


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


def test_who_cannot_give_back_what_was_fetched_says_why_and_what_to_do(
    settings: Settings,
) -> None:
    told: list[str] = []
    sink = logger.add(
        lambda message: told.append(str(message.record["extra"].get("reason"))), level="WARNING"
    )
    away = settings.model_copy(update={"redis_url": REDIS_AWAY, "broker": "redis"})
    departure = Departure()
    broker = make_broker(away, [departure], Store(away, make_transport(away)))

    departure.after_worker_shutdown(broker, dramatiq.Worker(broker))
    logger.remove(sink)

    assert told == ["Redis cannot be reached; start it, or set TQ_REDIS_URL"]
