"""Suspects are worked alone: nothing beside them, nothing begun while one waits."""

from concurrent.futures import Future, ThreadPoolExecutor

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import SkipMessage

from middleware.suspects import Suspects
from tests.waiting import eventually
from tq.models import SUSPECTS, Priority
from tq.testing import make_envelope

BROKER = StubBroker(middleware=[])


def message(queue: str = Priority.NORMAL.value) -> MessageProxy:
    return MessageProxy(dramatiq.Message(queue, "execute", (make_envelope("ada"),), {}, {}))


@pytest.fixture
def suspects() -> Suspects:
    made = Suspects()
    made.after_worker_boot(BROKER, None)  # type: ignore[arg-type] # it looks at no worker
    return made


class Threads:
    """Messages on their way in, each in a thread of its own."""

    def __init__(self, suspects: Suspects) -> None:
        self._suspects = suspects
        self._pool = ThreadPoolExecutor(8)

    def enter(self, one: MessageProxy) -> Future[None]:
        """Lets a message in, or has it wait; returns when one of them is so."""
        waiting = self._waiting
        entering = self._pool.submit(self._suspects.before_process_message, BROKER, one)
        eventually(lambda: entering.done() or self._waiting > waiting)
        return entering

    @property
    def _waiting(self) -> int:
        return len(self._suspects._passage._waiters)  # type: ignore[attr-defined] # the stubs leave it out

    def leave(self, one: MessageProxy) -> None:
        """The message has been worked."""
        self._suspects.after_process_message(BROKER, one)


@pytest.fixture
def threads(suspects: Suspects) -> Threads:
    return Threads(suspects)


def test_ordinary_jobs_run_beside_each_other(threads: Threads) -> None:
    jobs = [message() for _ in range(3)]

    for job in jobs:
        threads.enter(job).result(timeout=10)

    assert not any(job.args[0].is_suspect for job in jobs)


def test_a_suspect_waits_for_what_runs_and_nothing_overtakes_it(threads: Threads) -> None:
    running, suspect, late = message(), message(SUSPECTS), message()
    threads.enter(running).result(timeout=10)

    suspect_enters = threads.enter(suspect)
    late_enters = threads.enter(late)
    assert not suspect_enters.done()
    threads.leave(running)
    suspect_enters.result(timeout=10)

    assert suspect.args[0].is_suspect
    assert not late_enters.done()
    threads.leave(suspect)
    late_enters.result(timeout=10)


def test_suspects_are_worked_one_after_the_other(threads: Threads) -> None:
    first, second = message(SUSPECTS), message(SUSPECTS)
    threads.enter(first).result(timeout=10)

    entering = threads.enter(second)

    assert not entering.done()
    threads.leave(first)
    entering.result(timeout=10)


def test_who_waits_goes_back_when_the_worker_ends(threads: Threads, suspects: Suspects) -> None:
    suspect, late = message(SUSPECTS), message()
    threads.enter(suspect).result(timeout=10)
    entering = threads.enter(late)

    suspects.before_worker_shutdown(BROKER, None)  # type: ignore[arg-type] # it looks at no worker

    with pytest.raises(SkipMessage):
        entering.result(timeout=10)
    assert late.put_off_for.total_seconds() == 0


def test_a_message_that_was_skipped_before_it_came_here_lets_nobody_in(
    threads: Threads, suspects: Suspects
) -> None:
    suspect, skipped, late = message(SUSPECTS), message(), message()
    threads.enter(suspect).result(timeout=10)

    suspects.after_skip_message(BROKER, skipped)

    assert not threads.enter(late).done()
    threads.leave(suspect)


def test_control_messages_wait_for_nobody(threads: Threads) -> None:
    threads.enter(message(SUSPECTS)).result(timeout=10)

    control = MessageProxy(dramatiq.Message("control", "distribute", ("run",), {}, {}))

    threads.enter(control).result(timeout=10)
