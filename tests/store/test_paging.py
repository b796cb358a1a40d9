"""A cohort is read page by page in its stable order: everybody once, whatever happens in between."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tq.models import Interval, RunId, TaskId, UserId
from tq.models.runs import NAMED
from tq.redis_server import RedisServer
from tq.slots import LAST_PLACE, place_of
from tq.store import Store
from tq.store.preferences import Change, Cohort, Disable, Enable, Member, Page, Relocate
from tq.testing.builders import make_task

from . import DIGEST, HOUR, claim, distribute, enable, fresh_store, names, publish, share_of

ZONES = ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"]
LOCAL = Interval.daily(at="09:00", timezone="user")
HOURLY = Interval.hourly()
SIZES = [40, 333, 1000, 4999, 20_000]


@pytest.fixture(scope="module")
def crowd(redis_server: RedisServer) -> Iterator[Store]:
    """5,000 users of one task in four zones, read and never changed."""
    with fresh_store(redis_server.url) as store:
        publish(store, 1, make_task(DIGEST, interval=LOCAL))
        for index, zone in enumerate(ZONES):
            enable(store, names(5000)[index :: len(ZONES)], timezone=zone)
        yield store


def pages_of(
    store: Store,
    cohort: Cohort,
    *,
    size: int,
    upto: int = LAST_PLACE,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Page]:
    """All pages of a cohort; each has exactly the places from where the one before ended."""
    after = -1
    while after < upto:
        page = store.preferences.page(DIGEST, cohort, after=after, upto=upto, size=size)
        assert after < page.reached <= upto
        assert all(after < member.place <= page.reached for member in page.members)
        yield page
        after = page.reached
        between()


def users_on(pages: Iterator[Page]) -> Counter[str]:
    """How often each user was met."""
    return Counter(member.user_id for page in pages for member in page.members)


# --- Nobody changes anything -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_everybody_is_met_once_whatever_the_size_of_a_page(crowd: Store, size: int) -> None:
    met = users_on(pages_of(crowd, Cohort(), size=size))

    assert met == Counter(names(5000))


@pytest.mark.parametrize("size", SIZES)
def test_a_page_is_about_as_big_as_was_asked_for(crowd: Store, size: int) -> None:
    # Places are evenly spread, so the members of a stretch of them are as random as coins: six
    # deviations are never met.
    most = size + 6 * math.sqrt(size)

    sizes = [len(page.members) for page in pages_of(crowd, Cohort(), size=size)]

    assert max(sizes) <= most
    assert len(sizes) <= math.ceil(5000 / size)


@pytest.mark.parametrize("zone", ZONES)
def test_a_cohort_of_one_zone_has_those_who_live_there(crowd: Store, zone: str) -> None:
    met = users_on(pages_of(crowd, Cohort(zone), size=200))

    assert met == Counter(names(5000)[ZONES.index(zone) :: len(ZONES)])


def test_a_page_ends_at_the_last_place_that_was_asked_for(crowd: Store) -> None:
    places = sorted(place_of(DIGEST, UserId(user)) for user in names(5000))
    last = places[1234]

    met = users_on(pages_of(crowd, Cohort(), size=500, upto=last))

    assert sum(met.values()) == 1235
    assert all(place_of(DIGEST, UserId(user)) <= last for user in met)


def test_a_page_begins_after_the_place_that_was_reached(crowd: Store) -> None:
    places = sorted(place_of(DIGEST, UserId(user)) for user in names(5000))

    page = crowd.preferences.page(DIGEST, Cohort(), after=places[10], upto=places[20])

    assert sorted(member.place for member in page.members) == places[11:21]


def test_python_and_lua_put_every_user_at_the_same_place(crowd: Store) -> None:
    members = [member for page in pages_of(crowd, Cohort(), size=1000) for member in page.members]

    assert {member.user_id: member.place for member in members} == {
        user: place_of(DIGEST, UserId(user)) for user in names(5000)
    }


def test_a_cohort_without_members_is_one_empty_page(store: Store) -> None:
    page = store.preferences.page(DIGEST, Cohort("Asia/Tokyo"), after=-1)

    assert (page.members, page.reached) == ((), LAST_PLACE)


# --- Somebody does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 333, 1000])
def test_those_who_stay_are_met_once_while_others_come_and_go(store: Store, size: int) -> None:
    publish(store, 1, make_task(DIGEST, interval=HOURLY))
    chance = random.Random(size)
    steady, fickle = names(2000), names(1500, prefix="fickle")
    for index, zone in enumerate(ZONES):
        enable(store, [*steady, *fickle][index :: len(ZONES)], timezone=zone)

    def unrest() -> None:
        for user in map(UserId, chance.sample(fickle, 60)):
            changes: list[Change] = [
                *(Enable(user, DIGEST, interval=None), Enable(user, DIGEST, interval=LOCAL)),
                *(Disable(user, DIGEST), Relocate(user, chance.choice(ZONES))),
            ]
            store.preferences.apply([chance.choice(changes)])
        enable(store, [f"new{chance.random()}" for _ in range(20)])
        store.preferences.forget(UserId(chance.choice(fickle)))

    met = users_on(pages_of(store, Cohort(), size=size, between=unrest))

    assert all(met[user] == 1 for user in steady)


def test_whoever_only_changes_zone_is_met_once_when_the_interval_does_not_use_it(store: Store) -> None:
    publish(store, 1, make_task(DIGEST, interval=HOURLY))
    chance = random.Random(7)
    travellers = names(1500)
    enable(store, travellers)

    def travel() -> None:
        some = chance.sample(travellers, 400)
        store.preferences.apply([Relocate(UserId(user), chance.choice(ZONES)) for user in some])

    met = users_on(pages_of(store, Cohort(), size=50, between=travel))

    assert met == Counter(travellers)


# --- Users who were asked for ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_the_users_a_run_was_asked_for_are_met_once_in_their_order(store: Store, size: int) -> None:
    asked, run_id = names(150), RunId("email_digest~m1")
    enable(store, names(300), parameters={"a": 1})

    store.planning.ask_for(run_id, DIGEST, [UserId(user) for user in asked], keep=HOUR)

    members: list[Member] = []
    after = -1
    while after < LAST_PLACE:
        page = store.preferences.page(DIGEST, NAMED, run_id=run_id, after=after, size=size)
        assert all(after < member.place <= page.reached for member in page.members)
        members += page.members
        after = page.reached
    assert [member.user_id for member in members] == sorted(
        asked, key=lambda user: place_of(DIGEST, UserId(user))
    )
    assert {member.parameters for member in members} == {'{"a":1}'}


def test_users_of_one_place_come_on_one_page(store: Store) -> None:
    # Two of 2**31 places are the same now and then; the page that passes one must have both.
    run_id = RunId("email_digest~m1")
    key = store.keys("members", run_id, "0")
    enable(store, ["ada", "bob", "cyd", "dan"])
    store.connection.call("ZADD", key, 5, "ada", 5, "bob", 5, "cyd", LAST_PLACE, "dan")

    first = store.preferences.page(DIGEST, NAMED, run_id=run_id, after=-1, size=2)
    second = store.preferences.page(DIGEST, NAMED, run_id=run_id, after=first.reached, size=2)

    assert [member.user_id for member in first.members] == ["ada", "bob", "cyd"]
    assert 5 <= first.reached < LAST_PLACE
    assert [member.user_id for member in second.members] == ["dan"]
    assert second.reached == LAST_PLACE


def test_whoever_was_asked_for_and_has_been_disabled_since_is_left_out(store: Store) -> None:
    run_id = RunId("email_digest~m1")
    enable(store, ["ada", "bob", "cyd"])
    store.planning.ask_for(run_id, DIGEST, [UserId("ada"), UserId("bob"), UserId("cyd")], keep=HOUR)

    store.preferences.apply([Disable(UserId("ada"), DIGEST)])
    store.preferences.forget(UserId("bob"))

    page = store.preferences.page(DIGEST, NAMED, run_id=run_id, after=-1)
    assert [member.user_id for member in page.members] == ["cyd"]


def test_users_asked_for_are_forgotten_when_their_run_is_never_claimed_and_when_it_ends(store: Store) -> None:
    never, ended = RunId("email_digest~m1"), RunId("email_digest~m2")
    for run_id in (never, ended):
        store.planning.ask_for(run_id, DIGEST, [UserId("ada")], keep=HOUR)
    claim(store, share_of(), run_id=ended)

    distribute(store, ended)

    assert 0 < store.connection.call("TTL", store.keys("members", never, "0")) <= HOUR.total_seconds()
    assert store.connection.call("EXISTS", store.keys("members", ended, "0")) == 0


# --- Parts of the page script --------------------------------------------------------------------------


def test_a_page_of_thousands_has_each_users_own_settings(store: Store) -> None:
    # Settings are looked up a thousand at a time; each must come to whom it belongs.
    task_id = TaskId("with_parameters")
    changes = [
        Enable(UserId(user), task_id, parameters={"who": user} if index % 3 else None)
        for index, user in enumerate(names(2500))
    ]
    store.preferences.apply(changes)

    page = store.preferences.page(task_id, Cohort(), after=-1, size=5000)

    assert {member.user_id: member.parameters for member in page.members} == {
        user: f'{{"who":"{user}"}}' if index % 3 else "" for index, user in enumerate(names(2500))
    }
