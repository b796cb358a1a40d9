"""What the broker adds to Dramatiq's: nothing that was fetched is lost, whoever dies or loses its connection."""

from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
import redis

from actors.broker import DEAD_AFTER_MS, Broker
from actors.consumer import Consumer
from actors.encoding import EXECUTE, MessageEncoder
from actors.transport import DramatiqTransport
from tests.store import DIGEST, HOUR, NINE, claim, distribute, frozen, running, share_of
from tests.waiting import eventually
from tq.errors import NotHeld, StoreUnavailable
from tq.models import SUSPECTS, Batch, Envelope, Priority, UserId, scheduled_run_id
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store import Store
from tq.testing import make_envelope

QUEUE = Priority.NORMAL.value


@pytest.fixture
def broker(settings: Settings, store: Store) -> Iterator[Broker]:
    """A broker with one queue for jobs."""
    made = Broker(settings, [], store)
    made.declare_queue(QUEUE)
    made.declare_queue(SUSPECTS)
    yield made
    made.client.close()


def enqueue(broker: Broker, settings: Settings, *users: str) -> None:
    """Puts a job message per user into the queue, as the store does."""
    transport = DramatiqTransport(settings)
    for user in users:
        message = transport.job_message(make_envelope(user), Priority.NORMAL)
        broker.client.hset(f"{broker.namespace}:{QUEUE}.msgs", message.id, message.body)
        broker.client.rpush(f"{broker.namespace}:{QUEUE}", message.id)


def consume(broker: Broker, *, prefetch: int = 10) -> Consumer:
    return broker.consume(QUEUE, prefetch=prefetch, timeout=1)


def users_of(consumer: Consumer) -> list[str]:
    """Everybody whose message the consumer hands out now."""
    found = []
    while (message := next(consumer)) is not None:
        found.append(message.args[0].user_id)
    return found


def waiting(broker: Broker, queue: str = QUEUE) -> int:
    return int(broker.client.llen(f"{broker.namespace}:{queue}"))


def fetched_by(broker: Broker) -> set[bytes]:
    """The ids of what Redis counts as the process' own."""
    return set(broker.client.smembers(f"{broker.namespace}:__acks__.{broker.broker_id}.{QUEUE}"))


def test_a_message_that_the_store_wrote_is_what_a_consumer_reads(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")

    message = next(consume(broker))

    assert message is not None
    assert message.actor_name == EXECUTE
    assert message.args[0].to_wire() == make_envelope("ada").to_wire()


def test_messages_are_fetched_in_their_order_each_by_one_process_and_no_more_than_there_is_room_for(
    broker: Broker, store: Store, settings: Settings
) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd", "dan")
    other = Broker(settings, [], store)

    first, second = users_of(consume(broker, prefetch=3)), users_of(consume(other, prefetch=3))

    assert (first, second) == (["ada", "bob", "cyd"], ["dan"])
    assert (len(fetched_by(broker)), len(fetched_by(other)), waiting(broker)) == (3, 1, 0)
    other.client.close()


def test_a_message_that_was_deleted_while_it_waited_is_passed_over(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada", "bob")
    broker.client.hdel(f"{broker.namespace}:{QUEUE}.msgs", make_envelope("ada").message_id)
    consumer = consume(broker)

    assert [message and message.args[0].user_id for message in (next(consumer), next(consumer))] == [
        None,
        "bob",
    ]


@pytest.mark.parametrize("is_called", [True, False])
def test_a_run_is_cut_if_more_is_left_of_it_than_workers_are_calling(
    broker: Broker, store: Store, settings: Settings, is_called: bool
) -> None:
    run_id = running(store, ["ada", "bob", "cyd"])
    distribute(store, run_id)
    others = Broker(settings, [], store)
    for one in (broker, others):
        one.declare_queue(QUEUE)
        one.recover()
        message = next(consume(one, prefetch=1))
        assert message is not None
        store.ledger.begin([message.args[0]])
    message = next(consume(broker, prefetch=2))
    assert message is not None
    if is_called:
        store.ledger.begin([message.args[0]])

    frozen(store).advance(HOUR / 2)
    claim(store, share_of(), nominal_at=NINE + HOUR)

    [share] = store.runs.get(scheduled_run_id(DIGEST, NINE + HOUR)).shares
    assert (share.first == 0) == is_called
    others.client.close()


def test_a_jobs_message_prints_as_its_id_alone(settings: Settings) -> None:
    envelope = make_envelope("ada", parameters='{"word":"secret"}')
    body = DramatiqTransport(settings).job_message(envelope, Priority.NORMAL).body

    message = dramatiq.Message.decode(body)

    assert str(message) == f"execute({envelope.job_id})"
    assert "secret" not in repr(message)
    assert MessageEncoder().encode(message.asdict()) == body


def test_the_messages_of_a_batch_are_those_that_each_job_has_alone(settings: Settings) -> None:
    transport = DramatiqTransport(settings)
    # Whatever a user is called, the message can be read.
    users = [UserId(user) for user in ("ada", 'a"da', "ad\\a", "ådå", "normal")]
    batch = Batch(make_envelope("anybody", parameters='{"a":"\\u0000"}'), users)

    messages = transport.job_messages(batch, Priority.NORMAL)

    alone = [
        transport.job_message(make_envelope(user, parameters='{"a":"\\u0000"}'), Priority.NORMAL)
        for user in users
    ]
    assert messages.queue == QUEUE
    assert messages.ids == [message.id for message in alone]
    assert messages.bodies == [message.body for message in alone]
    assert [dramatiq.Message.decode(body).args[0].user_id for body in messages.bodies] == users


def test_a_jobs_message_is_kept_without_what_follows_from_the_job(settings: Settings) -> None:
    envelope = make_envelope("ada")
    message = DramatiqTransport(settings).job_message(envelope, Priority.NORMAL)

    arrived = dramatiq.Message.decode(message.body)

    assert envelope.job_id.encode() not in message.body
    assert arrived.message_id == arrived.options["redis_message_id"] == message.id
    assert arrived.kwargs == {}


def test_a_jobs_message_with_an_id_of_its_own_keeps_it(broker: Broker) -> None:
    @dramatiq.actor(broker=broker, actor_name=EXECUTE, queue_name=QUEUE)
    def _execute(_: Envelope) -> None: ...

    _execute.send(make_envelope("ada"))

    message = next(consume(broker))
    assert message is not None
    message_id = message.options["redis_message_id"]
    assert message_id != message.args[0].message_id
    assert broker.client.hkeys(f"{broker.namespace}:{QUEUE}.msgs") == [message_id.encode()]


def test_an_acknowledged_message_leaves_nothing_behind(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None

    consumer.ack(message)

    assert [key for key in broker.client.keys(f"{broker.namespace}:*") if b"heartbeats" not in key] == []


def test_a_message_that_comes_again_while_the_process_has_it_is_worked_once(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None

    enqueue(broker, settings, "ada")  # as when Redis goes back to before it was fetched
    assert users_of(consumer) == []
    consumer.ack(message)

    assert users_of(consumer) == []
    assert waiting(broker) == 0


def test_a_message_that_came_again_is_worked_if_the_first_is_found_to_be_held_by_others(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None
    enqueue(broker, settings, "ada")
    assert users_of(consumer) == []

    message.stuff_exception(NotHeld())
    consumer.ack(message)

    eventually(lambda: users_of(consumer) == ["ada"])


def test_a_jobs_message_is_acknowledged_by_the_ledger_and_makes_room_then(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada", "bob")
    consumer = consume(broker, prefetch=1)
    message = next(consumer)
    assert message is not None
    message.args[0].is_recorded = True

    consumer.ack(message)
    assert next(consumer) is None
    broker.settled([message.args[0]])

    assert users_of(consumer) == ["bob"]


def test_a_message_whose_record_could_not_be_stored_goes_back(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None
    message.stuff_exception(StoreUnavailable("away"))

    consumer.ack(message)

    assert waiting(broker) == 1


def test_a_message_goes_back_when_redis_takes_it_if_not_at_once(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None
    message.stuff_exception(StoreUnavailable("away"))
    broker.client.set(f"{broker.namespace}:__heartbeats__", "in the way")

    consumer.ack(message)
    broker.client.delete(f"{broker.namespace}:__heartbeats__")

    assert users_of(consumer) == ["ada"]


def test_what_a_closed_consumer_had_not_handed_out_goes_back(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    consumer = consume(broker)
    next(consumer)

    consumer.close()

    assert waiting(broker) == 2


def test_a_consumer_takes_over_what_its_predecessor_had_fetched(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    first = consume(broker)
    handed_out = next(first)
    assert handed_out is not None

    second = consume(broker)

    assert users_of(second) == ["bob", "cyd"]
    second.ack(handed_out)
    assert broker.client.hlen(f"{broker.namespace}:{QUEUE}.msgs") == 2


def test_what_was_fetched_by_a_command_whose_answer_never_came_goes_back(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada", "bob")
    first = consume(broker, prefetch=1)
    in_hand = next(first)
    assert in_hand is not None
    broker.do_fetch(QUEUE, 1)  # its answer is lost

    second = consume(broker)

    assert users_of(second) == ["bob"]
    second.ack(in_hand)


def test_what_a_dead_process_had_begun_comes_back_as_suspect_and_whatever_else_it_had_as_it_was(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    dead = Broker(settings, [], store)
    dead.recover()
    begun, _ = (next(consumer) for consumer in [consume(dead, prefetch=2)] * 2)
    assert begun is not None
    broker.client.sadd(store.keys("begun", dead.broker_id), begun.message_id)
    broker.client.zincrby(f"{broker.namespace}:alive", -DEAD_AFTER_MS - 1000, dead.broker_id)

    broker.recover()

    [suspect] = broker.client.hvals(f"{broker.namespace}:{SUSPECTS}.msgs")
    assert isinstance(suspect, bytes)
    assert dramatiq.Message.decode(suspect).queue_name == SUSPECTS
    assert users_of(broker.consume(SUSPECTS, timeout=1)) == ["ada"]
    assert users_of(consume(broker)) == ["bob", "cyd"]
    assert broker.client.exists(store.keys("begun", dead.broker_id)) == 0


def test_what_others_have_by_now_is_let_go_of_and_stays_as_it_is(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None
    broker.client.srem(f"{broker.namespace}:__acks__.{broker.broker_id}.{QUEUE}", message.message_id)
    broker.client.rpush(f"{broker.namespace}:{QUEUE}", message.message_id)
    message.stuff_exception(NotHeld())

    consumer.ack(message)

    assert users_of(consumer) == ["ada"]


def test_a_process_has_one_suspect_at_a_time(broker: Broker) -> None:
    assert broker.consume(SUSPECTS, prefetch=64).prefetch == 1


def test_what_a_dead_process_had_fetched_comes_back_and_a_live_ones_does_not(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada", "bob")
    dead, live = Broker(settings, [], store), Broker(settings, [], store)
    for process in (dead, live):
        process.recover()
        next(consume(process, prefetch=1))
    alive = f"{broker.namespace}:alive"
    broker.client.zincrby(alive, -DEAD_AFTER_MS - 1000, dead.broker_id)

    recovered = broker.recover()

    assert recovered == 1
    assert (waiting(broker), waiting(broker, SUSPECTS)) == (1, 0)
    assert broker.recover() == 0
    assert broker.client.zscore(alive, dead.broker_id) is None


def test_a_process_that_has_fetched_and_never_shown_itself_has_as_long_from_when_it_is_noticed(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada")
    silent = Broker(settings, [], store)
    next(consume(silent, prefetch=1))
    noticed = f"{broker.namespace}:noticed"

    at_once = broker.recover()
    again = broker.recover()
    broker.client.zincrby(noticed, -DEAD_AFTER_MS - 1000, silent.broker_id)
    in_the_end = broker.recover()

    assert (at_once, again, in_the_end) == (0, 0, 1)
    assert broker.client.zcard(noticed) == 0


def test_who_is_noticed_by_others_is_told_all_the_same_that_it_was_taken_for_dead(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada")
    taken = Broker(settings, [], store)
    taken.recover()
    broker.client.zrem(f"{broker.namespace}:alive", taken.broker_id)
    next(consume(taken, prefetch=1))
    broker.recover()

    taken.recover()

    assert taken.generation == 1


def test_a_live_process_is_not_taken_for_dead_whatever_its_clock_says(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada")
    slow = Broker(settings, [], store)
    slow.recover()
    next(consume(slow, prefetch=1))
    broker.client.zincrby(f"{broker.namespace}:__heartbeats__", -10 * DEAD_AFTER_MS, slow.broker_id)

    assert broker.recover() == 0


def test_a_process_that_was_taken_for_dead_drops_what_it_had_fetched_and_goes_on_under_another_name(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    taken = Broker(settings, [], store)
    taken.declare_queue(QUEUE)
    taken.recover()
    consumer, name = consume(taken, prefetch=2), taken.broker_id
    in_hand = next(consumer)
    assert in_hand is not None
    broker.client.zincrby(f"{broker.namespace}:alive", -DEAD_AFTER_MS - 1000, name)
    broker.recover()

    taken.recover()
    taken.forget([in_hand])
    taken.recover()

    assert taken.generation == 1
    assert taken.broker_id != name
    assert sorted(users_of(consumer)) == ["ada", "bob"]
    assert broker.client.smembers(f"{broker.namespace}:__acks__.{name}.{QUEUE}") == set()


def test_who_goes_on_under_another_name_keeps_it(broker: Broker) -> None:
    broker.recover()
    broker.client.zrem(f"{broker.namespace}:alive", broker.broker_id)
    broker.recover()
    name = broker.broker_id

    broker.recover()
    broker.recover()

    assert (broker.broker_id, broker.generation) == (name, 1)


def test_a_process_drops_what_it_had_fetched_when_redis_has_started_anew(
    tmp_path: Path, settings: Settings, store: Store
) -> None:
    with RedisServer(tmp_path) as server:
        here = Broker(settings.model_copy(update={"redis_url": server.url}), [], store)
        here.declare_queue(QUEUE)
        here.recover()
        before = here.generation
        server.restart()

        eventually(lambda: _recovered(here))

        assert here.generation == before + 1
        here.client.close()


def _recovered(broker: Broker) -> bool:
    try:
        broker.recover()
    except redis.RedisError:
        return False
    return True


def test_what_redis_refuses_is_tried_again_and_not_given_up(broker: Broker, settings: Settings) -> None:
    enqueue(broker, settings, "ada")
    consumer = consume(broker)
    message = next(consumer)
    assert message is not None
    broker.client.set(f"{broker.namespace}:__heartbeats__", "in the way")

    with pytest.raises(dramatiq.ConnectionClosed):
        consumer.ack(message)
    broker.client.delete(f"{broker.namespace}:__heartbeats__")
    consumer.ack(message)

    assert broker.client.hlen(f"{broker.namespace}:{QUEUE}.msgs") == 0


def test_a_process_that_leaves_puts_back_all_that_it_has_fetched_as_it_was_and_is_forgotten(
    broker: Broker, settings: Settings, store: Store
) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    broker.recover()
    begun = next(consume(broker, prefetch=2))
    assert begun is not None
    broker.client.sadd(store.keys("begun", broker.broker_id), begun.message_id)

    returned = broker.leave()

    assert (returned, waiting(broker)) == (2, 3)
    assert broker.client.keys(f"*{broker.broker_id}*") == []
    assert broker.client.exists(*(f"{broker.namespace}:{kind}" for kind in ("alive", "__heartbeats__"))) == 0


def test_a_suspect_that_is_cut_off_by_its_process_leaving_is_as_suspect_as_before(
    broker: Broker, settings: Settings, store: Store
) -> None:
    envelope = make_envelope("ada")
    message = DramatiqTransport(settings).job_message(envelope, Priority.NORMAL)
    body = message.body.replace(QUEUE.encode(), SUSPECTS.encode(), 1)
    broker.client.hset(f"{broker.namespace}:{SUSPECTS}.msgs", message.id, body)
    broker.client.rpush(f"{broker.namespace}:{SUSPECTS}", message.id)
    next(broker.consume(SUSPECTS, timeout=1))
    suspect = f"{envelope.run_id}|{envelope.user_id}"
    broker.client.hset(store.keys("suspects"), suspect, 2)
    broker.client.sadd(store.keys("begun", broker.broker_id), message.id)

    broker.leave()

    assert broker.client.hget(store.keys("suspects"), suspect) == b"1"
    assert waiting(broker, SUSPECTS) == 1


def test_a_process_that_is_asked_to_end_gives_back_what_it_has_not_begun_and_fetches_no_more(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada", "bob", "cyd")
    consumer = consume(broker, prefetch=3)
    begun, waits = next(consumer), next(consumer)
    assert begun is not None
    assert waits is not None

    broker.stop_fetching([waits])

    assert users_of(consumer) == []
    assert waiting(broker) == 2
    consumer.ack(begun)
    assert broker.client.hlen(f"{broker.namespace}:{QUEUE}.msgs") == 2


def test_who_is_about_to_end_does_not_wait_for_redis_to_acknowledge(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada")
    message = next(consume(broker))
    assert message is not None
    broker.client.set(f"{broker.namespace}:__heartbeats__", "in the way")
    consumer = consume(broker)
    broker.stop_fetching([])

    consumer.ack(message)

    with pytest.raises(dramatiq.ConnectionClosed):
        consumer.requeue([message])
    assert broker.client.hlen(f"{broker.namespace}:{QUEUE}.msgs") == 1


def test_no_message_is_delayed_by_the_broker(broker: Broker) -> None:
    @dramatiq.actor(broker=broker, actor_name="idle", queue_name=QUEUE)
    def _idle() -> None: ...

    with pytest.raises(ValueError, match="agenda"):
        _idle.send_with_options(delay=1000)

    assert broker.get_declared_delay_queues() == set()


def test_a_message_that_cannot_be_read_is_an_error_of_its_own() -> None:
    with pytest.raises(dramatiq.DecodeError):
        dramatiq.Message.decode(b'{"actor_name": "execute", "args": [[1, 2]]}')


def test_a_message_that_nobody_can_read_goes_to_the_dead_letters_and_the_next_is_served(
    broker: Broker, settings: Settings
) -> None:
    body = b'{"actor_name": "execute", "args": [["of", "tomorrow"]], "options": {"redis_message_id": "odd"}}'
    broker.client.hset(f"{broker.namespace}:{QUEUE}.msgs", "odd", body)
    broker.client.rpush(f"{broker.namespace}:{QUEUE}", "odd")
    enqueue(broker, settings, "ada")
    consumer = consume(broker)

    unreadable, readable = next(consumer), next(consumer)

    assert unreadable is None
    assert readable is not None
    assert readable.args[0].user_id == "ada"
    assert broker.client.hkeys(f"{broker.namespace}:{QUEUE}.XQ.msgs") == [b"odd"]


def test_a_job_that_nobody_can_read_goes_to_the_dead_letters_under_the_id_that_follows_from_it(
    broker: Broker, settings: Settings
) -> None:
    enqueue(broker, settings, "ada")
    message = DramatiqTransport(settings).job_message(make_envelope("ada"), Priority.NORMAL)
    of_tomorrow = message.body.removesuffix(b"]]}") + b',"more"]]}'
    broker.client.hset(f"{broker.namespace}:{QUEUE}.msgs", message.id, of_tomorrow)

    unreadable = next(consume(broker))

    assert unreadable is None
    assert broker.client.hkeys(f"{broker.namespace}:{QUEUE}.XQ.msgs") == [message.id.encode()]


def test_a_tick_that_cannot_be_sent_does_not_end_the_scheduler(tmp_path: Path, store: Store) -> None:
    with RedisServer(tmp_path, persist=False) as server:
        away = Broker(Settings(redis_url=server.url), [], store)
    for name in ("tick", "other"):
        dramatiq.actor(broker=away, actor_name=name, queue_name=QUEUE)(_idle)

    away.get_actor("tick").send()

    with pytest.raises(redis.ConnectionError):
        away.get_actor("other").send()


def _idle() -> None: ...
