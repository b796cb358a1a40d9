"""The demo's users: so many, in several time zones, and nobody else."""

from collections.abc import Iterator

from tq.models import TaskId, UserId
from tq.store import Store
from tq.store.preferences import Change, Disable, Enable

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
PULSE = TaskId("pulse")
ONE_IN = 100
BATCH = 2000


def user_ids(count: int) -> Iterator[UserId]:
    """The ids of the first `count` users."""
    return (UserId(f"user-{number:07d}") for number in range(1, count + 1))


def populate(store: Store, task_id: TaskId, count: int, *, pulse: bool) -> int:
    """Has exactly the first `count` users enabled for a task; returns how many those are."""
    wanted = set()
    changes: list[Change] = []
    for number, user_id in enumerate(user_ids(count)):
        wanted.add(user_id)
        changes.append(
            Enable(user_id, task_id, timezone=ZONES[number % len(ZONES)], parameters=_parameters(number))
        )
        if pulse and number % ONE_IN == 0:
            changes.append(Enable(user_id, PULSE))
        if len(changes) >= BATCH:
            store.preferences.apply(changes)
            changes = []
    store.preferences.apply(changes)
    for task in (task_id, PULSE):
        left = [user_id for user_id in store.preferences.members(task) if user_id not in wanted]
        store.preferences.apply([Disable(user_id, task) for user_id in left])
    return len(wanted)


def _parameters(number: int) -> dict[str, object] | None:
    """One user in five has parameters of its own."""
    return {"template": "short", "unread": number % 50} if number % 5 == 0 else None
