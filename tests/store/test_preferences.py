"""Who has what enabled: whatever is changed, in whatever order, both directions tell the same."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tq.clock import to_ms
from tq.errors import UserNotFound
from tq.models import Interval, TaskId, TaskSettings, UserId, UserPreference
from tq.redis_server import RedisServer
from tq.slots import place_of
from tq.store import Store
from tq.store.preferences import KEEP, Change, Cohort, Disable, Enable, Keep, Relocate
from tq.testing.builders import make_task

from . import (
    DIGEST,
    LEAF_SIZE,
    NOW,
    another,
    assert_both_directions_agree,
    at_once,
    cohorts_of,
    due_entries,
    enable,
    family_of,
    fresh_store,
    frozen,
    keys_of,
    leaves_of,
    names,
    publish,
)

TASKS = [TaskId("digest"), TaskId("sync"), TaskId("draft")]
USERS = [UserId(name) for name in ("ada", "bob", "cyd")]
CROWD = [UserId(name) for name in names(200)]
ZONES = ["UTC", "Europe/Berlin", "Asia/Tokyo"]
LOCAL = Interval.daily(at="09:00", timezone="user")
ELSEWHERE = Interval.daily(at="10:00", timezone="Europe/Berlin")
HOURLY = Interval.hourly()
OWN = [Interval.weekly("fri", at="08:00", timezone="user"), Interval.minutely(30)]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
parameters_of_a_task = st.dictionaries(st.text(), json_values, max_size=3)
keep = st.just(KEEP)


# --- The model -----------------------------------------------------------------------------------


class Enrolments(RuleBasedStateMachine):
    """The store beside a model that is made of dictionaries and knows no order, page or script."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.store = self._open.enter_context(fresh_store(self.url))
        self.version = 0
        self.in_force: dict[TaskId, Interval] = {}
        self.zones: dict[UserId, str] = {}
        self.tasks: dict[UserId, dict[TaskId, TaskSettings]] = {}
        self.due: dict[str, int] = {}
        self.moved: dict[tuple[TaskId, UserId], datetime] = {}
        self.rezoned: dict[UserId, datetime] = {}
        self.edit(0, LOCAL)
        self.edit(1, HOURLY)

    def teardown(self) -> None:
        self._open.close()

    # What may happen

    @rule(
        user=st.sampled_from(USERS),
        task=st.sampled_from(TASKS),
        zone=keep | st.sampled_from(ZONES),
        interval=keep | st.none() | st.sampled_from(OWN),
        parameters=keep | st.none() | parameters_of_a_task,
    )
    def enable(
        self,
        user: UserId,
        task: TaskId,
        zone: str | Keep,
        interval: Interval | Keep | None,
        parameters: dict[str, Any] | Keep | None,
    ) -> None:
        self.apply([Enable(user, task, zone, interval, parameters)])

    @rule(
        user=st.sampled_from(USERS),
        task=st.sampled_from(TASKS),
        reason=st.text(),
        zone=keep | st.sampled_from(ZONES),
    )
    def disable(self, user: UserId, task: TaskId, reason: str, zone: str | Keep) -> None:
        self.apply([Disable(user, task, reason, zone)])

    @rule(user=st.sampled_from(USERS), zone=st.sampled_from(ZONES))
    def relocate(self, user: UserId, zone: str) -> None:
        self.apply([Relocate(user, zone)])

    @rule(user=st.sampled_from(USERS))
    def forget(self, user: UserId) -> None:
        known = user in self.zones
        before = self.cohorts()
        self.zones.pop(user, None)
        self.rezoned.pop(user, None)
        for task in self.tasks.pop(user, {}):
            self.moved.pop((task, user), None)
        self.note_due(before)
        assert self.store.preferences.forget(user) == known

    @rule(task=st.sampled_from(TASKS), zone=st.sampled_from(ZONES), part=st.integers(1, 3))
    def a_crowd_comes(self, task: TaskId, zone: str, part: int) -> None:
        self.apply([Enable(user, task, timezone=zone) for user in CROWD[::part]])

    @rule(task=st.sampled_from(TASKS), part=st.integers(1, 3))
    def a_crowd_goes(self, task: TaskId, part: int) -> None:
        self.apply([Disable(user, task) for user in CROWD[::part]])

    @rule(
        number=st.integers(0, len(TASKS) - 1),
        interval=st.none() | st.sampled_from([LOCAL, ELSEWHERE, HOURLY]),
    )
    def edit(self, number: int, interval: Interval | None) -> None:
        task = TASKS[number]
        before, present = self.cohorts(), self.present_ms
        there = self.in_force.pop(task, None)
        if interval is not None:
            self.in_force[task] = interval
        self.note_due(before)
        if there is not None and interval is not None and there != interval:
            self.due.update(
                (cohort, present + 1)
                for cohort in self.cohorts()
                if cohort.endswith("|default") and cohort.startswith(task)
            )
        self.version += 1
        assert publish(
            self.store,
            self.version,
            *(make_task(task, interval=interval) for task, interval in self.in_force.items()),
        )

    @rule(ms=st.integers(1, 3_600_000))
    def time_passes(self, ms: int) -> None:
        frozen(self.store).advance(timedelta(milliseconds=ms))

    # What the model makes of it

    @property
    def present_ms(self) -> int:
        return to_ms(self.store.clock.now())

    def apply(self, changes: list[Change]) -> None:
        before = self.cohorts()
        expected = sum([self.change(change) for change in changes])
        self.note_due(before)
        assert self.store.preferences.apply(changes) == expected

    def change(self, change: Change) -> bool:
        rezoned = not isinstance(change.timezone, Keep) and self.live_in(change.user_id, change.timezone)
        match change:
            case Enable():
                return self.switch_on(change) or rezoned
            case Disable():
                return self.switch_off(change) or rezoned
            case Relocate():
                return rezoned

    def live_in(self, user: UserId, zone: str) -> bool:
        there = self.zones.get(user)
        self.zones[user] = zone
        self.tasks.setdefault(user, {})
        if there not in (None, zone):
            self.rezoned[user] = self.store.clock.now()
        return there != zone

    def switch_on(self, change: Enable) -> bool:
        user, task = change.user_id, change.task_id
        self.zones.setdefault(user, "UTC")
        there = self.tasks.setdefault(user, {}).get(task)
        old = there or TaskSettings(enabled=False)
        new = TaskSettings(
            interval=old.interval if isinstance(change.interval, Keep) else change.interval,
            parameters=old.parameters if isinstance(change.parameters, Keep) else change.parameters or {},
        )
        self.tasks[user][task] = new
        if there is not None and old.interval != new.interval:
            self.moved[task, user] = self.store.clock.now()
        return not old.enabled or old.interval != new.interval or old.parameters != new.parameters

    def switch_off(self, change: Disable) -> bool:
        there = self.tasks.get(change.user_id, {}).get(change.task_id)
        if there is None or not there.enabled:
            return False
        reason = " ".join(change.reason.split()) or None
        self.tasks[change.user_id][change.task_id] = there.model_copy(
            update={"enabled": False, "reason": reason}
        )
        return True

    def members(self, task: TaskId) -> dict[UserId, Cohort]:
        """Who has a task enabled, and in which cell."""
        return {
            user: Cohort(self.zones[user], settings.interval.canonical if settings.interval else "default")
            for user, tasks in self.tasks.items()
            if (settings := tasks.get(task)) is not None and settings.enabled
        }

    def cohorts(self) -> set[str]:
        """`task|cohort` of whatever may fall due."""
        found = set()
        for task, interval in self.in_force.items():
            for cell in self.members(task).values():
                canonical = interval.canonical if cell.interval == "default" else cell.interval
                zone = cell.zone if canonical.endswith("@user") else "*"
                found.add(f"{task}|{zone}|{cell.interval}")
        return found

    def note_due(self, before: set[str]) -> None:
        after = self.cohorts()
        for cohort in before - after:
            del self.due[cohort]
        for cohort in after - before:
            self.due[cohort] = self.present_ms + 1

    # What must hold at any time

    @invariant()
    def every_user_has_what_the_model_has(self) -> None:
        everybody = list(self.store.preferences.everybody(page=100))
        found = {preference.user_id: preference for preference in everybody}
        assert len(found) == len(everybody)
        assert found == {
            user: UserPreference(user_id=user, timezone=self.zones[user], tasks=tasks)
            for user, tasks in self.tasks.items()
        }
        for user in USERS:
            if user in found:
                assert self.store.preferences.get(user) == found[user]
            else:
                with pytest.raises(UserNotFound):
                    self.store.preferences.get(user)

    @invariant()
    def every_task_has_the_members_of_the_model(self) -> None:
        for task in TASKS:
            members = self.members(task)
            found = list(self.store.preferences.members(task, page=100))
            assert len(found) == len(members)
            assert set(found) == set(members)
            assert self.store.preferences.cells(task) == dict(Counter(members.values()))
            assert self.store.preferences.count(task) == len(members)
            assert {
                UserId(user) for entries in leaves_of(self.store, task).values() for user, _ in entries
            } == set(members)

    @invariant()
    def every_cohort_is_paged_as_the_model_has_it(self) -> None:
        for task in TASKS:
            cohorts: dict[Cohort, set[UserId]] = defaultdict(set)
            for user, cell in self.members(task).items():
                cohorts[cell].add(user)
                cohorts[Cohort("*", cell.interval)].add(user)
            for cohort, users in cohorts.items():
                page = self.store.preferences.page(task, cohort, after=-1, size=1000)
                assert {member.user_id for member in page.members} == users
                assert len(page.members) == len(users)
                for member in page.members:
                    parameters = self.tasks[member.user_id][task].parameters
                    assert member.parameters == (orjson.dumps(parameters).decode() if parameters else "")
                    assert member.place == place_of(task, member.user_id)
                    assert member.moved_at == self.moved.get((task, member.user_id))
                    assert member.rezoned_at == self.rezoned.get(member.user_id)

    @invariant()
    def exactly_the_cohorts_of_the_model_are_due(self) -> None:
        # A cohort with an own interval also has an entry while its task is not in force; the next
        # tick takes it away.
        found = due_entries(self.store)
        assert {entry: ms for entry, ms in found.items() if entry.split("|")[0] in self.in_force} == self.due


def test_both_directions_and_what_is_due_are_what_a_naive_model_says(redis_server: RedisServer) -> None:
    class EnrolmentsHere(Enrolments):
        url = redis_server.url

    run_state_machine_as_test(
        EnrolmentsHere,
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- Many users, many writers ------------------------------------------------------------------------


def assert_leaves_of_users_are_small_and_compact(store: Store) -> None:
    starts = store.connection.call("ZRANGE", store.keys("user_branches"), 0, -1)
    for start in starts:
        leaf = store.keys("user_leaf", start)
        assert 0 < store.connection.call("HLEN", leaf) <= LEAF_SIZE
        assert store.connection.call("OBJECT", "ENCODING", leaf) == "listpack"


@pytest.mark.parametrize("number", [LEAF_SIZE, LEAF_SIZE + 1, 4000])
def test_leaves_stay_small_and_compact_however_many_users_there_are(store: Store, number: int) -> None:
    many = names(number)

    enable(store, many)
    assert_both_directions_agree(store, [DIGEST])
    assert_leaves_of_users_are_small_and_compact(store)
    assert len(leaves_of(store, DIGEST)) >= number / LEAF_SIZE

    enable(store, many[::2], timezone="Asia/Tokyo")
    store.preferences.apply([Disable(UserId(user), DIGEST) for user in many[::5]])
    assert_both_directions_agree(store, [DIGEST])
    assert_leaves_of_users_are_small_and_compact(store)


def test_a_leaf_goes_with_its_last_entry(store: Store) -> None:
    many = names(1000)
    enable(store, many)

    for user in many[3:]:
        store.preferences.forget(UserId(user))

    assert_both_directions_agree(store, [DIGEST])
    assert len(leaves_of(store, DIGEST)) <= 4
    assert store.connection.call("ZCARD", store.keys("user_branches")) <= 4


def test_all_users_are_read_once_whatever_the_size_of_a_page(store: Store) -> None:
    enable(store, names(1000))

    for page in (1, 100, 999, 10_000):
        everybody = [preference.user_id for preference in store.preferences.everybody(page=page)]

        assert sorted(everybody) == names(1000)


def test_users_who_stay_are_read_once_while_others_come_and_go(store: Store) -> None:
    steady, coming, going = names(500), names(500, prefix="come"), names(500, prefix="go")
    enable(store, [*steady, *going])

    seen = Counter[str]()
    for preference in store.preferences.everybody(page=50):
        seen[preference.user_id] += 1
        if coming:
            enable(store, [coming.pop()])
            store.preferences.forget(UserId(going.pop()))

    assert not coming
    assert all(seen[user] == 1 for user in steady)
    assert max(seen.values()) == 1


def test_users_already_read_are_not_read_again_when_the_leaf_after_them_goes(store: Store) -> None:
    enable(store, names(1000))
    first, second, *_ = (
        store.connection.call("HKEYS", store.keys("user_leaf", start))
        for start in store.connection.call("ZRANGE", store.keys("user_branches"), 0, -1)
    )

    everybody = store.preferences.everybody(page=1)
    seen = [next(everybody).user_id for _ in first]
    for user in second:
        store.preferences.forget(UserId(user))
    seen += [preference.user_id for preference in everybody]

    assert sorted(seen[: len(first)]) == sorted(first)
    assert sorted(seen) == sorted(set(names(1000)) - set(second))


def test_forgetting_everybody_leaves_bookkeeping_only(store: Store) -> None:
    publish(store, 1, make_task(DIGEST, interval=LOCAL))
    everybody = names(300)
    enable(store, everybody, timezone="Asia/Tokyo", interval=OWN[0], parameters={"a": 1})
    enable(store, everybody, interval=None, timezone="Europe/Berlin")
    enable(store, everybody, TaskId("never_published"))
    store.preferences.apply([Disable(UserId(user), DIGEST, "tired") for user in everybody[::3]])

    assert all(store.preferences.forget(UserId(user)) for user in everybody)

    left = {family_of(store, key) for key in keys_of(store)}
    assert left == {"data_version", "published", "definitions", "definition", "departures", "user_branches"}
    assert store.connection.call("ZRANGE", store.keys("user_branches"), 0, -1) == ["0"]
    assert list(store.preferences.everybody()) == []


def test_racing_writers_leave_both_directions_in_agreement(store: Store) -> None:
    local, hourly = make_task("digest", interval=LOCAL), make_task("sync", interval=HOURLY)
    publish(store, 1, local, hourly)
    users = [*USERS, *CROWD[:2]]

    def hammer(seed: int) -> Callable[[], int]:
        chance = random.Random(seed)
        preferences = another(store).preferences

        def change() -> Change:
            user, task, zone = chance.choice(users), chance.choice(TASKS), chance.choice(ZONES)
            own = chance.choice([KEEP, None, *OWN])
            changes: list[Change] = [
                *(Enable(user, task, zone, own), Enable(user, task)),
                *(Disable(user, task), Relocate(user, zone)),
            ]
            return chance.choice(changes)

        def run() -> int:
            for _ in range(150):
                preferences.apply([change()])
                if chance.random() < 0.05:
                    preferences.forget(chance.choice(users))
            return 150

        return run

    changes = at_once([hammer(seed) for seed in range(4)])

    assert sum(changes) == 600
    assert_both_directions_agree(store, TASKS)
    found = {entry for entry in due_entries(store) if not entry.startswith("draft|")}
    assert found == cohorts_of(store, local) | cohorts_of(store, hourly)


# --- Settings ------------------------------------------------------------------------------------------


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parameters=parameters_of_a_task)
def test_parameters_come_back_as_they_were_given(store: Store, parameters: dict[str, Any]) -> None:
    enable(store, ["ada"], parameters=parameters)

    kept = store.preferences.get(UserId("ada")).tasks[DIGEST].parameters
    [member] = store.preferences.page(DIGEST, Cohort(), after=-1).members
    assert orjson.dumps(kept) == orjson.dumps(parameters)
    assert member.parameters == (orjson.dumps(parameters).decode() if parameters else "")


def test_parameters_that_scripts_like_to_change_are_kept_to_the_byte(store: Store) -> None:
    parameters = {
        "none": None,
        "empty": [{}, [], ""],
        "numbers": [1.0, 0.1, 1e300, -0.0, 2**53 + 1, 2**64 - 1, -(2**63)],
        "texts": ["=", "\n", "a\\nb", "|", "\x00", "žluťoučký 🐎", "\u2028"],
    }
    enable(store, ["ada"], parameters=parameters)

    [member] = store.preferences.page(DIGEST, Cohort(), after=-1).members

    assert member.parameters == orjson.dumps(parameters).decode()
    assert store.preferences.get(UserId("ada")).tasks[DIGEST].parameters == parameters


def test_settings_survive_disabling_and_enabling(store: Store) -> None:
    enable(store, ["ada"], timezone="Asia/Tokyo", interval=OWN[0], parameters={"a": 1})

    store.preferences.apply([Disable(UserId("ada"), DIGEST, "on\n holiday ")])

    assert store.preferences.get(UserId("ada")).tasks[DIGEST] == TaskSettings(
        enabled=False, interval=OWN[0], parameters={"a": 1}, reason="on holiday"
    )
    assert store.preferences.count(DIGEST) == 0

    enable(store, ["ada"])

    assert store.preferences.get(UserId("ada")) == UserPreference(
        user_id=UserId("ada"),
        timezone="Asia/Tokyo",
        tasks={DIGEST: TaskSettings(interval=OWN[0], parameters={"a": 1})},
    )
    assert store.preferences.cells(DIGEST) == {Cohort("Asia/Tokyo", OWN[0].canonical): 1}


def test_the_first_reason_stays_when_what_is_off_is_switched_off_again(store: Store) -> None:
    enable(store, ["ada"])
    store.preferences.apply([Disable(UserId("ada"), DIGEST, "the endpoint answered 410 Gone")])

    changed = store.preferences.apply([Disable(UserId("ada"), DIGEST, "cleaning up")])

    assert changed == 0
    assert store.preferences.get(UserId("ada")).tasks[DIGEST].reason == "the endpoint answered 410 Gone"


def test_changes_of_one_batch_are_made_in_their_order(store: Store) -> None:
    ada = UserId("ada")
    batch: list[Change] = [
        Enable(ada, DIGEST),
        Disable(ada, DIGEST),
        Enable(ada, DIGEST),
        Enable(ada, DIGEST),
    ]

    changed = store.preferences.apply(batch * 100)

    assert changed == 1 + 2 * 100
    assert store.preferences.enrolled(DIGEST, [ada, UserId("bob")]) == {ada: True, UserId("bob"): False}


@pytest.mark.parametrize("user_id", ["a", "7", "a" * 100, "A_1:b@c.d-e", "a:b", "0"])
def test_every_id_that_is_allowed_can_be_kept(store: Store, user_id: str) -> None:
    task_id = TaskId("t" * 100)
    enable(store, [user_id, "other"], task_id, parameters={"a": 1})

    assert set(store.preferences.members(task_id)) == {user_id, "other"}
    assert store.preferences.get(UserId(user_id)).tasks[task_id].parameters == {"a": 1}
    assert store.preferences.forget(UserId(user_id))
    assert set(store.preferences.members(task_id)) == {"other"}


def test_a_user_whom_nobody_knows_is_named_with_the_remedy(store: Store) -> None:
    with pytest.raises(UserNotFound, match="user 'ada' has no task enabled or disabled; see tq users enable"):
        store.preferences.get(UserId("ada"))

    assert not store.preferences.forget(UserId("ada"))


def test_moves_are_remembered_for_two_days(store: Store) -> None:
    enable(store, ["ada"], timezone="UTC")
    enable(store, ["ada"], timezone="Asia/Tokyo", interval=OWN[0])
    frozen(store).advance(timedelta(days=2, milliseconds=1))

    enable(store, ["bob"], timezone="UTC", interval=OWN[0])
    enable(store, ["bob"], timezone="Asia/Tokyo", interval=None)

    members = {
        member.user_id: (member.moved_at, member.rezoned_at)
        for cohort in (Cohort(), Cohort("*", OWN[0].canonical))
        for member in store.preferences.page(DIGEST, cohort, after=-1).members
    }
    later = NOW + timedelta(days=2, milliseconds=1)
    assert members == {"ada": (None, None), "bob": (later, later)}


def test_an_own_interval_set_while_the_task_was_off_is_a_move_too(store: Store) -> None:
    enable(store, ["ada"])
    store.preferences.apply([Disable(UserId("ada"), DIGEST)])

    enable(store, ["ada"], interval=OWN[1])

    [member] = store.preferences.page(DIGEST, Cohort(interval=OWN[1].canonical), after=-1).members
    assert member.moved_at == NOW
