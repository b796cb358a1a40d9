"""What the ledger's bookkeeper may begin: suspects alone, nothing beside them, nothing begun while one waits."""

from typing import Any

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.worker import _WorkQueueItem

from actors.transport import make_transport
from middleware.fairness import FairQueue
from tq.models import SUSPECTS, Envelope, Priority
from tq.runtime import Runtime
from tq.settings import Settings
from tq.testing import make_envelope


class Desk:
    """A queue, and the bookkeeper's part in it played by hand; nothing is limited."""

    def __init__(self, runtime: Runtime) -> None:
        self.queue = FairQueue(runtime.limiter, runtime.bookkeeper)
        self.queue._idle = 8  # threads wait, so that jobs are begun for them

    def put(self, user: str, queue: str = Priority.NORMAL.value) -> Any:
        """One more job waits."""
        message = MessageProxy(dramatiq.Message(queue, "execute", (make_envelope(user),), {}, {}))
        self.queue.put(_WorkQueueItem(0, message))
        return message

    def begin(self) -> list[str]:
        """Whose jobs are to begin now."""
        return [job.user_id for job in self.take()]

    def take(self) -> list[Envelope]:
        """The jobs that are to begin now; they are handed out, and threads have them."""
        with self.queue._limiter.lock:
            jobs = self.queue.take_next()
            self.queue.hand_out(jobs)
            self.queue._ready.clear()
        return jobs


@pytest.fixture
def desk(settings: Settings) -> Desk:
    return Desk(Runtime(settings, make_transport(settings)))


def test_ordinary_jobs_run_beside_each_other(desk: Desk) -> None:
    for user in ("ada", "bea", "cy"):
        desk.put(user)

    jobs = desk.take()

    assert sorted(job.user_id for job in jobs) == ["ada", "bea", "cy"]
    assert not any(job.is_suspect for job in jobs)


def test_a_suspect_waits_for_what_runs_and_nothing_overtakes_it(desk: Desk) -> None:
    running = desk.put("ada")
    assert desk.begin() == ["ada"]

    desk.put("deadly", SUSPECTS)
    desk.put("late")
    assert desk.begin() == []
    desk.queue.worked(running)
    suspects = desk.take()

    assert [job.user_id for job in suspects] == ["deadly"]
    assert suspects[0].is_suspect
    assert desk.begin() == []


def test_a_suspect_waits_until_the_ends_of_others_are_stored(desk: Desk) -> None:
    running = desk.put("ada")
    desk.take()
    desk.put("deadly", SUSPECTS)
    running.args[0].is_recorded = True

    desk.queue.worked(running)
    assert desk.begin() == []
    with desk.queue._limiter.lock:
        desk.queue.settled([running.args[0]])

    assert desk.begin() == ["deadly"]


def test_between_two_suspects_others_get_their_turn(desk: Desk) -> None:
    first = desk.put("first", SUSPECTS)
    desk.put("second", SUSPECTS)
    late = desk.put("late")
    assert desk.begin() == ["first"]

    desk.queue.worked(first)

    assert desk.begin() == ["late"]
    assert desk.begin() == []
    desk.queue.worked(late)
    assert desk.begin() == ["second"]


def test_suspects_are_worked_one_after_the_other(desk: Desk) -> None:
    first = desk.put("first", SUSPECTS)
    desk.put("second", SUSPECTS)
    assert desk.begin() == ["first"]
    assert desk.begin() == []

    desk.queue.worked(first)

    assert desk.begin() == ["second"]


def test_what_is_dropped_lets_a_suspect_begin(desk: Desk) -> None:
    desk.put("ada")
    with desk.queue._limiter.lock:
        desk.queue.hand_out(desk.queue.take_next())
    desk.put("late")

    dropped = [item.message.args[0].user_id for item in desk.queue.drop()]
    desk.put("deadly", SUSPECTS)

    assert dropped == ["ada", "late"]
    assert desk.begin() == ["deadly"]


def test_control_messages_wait_for_nobody(desk: Desk) -> None:
    desk.put("deadly", SUSPECTS)
    desk.take()
    control = MessageProxy(dramatiq.Message("control", "tick", (), {}, {}))

    desk.queue.put(_WorkQueueItem(0, control))

    assert desk.queue.get(timeout=1).message is control
