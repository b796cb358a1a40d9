"""Every key stands in one table: spelt alike in Python and Lua, never two things under one name."""

import re
from datetime import timedelta
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.limits import KINDS, Limit
from tq.models import Interval, JobStatus, Priority, RunId, RunKind, Strategy, UserId
from tq.models.ids import ID_PATTERN
from tq.store import Store
from tq.store.heartbeats import WORKER, Presence
from tq.store.keys import RETENTION_DAYS, TABLE, Keys
from tq.store.ledger import Retry
from tq.store.limits import Ask, Request
from tq.store.planning import Move
from tq.store.preferences import Relocate

from . import (
    DIGEST,
    HOUR,
    NOW,
    UTC_NINE,
    UTC_TEN,
    claim,
    distribute,
    enable,
    end_of,
    family_of,
    frozen,
    hold,
    jobs_sent,
    keys_of,
    publish,
    running,
    share_of,
    stray_keys,
)

ids = st.from_regex(re.compile(ID_PATTERN, re.ASCII), fullmatch=True)
families = st.sampled_from(sorted(TABLE))


def holes_of(family: str) -> list[str]:
    """What a key of this family is made of."""
    return re.findall(r"\{(\w+)\}", TABLE[family].pattern)


# --- Spelling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(TABLE))
def test_python_and_lua_spell_each_key_alike(store: Store, family: str) -> None:
    values = [f"{hole}-1:@._" for hole in holes_of(family)]
    arguments = ", ".join(f"'{value}'" for value in values)
    script = f"return K.{family}({arguments})"

    spelt = store.connection.call("EVAL", store.keys.lua(script) + script, 0)

    assert spelt == store.keys(family, *values)


@pytest.mark.parametrize("family", sorted(TABLE))
def test_a_key_begins_with_its_kind_and_ends_with_its_ids(family: str) -> None:
    holes = "|".join(f"{{{hole}}}" for hole in holes_of(family))

    assert TABLE[family].pattern == (f"{family}:{holes}" if holes else family)


@given(
    first=st.tuples(families, st.lists(ids, min_size=3, max_size=3)),
    second=st.tuples(families, st.lists(ids, min_size=3, max_size=3)),
)
def test_two_things_never_share_a_key(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> None:
    keys = Keys("ns")
    things = [(family, values[: len(holes_of(family))]) for family, values in (first, second)]

    spelt = [keys(family, *values) for family, values in things]

    assert (spelt[0] == spelt[1]) == (things[0] == things[1])


def test_only_the_families_that_a_script_uses_are_sent_with_it() -> None:
    lua = Keys("ns").lua("return redis.call('GET', K.run(run))")

    assert lua == "local K = {}\nfunction K.run(run) return 'ns:run:'..run end\n"


# --- The table and what is there -----------------------------------------------------------------------


def live_a_whole_life(store: Store) -> None:
    """Has the store do everything that leaves a key, and stop in the middle of it."""
    publish(store, 1, UTC_NINE)
    publish(store, 2, UTC_TEN)
    enable(store, ["ada"], parameters={"a": 1})
    enable(store, ["ada"], timezone="Asia/Tokyo", interval=Interval.hourly())
    store.user_pauses.pause(UserId("ada"))
    run_id = running(store, ["bob", "cyd", "dan"])
    distribute(store, run_id)
    bob, cyd, dan = jobs_sent(store)
    hold(store, "worker:1", dan)
    dan.is_suspect = True
    store.ledger.begin([dan], counts_suspects=True)
    store.ledger.finish([end_of(bob, JobStatus.FAILED), Retry(cyd, HOUR, 1, Priority.NORMAL)])
    asked = RunId("email_digest~m1")
    store.planning.ask_for(asked, DIGEST, [UserId("bob")], keep=HOUR)
    claim(store, share_of(), run_id=asked, kind=RunKind.MANUAL)
    frozen(store).advance(timedelta(milliseconds=1))
    [due, *_] = store.planning.look().due
    store.planning.move_on([Move(due, None if due.task_id != DIGEST else store.clock.now() + HOUR, 2)])
    store.orders.set_rate(DIGEST, 50)
    limit = Limit(Strategy.ADAPTIVE, floor=1, base=5, ceiling=10, concurrency=2)
    ask = Ask(DIGEST, limit, slots=1, weight=4, waiting=1, in_use=0, counts=[1] * len(KINDS))
    store.limits.exchange(Request("worker:1", limit, slots=1, tasks=[ask]))
    store.orders.pause(DIGEST)
    store.orders.resume(DIGEST)
    claim(store, share_of("Asia/Tokyo|hourly/1@UTC"), nominal_at=NOW + HOUR)
    store.preferences.apply([Relocate(UserId("ada"), "UTC")])
    store.orders.pause(DIGEST)
    store.mending.is_mine("worker:1", lasts=HOUR)
    store.connection.call("ZREM", store.keys("agenda"), f"d|{asked}")
    store.mending.follow(asked)
    store.alerts.take("web:1", lasts=HOUR, heartbeat_at=NOW, changes={"ticks": "{}"})
    Presence(store.heartbeats, WORKER).show()
    store.totals.add({"email_digest": {"attempts|2xx|done": [1]}})


def test_a_whole_life_leaves_keys_of_every_family_and_no_others(store: Store) -> None:
    live_a_whole_life(store)

    assert stray_keys(store) == []
    kept = {family for family, key in TABLE.items() if key.type != "channel"}
    assert {family_of(store, key) for key in keys_of(store)} == kept


def test_keys_live_as_long_as_the_table_says(store: Store) -> None:
    live_a_whole_life(store)
    store.ledger.finish([end_of(job) for job in jobs_sent(store)])
    days = 86_400
    lifetimes = {
        "definition": {-1, 100 * days},
        "results": {30 * days},
        "failures": {30 * days},
        "failure": {30 * days},
        "limit": {days},
        "outcomes": {2 * 3600},
        "begun": {days},
    }

    ttls: dict[str, set[int]] = {}
    for key in keys_of(store):
        ttl = store.connection.call("TTL", key)
        # To the next full minute: on a busy machine some seconds pass here.
        ttls.setdefault(str(family_of(store, key)), set()).add(ttl if ttl < 0 else ceil(ttl / 60) * 60)

    assert {family: found for family, found in ttls.items() if found != {-1}} == lifetimes
    assert RETENTION_DAYS == 90


def test_a_key_that_nobody_declared_is_noticed(store: Store) -> None:
    store.connection.call("SET", f"{store.keys.prefix}strange", "1")
    store.connection.call("SET", store.keys("due"), "not a sorted set")

    assert stray_keys(store) == [f"{store.keys('due')} (string)", f"{store.keys.prefix}strange (string)"]

    store.connection.call("DEL", f"{store.keys.prefix}strange", store.keys("due"))
