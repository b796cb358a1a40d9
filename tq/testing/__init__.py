"""For tests of what is built on TaskQueue: a frozen clock, builders, a fake executor, the whole journey
of a run in one thread, and an endpoint that bears so much and no more.

    def test_everybody_gets_a_digest() -> None:
        with Journey.begin([make_task("email_digest")], at="2026-11-24T08:59") as journey:
            journey.enable("ada", "email_digest")
            journey.until("2026-11-24T09:31")
            assert journey.executor.users == ["ada"]
"""

from tq.testing.builders import make_envelope, make_job, make_task
from tq.testing.clock import FrozenClock, utc
from tq.testing.downstream import Behaviour, Call, Calls, Downstream, Quota, State
from tq.testing.executor import FakeExecutor
from tq.testing.journey import Journey

__all__ = [
    "Behaviour",
    "Call",
    "Calls",
    "Downstream",
    "FakeExecutor",
    "FrozenClock",
    "Journey",
    "Quota",
    "State",
    "make_envelope",
    "make_job",
    "make_task",
    "utc",
]
