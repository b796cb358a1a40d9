"""What the broker does while Redis is away, or refuses: nobody is taken for dead for it, and nobody raves."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from actors.broker import DEAD_AFTER_MS, Broker
from actors.consumer import AGAIN_AFTER_S
from actors.transport import DramatiqTransport
from tq.clock import Stopwatch
from tq.errors import StoreRefused
from tq.models import Priority
from tq.settings import Settings
from tq.store import Store
from tq.testing import make_envelope

QUEUE = Priority.NORMAL.value


@pytest.fixture
def brokers(settings: Settings, store: Store) -> Iterator[tuple[Broker, Broker]]:
    """Two processes that have just shown themselves."""
    both = Broker(settings, [], store), Broker(settings, [], store)
    for broker in both:
        broker.declare_queue(QUEUE)
        broker.recover()
    yield both
    for broker in both:
        broker.client.close()


def let_pass(broker: Broker, ms: int) -> None:
    """Has it be so much later, by what Redis has noted of who lives."""
    alive, looked = (f"{broker.namespace}:{name}" for name in ("alive", "looked"))
    for process in broker.client.zrange(alive, 0, -1):
        broker.client.execute_command("ZINCRBY", alive, -ms, process)
    broker.client.decrby(looked, ms)


def test_nobody_is_taken_for_dead_because_redis_was_away_for_all(brokers: tuple[Broker, Broker]) -> None:
    here, there = brokers
    here.consume(QUEUE, timeout=1)
    names = here.broker_id, there.broker_id

    let_pass(here, 2 * DEAD_AFTER_MS)
    for broker in (here, there, here):
        broker.recover()

    assert (here.broker_id, there.broker_id) == names
    assert (here.generation, there.generation) == (0, 0)


def test_who_had_fallen_silent_before_redis_was_away_is_not_forgotten(brokers: tuple[Broker, Broker]) -> None:
    here, dead = brokers
    here.client.rpush(f"{here.namespace}:{QUEUE}", "message")
    here.client.hset(f"{here.namespace}:{QUEUE}.msgs", "message", "{}")
    dead.do_fetch(QUEUE, 1)

    let_pass(here, 2 * DEAD_AFTER_MS)
    recovered = [here.recover()]
    for _ in range(4):
        let_pass(here, DEAD_AFTER_MS // 3)
        recovered.append(here.recover())

    assert sum(recovered[:3]) == 0
    assert sum(recovered) == 1


def test_what_redis_has_refused_is_not_tried_again_in_the_same_instant(
    brokers: tuple[Broker, Broker], settings: Settings
) -> None:
    here, _ = brokers
    message = DramatiqTransport(settings).job_message(make_envelope("ada"), Priority.NORMAL)
    here.client.hset(f"{here.namespace}:{QUEUE}.msgs", message.id, message.body)
    here.client.rpush(f"{here.namespace}:{QUEUE}", message.id)
    consumer = here.consume(QUEUE, timeout=1)
    fetched = next(consumer)
    assert fetched is not None
    fetched.stuff_exception(StoreRefused("newer data"))

    since = Stopwatch()
    consumer.ack(fetched)

    assert since.elapsed >= timedelta(seconds=AGAIN_AFTER_S)
    assert here.client.llen(f"{here.namespace}:{QUEUE}") == 1
