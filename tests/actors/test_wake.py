"""Consumers are told of messages, wherever these come from, and ask by themselves where they are not."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dramatiq
import pytest

from actors.broker import Broker
from actors.consumer import ASK_ANYWAY_S
from actors.transport import DramatiqTransport
from actors.wake import WakeUps
from tests.store import claim, enable, share_of
from tests.waiting import eventually
from tq.models import Priority
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store import Store
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
    made = Broker(settings, [], store.agenda)
    made.declare_queue(QUEUE)
    wake_ups = WakeUps(settings.redis_url, agenda=agenda)
    wake_ups.after_worker_boot(made, WORKER)
    eventually(lambda: made.is_told)
    yield made
    wake_ups.after_worker_shutdown(made, WORKER)
    eventually(lambda: not made.is_told)
    made.client.close()


def put(settings: Settings, broker: Broker, *users: str) -> None:
    """Puts a job message per user into the queue, in one script."""
    transport = DramatiqTransport(settings)
    messages = [transport.job_message(make_envelope(user), Priority.NORMAL) for user in users]
    script = "for i = 1, #ARGV, 3 do enqueue(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end"
    arguments = [part for message in messages for part in (message.queue, message.id, message.body)]
    broker.client.eval(transport.enqueue_lua + script, 0, *cast("list[Any]", arguments))


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
    eventually(consumer.woken.is_set)
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


def test_a_queue_is_told_of_once_in_a_script_however_many_messages_it_gets(
    broker: Broker, settings: Settings
) -> None:
    with broker.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(broker.wake_channel)
        put(settings, broker, "ada", "bob", "cyd")
        broker.tell("last")

        told: list[bytes] = []
        while b"last" not in told:
            message = channel.get_message(timeout=1)
            told += [message["data"]] if message else []

    assert told == [QUEUE.encode(), b"last"]


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
        broker = Broker(settings.model_copy(update={"redis_url": server.url}), [], store.agenda)
        wake_ups = WakeUps(server.url, agenda=agenda)
        wake_ups.after_worker_boot(broker, WORKER)
        eventually(lambda: broker.is_told)

        server.kill()
        eventually(lambda: not broker.is_told)
        consumer = broker.consume(QUEUE)
        server.start()

        eventually(lambda: broker.is_told)
        assert consumer.woken.is_set()
        wake_ups.after_worker_shutdown(broker, WORKER)
        eventually(lambda: not broker.is_told)
