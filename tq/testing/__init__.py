"""For tests of what is built on TaskQueue: a frozen clock, builders, a fake executor, and the whole
journey of a run in one thread.

    def test_everybody_gets_a_digest() -> None:
        with Journey.begin([make_task("email_digest")], at="2026-11-24T08:59") as journey:
            journey.enable("ada", "email_digest")
            journey.until("2026-11-24T09:31")
            assert journey.executor.users == ["ada"]
"""

from tq.testing.builders import make_envelope, make_job, make_task
from tq.testing.clock import FrozenClock, utc
from tq.testing.executor import FakeExecutor
from tq.testing.journey import Journey

__all__ = ["FakeExecutor", "FrozenClock", "Journey", "make_envelope", "make_job", "make_task", "utc"]
