"""Consumers are told of messages, wherever these come from, and ask by themselves where they are not."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dramatiq
import pytest

from actors.broker import Broker
from actors.consumer import ASK_ANYWAY_S, Consumer
from actors.transport import DramatiqTransport
from actors.wake import WakeUps
from tests.store import claim, enable, share_of
from tests.waiting import eventually
from tq.models import Priority
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store import Store
from tq.store.agenda import DUE_NOW
from tq.testing import make_envelope

QUEUE = Priority.NORMAL.value
# A worker that nothing here has to do with.
WORKER = cast("dramatiq.Worker", SimpleNamespace())


@pytest.fixture
def agenda() -> threading.Event:
    """What wakes the keeper of the agenda."""
    return threading.Event()


@pytest.fixture
def broker(settings: Settings, store: Store, agenda: threading.Event) -> Iterator[Broker]:
    """A broker with one queue, that is told of messages."""
    made = Broker(settings, [], store)
    made.declare_queue(QUEUE)
    wake_ups = WakeUps(settings.redis_url, agenda=agenda)
    wake_ups.after_worker_boot(made, WORKER)
    eventually(lambda: bool(made.heard_as))
    yield made
    wake_ups.after_worker_shutdown(made, WORKER)
    eventually(lambda: not made.heard_as)
    made.client.close()


def put(settings: Settings, broker: Broker, *users: str) -> None:
    """Puts a job message per user into the queue, in one script."""
    transport = DramatiqTransport(settings)
    messages = [transport.job_message(make_envelope(user), Priority.NORMAL) for user in users]
    script = "for i = 1, #ARGV, 3 do enqueue(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end"
    arguments = [part for message in messages for part in (message.queue, message.id, message.body)]
    broker.client.eval(transport.enqueue_lua + script, 0, *cast("list[Any]", arguments))


def put_unheard(settings: Settings, broker: Broker, messages: int) -> None:
    """Puts so many messages into the queue without anybody being told."""
    transport, queue = DramatiqTransport(settings), f"{broker.namespace}:{QUEUE}"
    for number in range(messages):
        message = transport.job_message(make_envelope(f"user-{number}"), Priority.NORMAL)
        broker.client.hset(f"{queue}.msgs", message.id, message.body)
        broker.client.rpush(queue, message.id)


def test_a_consumer_that_sleeps_is_woken_by_a_message(broker: Broker, settings: Settings) -> None:
    consumer, found = broker.consume(QUEUE), list[str]()

    def take_one() -> None:
        while (message := next(consumer)) is None:
            asked.set()
        found.append(message.args[0].user_id)

    asked = threading.Event()
    taking = threading.Thread(target=take_one, daemon=True)
    taking.start()
    broker.wake()
    assert asked.wait(timeout=ASK_ANYWAY_S / 2)

    put(settings, broker, "ada")

    taking.join(timeout=ASK_ANYWAY_S / 2)
    assert found == ["ada"]


def test_a_consumer_that_has_emptied_its_queue_asks_again_when_it_is_told_of_more(
    broker: Broker, settings: Settings
) -> None:
    consumer = broker.consume(QUEUE, prefetch=8)
    put(settings, broker, "ada")
    assert next(consumer) is not None
    asked = fetches(broker)
    found: list[str] = []

    def take_one() -> None:
        while (message := next(consumer)) is None:
            pass
        found.append(message.args[0].user_id)

    taking = threading.Thread(target=take_one, daemon=True)
    taking.start()
    put(settings, broker, "bob")

    taking.join(timeout=ASK_ANYWAY_S / 2)
    assert found == ["bob"]
    assert fetches(broker) == asked + 1


def test_what_a_consumer_is_told_of_while_it_asks_is_not_slept_through(
    broker: Broker, settings: Settings
) -> None:
    consumer = broker.consume(QUEUE, prefetch=8)
    put(settings, broker, "ada")
    assert next(consumer) is not None

    put(settings, broker, "bob")
    eventually(consumer.woken.is_set)

    message = next(consumer)
    assert message is not None
    assert message.args[0].user_id == "bob"


def fetches(broker: Broker) -> int:
    """How often Redis was asked for messages; nothing else here calls a script by its name."""
    return int(broker.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


@dataclass
class Sleeper:
    """A process that has found its queue empty and sleeps."""

    broker: Broker
    consumer: Consumer
    agenda: threading.Event

    @property
    def is_woken(self) -> bool:
        return self.consumer.woken.is_set()


@pytest.fixture
def sleeper(settings: Settings, store: Store) -> Iterator[Callable[[], Sleeper]]:
    """Has one more process go to sleep; whoever did so last is woken first."""
    ends: list[Callable[[], None]] = []

    def sleeping() -> Sleeper:
        broker, agenda = Broker(settings, [], store), threading.Event()
        broker.declare_queue(QUEUE)
        wake_ups = WakeUps(settings.redis_url, agenda=agenda)
        wake_ups.after_worker_boot(broker, WORKER)
        ends.extend([lambda: wake_ups.after_worker_shutdown(broker, WORKER), broker.client.close])
        eventually(lambda: bool(broker.heard_as))
        made = Sleeper(broker, broker.consume(QUEUE, prefetch=8), agenda)
        broker.do_fetch(QUEUE, 8, heard_as=broker.heard_as)
        return made

    yield sleeping
    for end in ends:
        end()


def those_woken(sleepers: Sequence[Sleeper]) -> list[bool]:
    """Which of them have been woken, when all have heard what there was to hear."""
    for each in sleepers:
        each.agenda.clear()
        each.broker.client.publish(f"{each.broker.wake_channel}:{each.broker.heard_as}", DUE_NOW)
        assert each.agenda.wait(timeout=10)
    return [each.is_woken for each in sleepers]


@pytest.mark.parametrize(
    ("messages", "woken"),
    [(1, [False, False, True]), (2, [False, True, True]), (3, [True, True, True]), (9, [True, True, True])],
)
def test_as_many_processes_are_woken_as_there_are_messages_the_last_to_go_to_sleep_first(
    sleeper: Callable[[], Sleeper], settings: Settings, messages: int, woken: list[bool]
) -> None:
    sleepers = [sleeper() for _ in range(3)]

    put(settings, sleepers[0].broker, *(f"user-{number}" for number in range(messages)))

    assert those_woken(sleepers) == woken


def test_who_was_woken_is_not_woken_again_before_it_has_looked(
    sleeper: Callable[[], Sleeper], settings: Settings
) -> None:
    first, last = sleeper(), sleeper()
    put(settings, first.broker, "ada")
    assert those_woken([first, last]) == [False, True]

    put(settings, first.broker, "bob")

    assert those_woken([first, last]) == [True, True]


def test_who_cannot_hear_any_more_is_passed_over(
    sleeper: Callable[[], Sleeper], settings: Settings, broker: Broker
) -> None:
    alive = sleeper()
    broker.do_fetch(QUEUE, 1, heard_as="gone")

    put(settings, broker, "ada")

    assert those_woken([alive]) == [True]


def test_who_is_about_to_end_has_others_come_in_its_place(
    sleeper: Callable[[], Sleeper], settings: Settings
) -> None:
    other, leaving = sleeper(), sleeper()
    leaving.broker.is_leaving = True

    put(settings, other.broker, "ada")

    assert other.consumer.woken.wait(timeout=10)


def test_who_has_left_is_woken_no_more_and_others_come_for_what_it_was_last_woken_for(
    sleeper: Callable[[], Sleeper],
) -> None:
    other, left = sleeper(), sleeper()

    left.broker.leave()

    waiting = left.broker.client.zrange(f"{left.broker.namespace}:{QUEUE}.waiting", 0, -1)
    assert waiting == [other.broker.heard_as.encode()]
    assert other.consumer.woken.wait(timeout=10)


def test_who_has_no_room_is_not_woken_for_what_others_could_take(
    sleeper: Callable[[], Sleeper], settings: Settings
) -> None:
    other, full = sleeper(), sleeper()
    put_unheard(settings, full.broker, 7)
    assert next(full.consumer) is not None

    put(settings, other.broker, "ada")

    assert those_woken([other, full]) == [True, False]


@pytest.mark.parametrize(("jobs", "woken"), [(3, [False, True]), (4, [True, False])])
def test_who_has_less_to_do_is_woken_first_and_only_about_as_much_counts_as_the_same(
    sleeper: Callable[[], Sleeper], settings: Settings, jobs: int, woken: list[bool]
) -> None:
    other, busy = sleeper(), sleeper()
    put_unheard(settings, busy.broker, jobs)
    for _ in range(jobs):
        assert next(busy.consumer) is not None

    put(settings, other.broker, "ada")

    assert those_woken([other, busy]) == woken


def test_what_has_been_done_counts_no_more_when_a_process_goes_to_sleep(
    sleeper: Callable[[], Sleeper], settings: Settings
) -> None:
    other, busy = sleeper(), sleeper()
    put_unheard(settings, busy.broker, 4)
    for _ in range(4):
        message = next(busy.consumer)
        assert message is not None
        busy.consumer.ack(message)
    busy.broker.do_fetch(QUEUE, 8, heard_as=busy.broker.heard_as)

    put(settings, other.broker, "ada")

    assert those_woken([other, busy]) == [False, True]


def test_who_has_room_for_more_than_a_script_takes_asks_again_without_being_woken(
    broker: Broker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.consumer.MOST_FETCHED", 3)
    put_unheard(settings, broker, 5)
    consumer = broker.consume(QUEUE, prefetch=8)

    found = [next(consumer) for _ in range(5)]

    assert all(message is not None for message in found)


def test_no_more_than_a_thousand_wait_whoever_has_ended_without_a_word(broker: Broker) -> None:
    for number in range(1100):
        broker.do_fetch(QUEUE, 1, heard_as=f"ended-{number}")

    assert broker.client.zcard(f"{broker.namespace}:{QUEUE}.waiting") == 1000


def test_what_a_process_gives_back_and_what_an_actor_sends_is_told_too(
    broker: Broker, settings: Settings
) -> None:
    consumer = broker.consume(QUEUE, timeout=1)
    put(settings, broker, "ada")
    message = next(consumer)
    assert message is not None

    consumer.woken.clear()
    consumer.requeue([message])
    assert consumer.woken.wait(timeout=10)

    actor = dramatiq.actor(broker=broker, actor_name="idle", queue_name=QUEUE)(lambda: None)
    consumer.woken.clear()
    actor.send()
    assert consumer.woken.wait(timeout=10)


@pytest.mark.usefixtures("broker")
def test_a_run_that_is_to_begin_at_once_wakes_the_keeper_of_the_agenda(
    store: Store, agenda: threading.Event
) -> None:
    enable(store, ["ada"])

    claim(store, share_of(), distribute_in=timedelta(0))

    assert agenda.wait(timeout=10)


def test_a_process_that_has_lost_its_connection_is_told_again_when_redis_is_back(
    tmp_path: Path, settings: Settings, store: Store, agenda: threading.Event
) -> None:
    with RedisServer(tmp_path, persist=False) as server:
        broker = Broker(settings.model_copy(update={"redis_url": server.url}), [], store)
        wake_ups = WakeUps(server.url, agenda=agenda)
        wake_ups.after_worker_boot(broker, WORKER)
        eventually(lambda: bool(broker.heard_as))

        server.kill()
        eventually(lambda: not broker.heard_as)
        consumer = broker.consume(QUEUE)
        server.start()

        eventually(lambda: bool(broker.heard_as))
        assert consumer.woken.is_set()
        wake_ups.after_worker_shutdown(broker, WORKER)
        eventually(lambda: not broker.heard_as)
