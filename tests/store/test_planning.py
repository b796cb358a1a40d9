"""What is due and since when, and which definitions are in force."""

from datetime import timedelta
from functools import partial

import pytest

from tq.clock import MILLISECOND, to_ms
from tq.models import Interval, TaskId, TaskType, UserId
from tq.store import Store
from tq.store.planning import Due, Move
from tq.store.preferences import Cohort, Disable, Relocate
from tq.testing.builders import make_task

from . import (
    DIGEST,
    HOUR,
    NOW,
    UTC_NINE,
    UTC_TEN,
    another,
    at_once,
    cohorts_of,
    contents,
    definition_of,
    due_entries,
    enable,
    frozen,
    leaves_of,
    names,
    publish,
)

LOCAL_NINE = make_task(DIGEST, interval=Interval.daily(at="09:00", timezone="user"))
OTHER = make_task("hourly_sync", interval=Interval.hourly())
OWN = Interval.weekly("fri", at="08:00")
NOW_MS = to_ms(NOW)
AFTER_NOW = NOW_MS + 1


def remembered(store: Store, definition: str) -> int:
    """Seconds for which a definition is kept; -1 is for ever, -2 not at all."""
    ttl = store.connection.call("TTL", store.keys("definition", definition))
    assert isinstance(ttl, int)
    return ttl


# --- Since when something is due -----------------------------------------------------------------


def test_a_new_cohort_is_due_from_the_millisecond_after_it_came_to_be(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"])

    at_once_due = store.planning.look().due
    frozen(store).advance(MILLISECOND)
    later_due = store.planning.look().due

    assert at_once_due == ()
    assert later_due == (Due(DIGEST, Cohort(), NOW + MILLISECOND, str(AFTER_NOW)),)


def test_whoever_joins_a_cohort_leaves_its_due_entry_where_it_is(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"])
    frozen(store).advance(HOUR)

    enable(store, ["bob"], timezone="Asia/Tokyo")

    assert due_entries(store) == {f"{DIGEST}|*|default": AFTER_NOW}


def test_cohorts_are_kept_apart_by_own_interval_and_by_zone_only_where_it_counts(store: Store) -> None:
    publish(store, 1, LOCAL_NINE, OTHER)

    enable(store, ["ada"], timezone="Asia/Tokyo")
    enable(store, ["bob"], timezone="Europe/Berlin", interval=OWN)
    enable(store, ["ada", "bob"], OTHER.id)

    assert due_entries(store) == dict.fromkeys(
        [f"{DIGEST}|Asia/Tokyo|default", f"{DIGEST}|*|{OWN.canonical}", "hourly_sync|*|default"], AFTER_NOW
    )


def test_nothing_is_due_of_a_task_that_is_not_in_force(store: Store) -> None:
    enable(store, ["ada"])

    assert due_entries(store) == {}


def test_a_cohort_without_members_is_due_no_more(store: Store) -> None:
    publish(store, 1, LOCAL_NINE)
    enable(store, ["ada", "bob"], timezone="Asia/Tokyo")

    store.preferences.apply([Disable(UserId("ada"), DIGEST)])
    assert due_entries(store) == {f"{DIGEST}|Asia/Tokyo|default": AFTER_NOW}

    store.preferences.apply([Relocate(UserId("bob"), "Europe/Berlin")])
    assert due_entries(store) == {f"{DIGEST}|Europe/Berlin|default": AFTER_NOW}

    store.preferences.forget(UserId("bob"))
    assert due_entries(store) == {}


def test_the_only_member_changes_zone_without_losing_what_is_due(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"], timezone="Asia/Tokyo")
    frozen(store).advance(HOUR)

    store.preferences.apply([Relocate(UserId("ada"), "Europe/Berlin")])

    assert due_entries(store) == {f"{DIGEST}|*|default": AFTER_NOW}


def test_a_look_shows_that_the_scheduler_lives_and_a_glance_does_not(store: Store) -> None:
    store.planning.look(limit=0)
    assert store.heartbeats.last_tick() is None

    store.planning.look()
    assert store.heartbeats.last_tick() == NOW


def test_the_longest_overdue_come_first_and_no_more_than_asked_for(store: Store) -> None:
    tasks = [make_task(f"task{number}") for number in range(5)]
    publish(store, 1, *tasks)
    for task in reversed(tasks):
        enable(store, ["ada"], TaskId(task.id))
        frozen(store).advance(MILLISECOND)

    due = store.planning.look(limit=3).due

    assert [entry.task_id for entry in due] == ["task4", "task3", "task2"]


# --- Nothing to claim --------------------------------------------------------------------------------


def one_due(store: Store) -> Due:
    """The only entry that is due."""
    [due] = store.planning.look().due
    return due


@pytest.fixture
def due(store: Store) -> Due:
    """What is due of ada's digest."""
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"])
    frozen(store).advance(MILLISECOND)
    return one_due(store)


def test_a_cohort_is_looked_at_again_when_the_look_said(store: Store, due: Due) -> None:
    store.planning.move_on([Move(due, NOW + HOUR, 3)])
    store.planning.move_on([Move(due.moved_to(NOW + HOUR), NOW + 2 * HOUR, 2)])

    assert due_entries(store) == {f"{DIGEST}|*|default": to_ms(NOW + 2 * HOUR)}
    assert store.connection.call("GET", store.keys("missed", DIGEST)) == "5"


def test_cohorts_move_on_together_each_by_what_was_seen_of_it(store: Store, due: Due) -> None:
    other, strange = TaskId("hourly_sync"), TaskId("no_more")
    for task_id in (other, strange):
        enable(store, ["ada"], task_id, interval=OWN)
    frozen(store).advance(MILLISECOND)
    dues = {found.task_id: found for found in store.planning.look().due}
    moves = [
        Move(due.moved_to(NOW - HOUR), NOW + 3 * HOUR, missed=7),  # another has looked meanwhile
        *(Move(due, NOW + HOUR, missed=3), Move(dues[other], NOW + 2 * HOUR), Move(dues[strange], None)),
    ]

    store.planning.move_on(moves)

    assert due_entries(store) == {
        f"{DIGEST}|*|default": to_ms(NOW + HOUR),
        f"{other}|*|{OWN.canonical}": to_ms(NOW + 2 * HOUR),
    }
    assert store.connection.call("GET", store.keys("missed", DIGEST)) == "3"


def test_whoever_looked_before_another_moved_on_changes_nothing(store: Store, due: Due) -> None:
    store.planning.move_on([Move(due, NOW + HOUR)])
    before = contents(store)

    store.planning.move_on([Move(due, NOW + 2 * HOUR, 3)])
    store.planning.move_on([Move(due, None, 3)])

    assert contents(store) == before


def test_an_entry_whose_cohort_got_a_member_meanwhile_stays(store: Store, due: Due) -> None:
    before = contents(store)

    store.planning.move_on([Move(due, None, 3)])

    assert contents(store) == before


def test_an_entry_of_a_task_that_is_not_in_force_goes(store: Store) -> None:
    # Whose own interval decides is due even while the task is not in force, until a tick has looked.
    enable(store, ["ada"], interval=OWN)
    frozen(store).advance(MILLISECOND)

    store.planning.move_on([Move(one_due(store), None)])

    assert due_entries(store) == {}


# --- Which definitions are in force --------------------------------------------------------------------


def in_force(store: Store) -> dict[TaskId, TaskType | None]:
    """The task types that are in force."""
    return {
        task_id: store.planning.definition(definition)
        for task_id, definition in store.planning.definitions().items()
    }


def test_newer_definitions_replace_older_ones_and_come_back_as_they_were(store: Store) -> None:
    assert publish(store, 1, UTC_NINE, OTHER)
    assert publish(store, 2, LOCAL_NINE)

    look = store.planning.look()

    assert in_force(store) == {DIGEST: LOCAL_NINE}
    assert (look.version, look.fingerprint) == (2, definition_of(LOCAL_NINE))


@pytest.mark.parametrize("version", [4, 5])
def test_definitions_that_are_not_newer_never_replace_others(store: Store, version: int) -> None:
    publish(store, 5, UTC_NINE)
    enable(store, ["ada"])
    before = contents(store)

    assert not publish(store, version, LOCAL_NINE, OTHER)

    assert contents(store) == before


def test_the_same_definitions_in_a_newer_version_only_raise_the_version(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"])
    frozen(store).advance(HOUR)
    before = contents(store)

    assert publish(store, 7, UTC_NINE)
    assert publish(store, 3, UTC_NINE)

    assert store.planning.look(limit=0).version == 7
    published = store.keys("published").encode()
    assert {key for key, value in contents(store).items() if value != before[key]} == {published}
    assert not publish(store, 7, UTC_TEN)


def test_one_of_many_publishers_of_a_version_wins_whole(store: Store) -> None:
    sets = [[make_task(f"task{number}") for number in range(first, first + 5)] for first in range(8)]

    published = at_once([partial(publish, another(store), 1, *tasks) for tasks in sets])

    assert sum(published) == 1
    winner = sets[published.index(True)]
    assert in_force(store) == {TaskId(task.id): task for task in winner}


def test_a_definition_in_force_is_kept_for_ever_and_a_replaced_one_for_100_days(store: Store) -> None:
    days_100 = 100 * 24 * 3600
    first, second = definition_of(UTC_NINE), definition_of(UTC_TEN)

    publish(store, 1, UTC_NINE, OTHER)
    publish(store, 2, UTC_TEN)
    assert [remembered(store, first), remembered(store, definition_of(OTHER))] == [days_100, days_100]
    assert remembered(store, second) == -1

    publish(store, 3, UTC_NINE)
    publish(store, 4, UTC_NINE, OTHER)
    assert [remembered(store, first), remembered(store, second)] == [-1, days_100]


# --- What an edit changes about when a task is due ----------------------------------------------------


def test_an_edited_interval_looks_ahead_from_the_edit_and_leaves_own_intervals_alone(store: Store) -> None:
    publish(store, 1, UTC_NINE, OTHER)
    enable(store, ["ada"])
    enable(store, ["bob"], interval=OWN)
    enable(store, ["ada"], TaskId(OTHER.id))
    edited_at = frozen(store).advance(HOUR)

    publish(store, 2, UTC_TEN, OTHER)

    assert due_entries(store) == {
        f"{DIGEST}|*|default": to_ms(edited_at) + 1,
        f"{DIGEST}|*|{OWN.canonical}": AFTER_NOW,
        "hourly_sync|*|default": AFTER_NOW,
    }


def test_an_edit_of_anything_else_moves_no_due_entry(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    enable(store, ["ada"])
    frozen(store).advance(HOUR)

    publish(store, 2, make_task(DIGEST, interval=UTC_NINE.interval, retries=7, window="50%"))

    assert due_entries(store) == {f"{DIGEST}|*|default": AFTER_NOW}


def test_an_interval_goes_to_the_users_zone_and_back_and_no_member_moves(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    for zone in ("UTC", "Europe/Berlin", "Asia/Tokyo"):
        enable(store, names(200, prefix=zone[:2]), timezone=zone)
    enable(store, ["bob"], interval=OWN)
    own = {f"{DIGEST}|*|{OWN.canonical}": AFTER_NOW}
    leaves, cells = leaves_of(store, DIGEST), store.preferences.cells(DIGEST)

    there = to_ms(frozen(store).advance(HOUR)) + 1
    publish(store, 2, LOCAL_NINE)
    assert due_entries(store) == own | {
        f"{DIGEST}|{zone}|default": there for zone in ("UTC", "Europe/Berlin", "Asia/Tokyo")
    }

    back = to_ms(frozen(store).advance(HOUR)) + 1
    publish(store, 3, UTC_NINE)
    assert due_entries(store) == own | {f"{DIGEST}|*|default": back}
    assert (leaves_of(store, DIGEST), store.preferences.cells(DIGEST)) == (leaves, cells)


@pytest.mark.parametrize(("before", "after"), [(LOCAL_NINE, UTC_NINE), (UTC_NINE, LOCAL_NINE)])
def test_an_edit_leaves_no_entry_of_a_cohort_that_was_empty_at_the_time(
    store: Store, before: TaskType, after: TaskType
) -> None:
    # Such an entry would serve Tokyo beside the cohort that it has become part of: twice.
    publish(store, 1, before)
    enable(store, ["ada"], timezone="Asia/Tokyo")
    store.preferences.apply([Disable(UserId("ada"), DIGEST)])

    publish(store, 2, after)
    enable(store, ["ada"])

    assert set(due_entries(store)) == cohorts_of(store, after)


def test_a_task_that_is_gone_is_due_no_more_and_again_from_when_it_is_back(store: Store) -> None:
    publish(store, 1, LOCAL_NINE, OTHER)
    enable(store, ["ada"], timezone="Asia/Tokyo")
    enable(store, ["bob"], interval=OWN)
    enable(store, ["ada"], TaskId(OTHER.id))

    publish(store, 2, OTHER)
    assert due_entries(store) == {"hourly_sync|*|default": AFTER_NOW}

    back = to_ms(frozen(store).advance(timedelta(days=3))) + 1
    publish(store, 3, LOCAL_NINE, OTHER)
    assert due_entries(store) == {
        f"{DIGEST}|Asia/Tokyo|default": back,
        f"{DIGEST}|*|{OWN.canonical}": back,
        "hourly_sync|*|default": AFTER_NOW,
    }
