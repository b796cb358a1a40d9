"""What we have told the system, kept outside of it: who has what enabled since when, and what is due.

Between the moment at which a change is sent and the one at which it was accepted, either state is
right. Instants are in seconds since the epoch.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tq.models import TaskId, UserId

MINUTE_S = 60
# Redis and we read the same clock, but not at the same moment.
SLACK_S = 1.0


class Change(NamedTuple):
    """A user's task was switched on or off."""

    sent: float
    accepted: float
    enabled: bool


@dataclass
class Edit:
    """A task falls due every so many minutes; in force from some moment before `in_force` on, if it is known."""

    sent: float
    every: int
    in_force: float | None = None


@dataclass
class Book:
    """The enrolments and the intervals, with every change of them."""

    changes: dict[tuple[TaskId, UserId], list[Change]] = field(default_factory=lambda: defaultdict(list))
    moves: dict[UserId, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    own_minutes: dict[tuple[TaskId, UserId], int] = field(default_factory=dict)
    edits: dict[TaskId, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    zoned: frozenset[TaskId] = frozenset()

    def users_of(self, task: TaskId) -> Iterator[UserId]:
        """Everybody who has or had a task."""
        return (user for of, user in self.changes if of == task)

    def is_steady(self, task: TaskId, user: UserId, begin: float, end: float) -> bool:
        """Whether a user had a task enabled from one instant to another, beyond doubt."""
        enabled = False
        for change in self.changes[(task, user)]:
            if change.accepted + SLACK_S < begin:
                enabled = change.enabled
            elif change.sent - SLACK_S <= end:
                return False
        return enabled

    def has_moved(self, user: UserId, begin: float, end: float) -> bool:
        """Whether a user may have changed zone between two instants."""
        return any(
            sent - SLACK_S <= end and begin <= accepted + SLACK_S
            for sent, accepted in self.moves.get(user, ())
        )

    def disabled_since(self, task: TaskId, user: UserId, instant: float) -> float | None:
        """Since when, beyond doubt, a user had a task disabled at an instant; None if that is not so."""
        since = None
        for change in self.changes.get((task, user), ()):
            if change.sent > instant:
                break
            since = None if change.enabled else change.accepted
        return since if since is not None and since <= instant else None

    def is_due(self, task: TaskId, user: UserId, nominal: int) -> bool | None:
        """Whether a user's task falls due at an instant; None if an edit just then leaves it open."""
        own = self.own_minutes.get((task, user))
        return nominal // MINUTE_S % own == 0 if own else self.is_due_by_default(task, nominal)

    def is_due_by_default(self, task: TaskId, nominal: int) -> bool | None:
        """The same for those who follow the task's own interval."""
        every: int | None = None
        for edit in self.edits[task]:
            if edit.in_force is not None and edit.in_force + SLACK_S < nominal:
                every = edit.every
            elif edit.sent - SLACK_S <= nominal:
                return None
        return every is not None and nominal // MINUTE_S % every == 0


def minutes(begin: float, end: float) -> range:
    """The minutes after one instant, up to another: at each of them tasks might fall due."""
    first = int(begin // MINUTE_S + 1) * MINUTE_S
    return range(first, int(end) + 1, MINUTE_S)
