"""What operators order holds until it is withdrawn, and every process is told of it at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import orjson
import pytest
import redis

from tests.waiting import eventually
from tq.clock import SystemClock
from tq.errors import InvalidInput
from tq.limits import EVERY_TASK, Limit
from tq.models import Strategy, TaskId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.limits import Answer, Ask, Request
from tq.store.orders import Pause, RateOrder

from . import DIGEST, HOUR, NOW, another, frozen, open_store

SYNC = TaskId("hourly_sync")
SECOND = timedelta(seconds=1)
ADAPTIVE = Limit(Strategy.ADAPTIVE, floor=1, base=50, ceiling=100)
STEPPED = Limit(Strategy.STEPPED, floor=50, base=100, ceiling=200)
BOTH_SCOPES = pytest.mark.parametrize("scope", [DIGEST, EVERY_TASK])


@contextmanager
def listening(store: Store) -> Iterator[list[Any]]:
    """What all processes are told; filled when the block ends."""
    told: list[Any] = []
    with redis.Redis.from_url(store.connection.url) as client, client.pubsub() as channel:
        channel.subscribe(store.limits.events_channel, "the end")
        yield told
        client.publish("the end", "")

        def heard_the_end() -> bool:
            message = cast("dict[str, Any] | None", channel.get_message(timeout=0.1))
            if message and message["type"] == "message" and message["channel"] != b"the end":
                told.append(orjson.loads(message["data"]))
            return bool(message and message["type"] == "message" and message["channel"] == b"the end")

        eventually(heard_the_end)


def exchange(store: Store, task_id: TaskId = DIGEST, limit: Limit = ADAPTIVE, *, slots: int = 4) -> Answer:
    """What the limiter answers to a process that has work to do."""
    ask = Ask(task_id, limit, slots=slots, weight=4, waiting=slots, in_use=0)
    everything = Limit(Strategy.ADAPTIVE, floor=10, base=500, ceiling=1000)
    return store.limits.exchange(Request("worker:1", everything, slots=slots, tasks=[ask]))


# --- Rates ---------------------------------------------------------------------------------------


@BOTH_SCOPES
def test_an_order_says_what_holds_since_when_and_by_whom(store: Store, scope: str) -> None:
    store.orders.set_rate(scope, 50, pinned=True, by="ada@ops")

    assert store.orders.rates() == {scope: RateOrder(50, pinned=True, by="ada@ops", at=NOW)}


def test_the_last_order_for_a_scope_holds_and_other_scopes_keep_theirs(store: Store) -> None:
    store.orders.set_rate(DIGEST, 50, pinned=True)
    store.orders.set_rate(SYNC, 7.25)
    store.orders.set_rate(DIGEST, 0.5)

    found = store.orders.rates()
    assert {scope: (order.rate, order.pinned) for scope, order in found.items()} == {
        DIGEST: (0.5, False),
        SYNC: (7.25, False),
    }


def test_a_rate_that_is_reset_is_ordered_no_more(store: Store) -> None:
    store.orders.set_rate(DIGEST, 50)
    store.orders.set_rate(EVERY_TASK, 200)

    assert store.orders.reset_rate(DIGEST)
    assert not store.orders.reset_rate(DIGEST)

    assert list(store.orders.rates()) == [EVERY_TASK]


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (0, "rate: 0 is too small; write more than 0"),
        (-1.5, "rate: -1.5 is too small; write more than 0"),
        (float("nan"), "rate: nan is not a rate"),
        (float("inf"), "rate: inf is not a rate"),
    ],
)
def test_what_is_no_rate_is_refused_and_the_order_there_stays(store: Store, rate: float, told: str) -> None:
    store.orders.set_rate(DIGEST, 50)

    with pytest.raises(InvalidInput, match=told):
        store.orders.set_rate(DIGEST, rate)

    assert store.orders.rates()[DIGEST].rate == 50


@pytest.mark.parametrize("scope", ["", "**", "a|b", "../x", "a" * 101])
def test_what_cannot_be_a_task_cannot_be_ordered(store: Store, scope: str) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be the id of a task; write .*, or \* for all"):
        store.orders.pause(scope)


def test_an_order_is_in_force_with_the_next_exchange_of_every_process(store: Store) -> None:
    assert exchange(store).scopes[DIGEST].rate == 50

    store.orders.set_rate(DIGEST, 20)

    assert exchange(another(store)).scopes[DIGEST].rate == 20


def test_an_order_replaces_the_ceiling_until_it_is_reset(store: Store) -> None:
    limits: dict[str, Limit] = {DIGEST: ADAPTIVE, EVERY_TASK: ADAPTIVE}
    store.orders.set_rate(DIGEST, 400)

    ordered = store.limits.standings(limits)[DIGEST].ceiling
    store.orders.reset_rate(DIGEST)

    assert (ordered, store.limits.standings(limits)[DIGEST].ceiling) == (400, 100)


def test_of_three_steps_an_order_is_the_middle_one_and_the_others_are_half_and_double(store: Store) -> None:
    store.orders.set_rate(DIGEST, 10)

    standing = store.limits.standings({DIGEST: STEPPED, EVERY_TASK: STEPPED})[DIGEST]

    assert (standing.rate, standing.ceiling) == (10, 20)


@pytest.mark.parametrize("limit", [ADAPTIVE, STEPPED], ids=["adaptive", "stepped"])
def test_a_pinned_rate_is_held_exactly_and_says_who_pinned_it(store: Store, limit: Limit) -> None:
    store.orders.set_rate(DIGEST, 80, pinned=True, by="ada@ops")

    assert exchange(store, limit=limit).scopes[DIGEST].rate == 80
    standing = store.limits.standings({DIGEST: limit, EVERY_TASK: limit})[DIGEST]
    assert (standing.rate, standing.ceiling, standing.why) == (80, 80, "pinned by ada@ops")


# --- Pauses --------------------------------------------------------------------------------------


@BOTH_SCOPES
def test_a_pause_says_why_since_when_by_whom_and_until_when(store: Store, scope: str) -> None:
    store.orders.pause(scope, reason="they move house", by="ada@ops", until=NOW + HOUR)

    assert store.orders.pauses() == {scope: Pause("they move house", "ada@ops", NOW, NOW + HOUR)}


@BOTH_SCOPES
def test_nobody_gets_a_slot_in_a_pause_and_everybody_after_it(store: Store, scope: str) -> None:
    store.orders.pause(scope)
    paused = exchange(store)

    store.orders.resume(scope)

    assert (paused.grants, paused.scopes[DIGEST].state) == ([], "paused")
    assert exchange(store).grants


def test_the_pause_of_a_task_is_not_that_of_another(store: Store) -> None:
    store.orders.pause(DIGEST)

    assert exchange(store, SYNC).grants


def test_a_pause_without_an_end_lasts_until_it_is_withdrawn(store: Store) -> None:
    store.orders.pause(DIGEST)
    frozen(store).advance(timedelta(days=365))

    assert list(store.orders.pauses()) == [DIGEST]
    assert store.orders.resume(DIGEST)
    assert not store.orders.resume(DIGEST)
    assert store.orders.pauses() == {}


def test_a_pause_is_over_at_its_end_to_the_millisecond(store: Store) -> None:
    store.orders.pause(DIGEST, until=NOW + HOUR)

    frozen(store).advance(HOUR - timedelta(milliseconds=1))
    before = (list(store.orders.pauses()), exchange(store).grants)
    frozen(store).advance(timedelta(milliseconds=1))

    assert before == ([DIGEST], [])
    assert exchange(store).grants
    assert store.orders.pauses() == {}


def test_a_pause_that_is_over_is_forgotten_by_whoever_looks(store: Store) -> None:
    store.orders.pause(DIGEST, until=NOW + SECOND)
    store.orders.pause(SYNC)
    frozen(store).advance(HOUR)

    assert list(store.orders.pauses()) == [SYNC]

    assert store.connection.call("HKEYS", store.keys("paused")) == [SYNC]


def test_a_pause_that_is_over_is_none_that_could_be_withdrawn(store: Store) -> None:
    store.orders.pause(DIGEST, until=NOW + SECOND)
    frozen(store).advance(HOUR)

    assert not store.orders.resume(DIGEST)


def test_who_pauses_again_changes_why_and_until_when_but_not_since_when(store: Store) -> None:
    store.orders.pause(DIGEST, reason="first", by="ada", until=NOW + HOUR)
    frozen(store).advance(timedelta(minutes=10))

    store.orders.pause(DIGEST, reason="then", by="bob")

    assert store.orders.pauses() == {DIGEST: Pause("then", "bob", NOW, None)}


def test_a_pause_after_one_that_is_over_begins_now(store: Store) -> None:
    store.orders.pause(DIGEST, until=NOW + SECOND)
    frozen(store).advance(HOUR)

    store.orders.pause(DIGEST)

    assert store.orders.pauses()[DIGEST].since == NOW + HOUR


@pytest.mark.parametrize("until", [NOW, NOW - HOUR])
def test_an_end_that_is_past_is_refused_and_the_pause_there_stays(store: Store, until: datetime) -> None:
    store.orders.pause(DIGEST, reason="they move house")

    with pytest.raises(InvalidInput, match=r"until: 2026-11-24T0.:45:00Z is past; write an instant"):
        store.orders.pause(DIGEST, until=until)

    assert store.orders.pauses()[DIGEST].reason == "they move house"


def test_whether_an_end_is_past_is_told_by_redis_own_clock(redis_server: RedisServer) -> None:
    class LateClock(SystemClock):
        """A machine whose date is a day late."""

        def now(self) -> datetime:
            return super().now() - timedelta(days=1)

    store = open_store(redis_server.url, clock=LateClock())

    with pytest.raises(InvalidInput, match="is past"):
        store.orders.pause(DIGEST, until=store.clock.now() + HOUR)
    store.close()


@pytest.mark.parametrize(
    ("pause", "told"),
    [
        (Pause("", "", NOW, None), "paused"),
        (Pause("they move house", "", NOW, None), "paused: they move house"),
        (
            Pause("they move house", "ada@ops", NOW, NOW + HOUR),
            "paused by ada@ops until 2026-11-24 10:45:00 UTC: they move house",
        ),
    ],
)
def test_a_pause_is_told_in_words(pause: Pause, told: str) -> None:
    assert str(pause) == told


# --- Both ----------------------------------------------------------------------------------------


def test_orders_are_in_redis_and_so_outlast_every_process(store: Store) -> None:
    store.orders.set_rate(DIGEST, 50, by="ada@ops")
    store.orders.pause(EVERY_TASK, reason='"quotes", {braces}, Grüße / 火')

    found = another(store).orders.in_force()

    assert found == store.orders.in_force()
    assert found.pauses[EVERY_TASK].reason == '"quotes", {braces}, Grüße / 火'


def test_everybody_is_told_of_every_order_with_its_scope(store: Store) -> None:
    with listening(store) as told:
        store.orders.set_rate(DIGEST, 50)
        store.orders.reset_rate(DIGEST)
        store.orders.pause(EVERY_TASK)
        store.orders.resume(EVERY_TASK)

    assert told == [{"scope": DIGEST}] * 2 + [{"scope": EVERY_TASK}] * 2


def test_nobody_is_told_of_an_order_that_was_refused(store: Store) -> None:
    with listening(store) as told, pytest.raises(InvalidInput):
        store.orders.pause(DIGEST, until=NOW - HOUR)

    assert told == []
