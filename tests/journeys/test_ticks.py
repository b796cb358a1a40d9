"""A tick that is lost, late or doubled costs nothing: the next one looks back, and claims are fenced."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from actors.transport import OutboxTransport
from tests.journeys.conftest import Begin
from tq.models import Interval, Missed, RunId, RunStatus
from tq.pipeline import tick
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store import QueuedMessage
from tq.testing import make_task


class StoppedBeforeItsClaim(OutboxTransport):
    """That of a process which is stopped when it has seen what is due, just before it claims a run."""

    def __init__(self, settings: Settings, meanwhile: Callable[[], None]) -> None:
        super().__init__(settings)
        self._meanwhile = meanwhile

    def distribution_message(self, run_id: RunId, *, cause: str = "") -> QueuedMessage:
        """Here it stops, and goes on when everything else has happened."""
        self._meanwhile()
        return super().distribution_message(run_id, cause=cause)


@pytest.mark.parametrize("missed", list(Missed))
def test_a_minute_whose_tick_is_lost_is_made_up_by_the_next(begin: Begin, missed: Missed) -> None:
    task = make_task(interval=Interval.daily(at="09:01"), window=0, missed=missed)
    journey = begin(task, at="2026-11-24T09:00:30")
    journey.enable("ada", "email_digest")

    journey.sleep_until("2026-11-24T09:02")
    journey.tick()

    [run] = journey.runs()
    assert (f"{run.nominal_at:%H:%M}", run.status, run.counts.success) == ("09:01", RunStatus.ENDED, 1)


def test_a_tick_that_is_stopped_for_over_a_minute_makes_no_second_run(begin: Begin) -> None:
    journey = begin(make_task(interval=Interval.daily(at="09:00"), window=0), at="2026-11-24T08:59:30")
    journey.enable("ada", "email_digest")
    journey.sleep_until("2026-11-24T09:00")

    def everybody_else_goes_on() -> None:
        for _ in range(2):
            journey.clock.advance(timedelta(seconds=35))
            journey.tick()

    settings = journey.runtime.settings
    stopped = Runtime(
        settings,
        StoppedBeforeItsClaim(settings, everybody_else_goes_on),
        clock=journey.clock,
        registry=journey.runtime.registry,
    )
    claimed = tick(stopped)
    stopped.close()
    journey.until("2026-11-24T09:10")

    assert claimed == []
    assert journey.executor.users == ["ada"]
    [run] = journey.runs()
    assert run.counts.expected == run.counts.success == 1
