"""A job that may not run now leaves its queue for the agenda in one step: never lost, never doubled, whoever dies."""

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from datetime import timedelta
from itertools import count
from typing import ClassVar

import pytest
from dramatiq.broker import MessageProxy
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.broker import DEAD_AFTER_MS, Broker
from actors.consumer import Consumer
from actors.transport import DramatiqTransport
from tests.store import DIGEST, agenda_entries, distribute, end_of, frozen, names, running
from tests.waiting import eventually
from tq.errors import NotNow, StoreUnavailable
from tq.models import SUSPECTS, Priority, RunId, RunStatus, UserId, job_id_of
from tq.redis_server import RedisServer
from tq.settings import Settings
from tq.store import Store
from tq.store.agenda import Agenda
from tq.store.ledger import Retry
from tq.store.preferences import Disable
from tq.testing import FrozenClock

QUEUE = Priority.NORMAL.value
QUEUES = (QUEUE, SUSPECTS)
MINUTE = timedelta(minutes=1)


class SilentAgenda(Agenda):
    """An agenda whose answers do not arrive; what it was asked for is done, or not."""

    def __init__(self, store: Store, *, done: bool) -> None:
        super().__init__(store.connection)
        self._done = done

    def put_off(self, messages: object, *, holder: str = "") -> int:
        """Raises, in any case."""
        if self._done:
            super().put_off(messages, holder=holder)  # type: ignore[arg-type] # handed on as it came
        raise StoreUnavailable("away")


def open_broker(store: Store, settings: Settings, *, agenda: Agenda | None = None) -> Broker:
    own = copy(store)
    own.agenda = agenda or store.agenda
    made = Broker(settings, [], own)
    for name in QUEUES:
        made.declare_queue(name)
    made.recover()
    return made


@pytest.fixture
def broker(store: Store, settings: Settings) -> Iterator[Broker]:
    """A process that fetches from one queue."""
    made = open_broker(store, settings)
    yield made
    made.client.close()


def send(store: Store, number: int) -> RunId:
    """Puts so many jobs into the queue."""
    run_id = running(store, names(number))
    distribute(store, run_id)
    return run_id


def consume(broker: Broker, *, queue: str = QUEUE, prefetch: int = 100) -> Consumer:
    return broker.consume(queue, prefetch=prefetch, timeout=1)


def fetch(consumer: Consumer) -> list[MessageProxy]:
    """Everything that the consumer hands out now."""
    found = []
    while (message := next(consumer)) is not None:
        found.append(message)
    return found


def fetch_one(consumer: Consumer) -> MessageProxy:
    message = next(consumer)
    assert message is not None
    return message


def begin(broker: Broker, store: Store, message: MessageProxy) -> None:
    """The broker's process begins the message's job."""
    message.args[0].holder, message.args[0].queue = broker.broker_id, message.queue_name
    store.ledger.begin([message.args[0]])


def places(broker: Broker, store: Store) -> Counter[tuple[str, str]]:
    """Where each message is: its id, and its queue, the process that has fetched it, or `agenda`."""
    redis, prefix = store.connection.call, f"{broker.namespace}:"
    found = Counter((id_, queue) for queue in QUEUES for id_ in redis("LRANGE", f"{prefix}{queue}", 0, -1))
    for key in redis("KEYS", f"{prefix}__acks__.*"):
        holder = key.removeprefix(f"{prefix}__acks__.").rpartition(".")[0]
        found.update((id_, holder) for id_ in redis("SMEMBERS", key))
    bodies = [id_ for queue in QUEUES for id_ in redis("HKEYS", f"{prefix}{queue}.msgs")]
    assert sorted(bodies) == sorted({id_ for id_, _ in found})
    for entry, message in redis("HGETALL", store.keys("agenda_messages")).items():
        if not entry.startswith("d|"):
            found[message.split("\n")[1], "agenda"] += 1
    return found


def where(broker: Broker, store: Store) -> list[str]:
    """Where all messages are."""
    return sorted(place for (_, place), times in places(broker, store).items() for _ in range(times))


def test_a_job_that_is_put_off_is_on_the_agenda_alone_and_comes_again_with_the_same_body(
    broker: Broker, store: Store
) -> None:
    send(store, 1)
    [before] = broker.client.hgetall(f"{broker.namespace}:{QUEUE}.msgs").items()
    consumer = consume(broker)

    broker.put_off([(fetch_one(consumer), MINUTE)])

    assert where(broker, store) == ["agenda"]
    frozen(store).advance(MINUTE)
    assert store.agenda.release_due() == 1
    assert [*broker.client.hgetall(f"{broker.namespace}:{QUEUE}.msgs").items()] == [before]
    assert fetch_one(consumer).args[0].attempt == 1


def test_what_is_put_off_makes_room_for_others_to_be_fetched(broker: Broker, store: Store) -> None:
    send(store, 4)
    consumer = consume(broker, prefetch=2)
    first, second = fetch(consumer)

    broker.put_off([(first, MINUTE), (second, MINUTE)])

    assert len(fetch(consumer)) == 2
    assert consumer.outstanding_message_count == 2


def raised(message: MessageProxy) -> None:
    message.stuff_exception(NotNow(MINUTE))


def marked(message: MessageProxy) -> None:
    message.put_off_for = MINUTE  # type: ignore[attr-defined] # as middleware does that skips it


@pytest.mark.parametrize("not_now", [raised, marked])
def test_a_job_whose_work_found_no_slot_is_put_off_instead_of_acknowledged(
    broker: Broker, store: Store, not_now: Callable[[MessageProxy], None]
) -> None:
    send(store, 1)
    consumer = consume(broker)
    message = fetch_one(consumer)
    not_now(message)

    consumer.ack(message)

    assert where(broker, store) == ["agenda"]
    assert consumer.outstanding_message_count == 0


def test_a_message_that_was_recovered_meanwhile_stays_where_it_is(
    broker: Broker, store: Store, settings: Settings
) -> None:
    send(store, 2)
    messages = fetch(consume(broker))
    begin(broker, store, messages[0])
    other = open_broker(store, settings)
    broker.client.zincrby(f"{broker.namespace}:alive", -DEAD_AFTER_MS - 1000, broker.broker_id)
    other.recover()
    fetch_one(consume(other, prefetch=1))

    broker.put_off([(message, MINUTE) for message in messages])

    assert where(broker, store) == sorted([other.broker_id, SUSPECTS])


def test_what_could_not_be_put_off_goes_back_to_its_queue(
    broker: Broker, store: Store, settings: Settings
) -> None:
    send(store, 2)
    cut_off = open_broker(store, settings, agenda=SilentAgenda(store, done=False))
    consumer = consume(cut_off, prefetch=1)
    message = fetch_one(consumer)

    cut_off.put_off([(message, MINUTE)])

    other = fetch_one(consumer)
    assert other.message_id != message.message_id
    assert where(broker, store) == sorted([cut_off.broker_id, QUEUE])


def test_what_was_put_off_by_a_command_whose_answer_never_came_is_not_doubled(
    broker: Broker, store: Store, settings: Settings
) -> None:
    send(store, 1)
    cut_off = open_broker(store, settings, agenda=SilentAgenda(store, done=True))
    consumer = consume(cut_off)

    cut_off.put_off([(fetch_one(consumer), MINUTE)])

    assert next(consumer) is None
    assert where(broker, store) == ["agenda"]


def test_what_could_not_be_put_off_goes_back_even_if_a_consumer_takes_over_at_that_moment(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(store, 1)
    cut_off = open_broker(store, settings, agenda=SilentAgenda(store, done=False))
    first = consume(cut_off)
    message = fetch_one(first)
    successors = []

    def take_over_and_let_go(message: MessageProxy) -> None:
        successors.append(consume(cut_off))
        assert next(successors[0]) is None
        Consumer.let_go(first, message)

    monkeypatch.setattr(first, "let_go", take_over_and_let_go)

    cut_off.put_off([(message, MINUTE)])

    assert fetch_one(successors[0]).message_id == message.message_id


def test_a_batch_is_put_off_each_message_after_its_own_delay(broker: Broker, store: Store) -> None:
    run_id = send(store, 3)
    messages = fetch(consume(broker))
    delays = {message.args[0].user_id: MINUTE * number for number, message in enumerate(messages, start=1)}

    broker.put_off([(message, delays[message.args[0].user_id]) for message in messages])

    now = frozen(store).override_ms
    assert {entry: ms - now for entry, ms in agenda_entries(store).items()} == {
        f"p|{run_id}|{user}": delay / timedelta(milliseconds=1) for user, delay in delays.items()
    }


def test_jobs_that_are_put_off_by_many_threads_at_once_all_end_once(store: Store, settings: Settings) -> None:
    jobs = 200
    run_id = send(store, jobs)
    live = Store(settings, DramatiqTransport(settings))
    processes = [open_broker(live, settings) for _ in range(2)]
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()
    stopping = threading.Event()

    def work(process: Broker, seed: int) -> None:
        chance = random.Random(seed)
        consumer = consume(process, prefetch=10)
        held: queue.SimpleQueue[MessageProxy] = queue.SimpleQueue()

        def give_back() -> None:
            while not stopping.is_set():
                try:
                    message = held.get(timeout=0.01)
                except queue.Empty:
                    continue
                process.put_off([(message, timedelta(milliseconds=chance.randrange(5)))])

        putter = threading.Thread(target=give_back)
        putter.start()
        while not stopping.is_set():
            message = next(consumer)
            if message is None:
                continue
            if chance.random() < 0.6:
                held.put(message)
            else:
                ended.put(live.ledger.finish([end_of(message.args[0])])[0])
                consumer.ack(message)
        putter.join()

    def release() -> None:
        while not stopping.is_set():
            live.agenda.release_due()

    threads = [threading.Thread(target=work, args=(process, n)) for n, process in enumerate(processes)]
    threads.append(threading.Thread(target=release))
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: live.runs.get(run_id).status is RunStatus.ENDED)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()

    assert [ended.get() for _ in range(ended.qsize())] == [True] * jobs
    assert where(processes[0], live) == []
    live.close()


# --- Any order of anything -----------------------------------------------------------------------------


class Fetching(RuleBasedStateMachine):
    """Processes that fetch, put off, end, die and are taken for dead, beside the rule that no message is lost."""

    url: ClassVar[str]
    namespaces = count(1)

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.settings = Settings(redis_url=self.url, namespace=f"fetching.{next(self.namespaces)}")
        transport = DramatiqTransport(self.settings)
        self.store = Store(self.settings, transport, clock=FrozenClock("2026-11-24T09:45"))
        self._open.callback(self.store.close)
        self.processes = [self._start() for _ in range(2)]

    def _start(self) -> tuple[Broker, dict[str, Consumer], list[MessageProxy]]:
        broker = open_broker(self.store, self.settings)
        self._open.callback(broker.client.close)
        return broker, {queue: consume(broker, queue=queue, prefetch=3) for queue in QUEUES}, []

    def teardown(self) -> None:
        self._open.close()

    @initialize()
    def send(self) -> None:
        self.run_id = send(self.store, 5)

    @rule(number=st.integers(0, 1), queue=st.sampled_from(QUEUES))
    def fetch(self, number: int, queue: str) -> None:
        _, consumers, hand = self.processes[number]
        message = next(consumers[queue])
        if message is not None:
            hand.append(message)

    def _drawn(self, number: int, data: st.DataObject) -> MessageProxy | None:
        hand = self.processes[number][2]
        return hand.pop(data.draw(st.integers(0, len(hand) - 1))) if hand else None

    @rule(number=st.integers(0, 1), data=st.data())
    def begin(self, number: int, data: st.DataObject) -> None:
        broker, _, hand = self.processes[number]
        if hand:
            begin(broker, self.store, data.draw(st.sampled_from(hand)))

    @rule(number=st.integers(0, 1), data=st.data(), seconds=st.integers(0, 30), repeated=st.booleans())
    def put_off(self, number: int, data: st.DataObject, seconds: int, repeated: bool) -> None:
        message = self._drawn(number, data)
        if message is not None:
            self.processes[number][0].put_off([(message, timedelta(seconds=seconds))] * (1 + repeated))

    @rule(number=st.integers(0, 1), data=st.data(), again=st.booleans(), dies=st.booleans())
    def work(self, number: int, data: st.DataObject, again: bool, dies: bool) -> None:
        message = self._drawn(number, data)
        if message is None:
            return
        job = message.args[0]
        ending = Retry(job, MINUTE / 4, job.spent + 1, Priority.NORMAL) if again else end_of(job)
        self.store.ledger.finish([ending])
        if dies:
            self.die(number)
        else:
            self.processes[number][1][message.queue_name].ack(message)

    @rule(number=st.integers(0, 1))
    def die(self, number: int) -> None:
        self._declare_dead(number)
        self.processes[number] = self._start()

    @rule(number=st.integers(0, 1))
    def be_taken_for_dead(self, number: int) -> None:
        self._declare_dead(number)

    def _declare_dead(self, number: int) -> None:
        broker, other = self.processes[number][0], self.processes[1 - number][0]
        broker.client.zadd(f"{broker.namespace}:alive", {broker.broker_id: 0})
        other.recover()
        broker.recover()

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        frozen(self.store).advance(timedelta(seconds=seconds))
        self.store.agenda.release_due()
        self.store.agenda.release_due()

    @rule(number=st.integers(0, 4))
    def switch_off(self, number: int) -> None:
        self.store.preferences.apply([Disable(UserId(names(5)[number]), DIGEST)])

    @precondition(lambda self: hasattr(self, "run_id"))
    @invariant()
    def every_open_job_has_one_message_and_no_message_is_in_two_places(self) -> None:
        found = places(self.processes[0][0], self.store)
        per_message = Counter(id_ for id_, _ in found.elements())
        assert set(per_message.values()) <= {1}
        for user, state in self.store.connection.call(
            "HGETALL", self.store.keys("open", self.run_id)
        ).items():
            attempt = state.partition("|")[0]
            assert per_message[f"{job_id_of(self.run_id, UserId(user))}-{attempt}"] == 1


def test_every_open_job_has_one_message_whoever_puts_it_off_or_dies(redis_server: RedisServer) -> None:
    class FetchingHere(Fetching):
        url = redis_server.url

    run_state_machine_as_test(
        FetchingHere,
        settings=hypothesis_settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
