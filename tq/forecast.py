"""When a run will have ended, as far as that can be told.

Pure. The members of a share come up evenly over its spread, and jobs are carried out at a rate. What
comes up from some instant on cannot be done sooner than so many jobs take from that instant; and what
is due already, from now. The latest of these is the end. How calls will come out is not foreseen, so
retries can make it later, and a rate that rises or falls changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tq.clock import MILLISECOND
from tq.models import Share
from tq.slots import LAST_PLACE, last_place_due

# Beyond it a date says nothing, and some cannot be written.
FARTHEST = timedelta(days=365)


@dataclass(frozen=True)
class Forecast:
    """When a run is expected to end; or why that cannot be told, because nothing is carried out.

    `in_time` is false when its deadline comes first, at which the jobs that are left expire; `next_goes_on`
    is whether there is then a next run that begins with those who were not reached.
    """

    ends_at: datetime | None
    in_time: bool = True
    next_goes_on: bool = False
    held: str = ""


def expected_end(
    shares: Sequence[Share], members_left: Sequence[float], *, open_jobs: int, rate: float, now: datetime
) -> datetime:
    """When everybody in these shares is served, at `rate` jobs per second and `members_left` beyond each cursor."""
    to_come = [(share, left) for share, left in zip(shares, members_left, strict=True) if not share.done]
    due_or_to_come = open_jobs + sum(left for _, left in to_come)
    # In between, work comes up evenly, so the latest end belongs to one of these instants.
    instants = {
        instant for share, _ in to_come for instant in (share.start_at, share.start_at + share.spread)
    }
    ends = [_after(now, due_or_to_come, rate)]
    ends += [
        _after(instant, _coming_up_from(instant, to_come), rate) for instant in instants if instant > now
    ]
    return max(ends)


def _after(instant: datetime, jobs: float, rate: float) -> datetime:
    seconds = min(jobs / rate, FARTHEST.total_seconds())
    return instant + timedelta(seconds=seconds)


def _coming_up_from(instant: datetime, shares: Sequence[tuple[Share, float]]) -> float:
    """How many members have their slot at an instant or later."""
    members = 0.0
    for share, left in shares:
        reached = max(share.cursor, last_place_due(instant - MILLISECOND - share.start_at, share.spread))
        members += left * (LAST_PLACE - reached) / (LAST_PLACE - share.cursor)
    return members
