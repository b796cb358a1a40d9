"""Who lives, as processes show themselves; and what stands in our keys, as whoever looks sees it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tq.clock import to_ms
from tq.models import JobStatus, RunId
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.heartbeats import REMEMBERED, SCHEDULER, WORKER, Presence
from tq.store.vitals import Queue, StrikingRun

from . import (
    HOUR,
    NOW,
    another,
    distribute,
    end_of,
    frozen,
    jobs_sent,
    keys_of,
    open_store,
    running,
)

SECOND = timedelta(seconds=1)


class FastClock:
    """The clock of a machine that is ten seconds ahead of Redis."""

    override_ms = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + 10 * SECOND


@pytest.fixture
def fast_store(redis_server: RedisServer) -> Iterator[Store]:
    """A store on a machine whose clock is wrong."""
    store = open_store(redis_server.url, clock=FastClock())
    yield store
    store.close()


def have_sent(store: Store, queue: str, *ids: str) -> None:
    """Has messages wait in a queue."""
    store.connection.call("RPUSH", outbox_of(store), *(f"{queue}|{message}|" for message in ids))


def take_first(store: Store) -> None:
    """Takes the message that has waited longest."""
    store.connection.call("LPOP", outbox_of(store))


def outbox_of(store: Store) -> str:
    return f"{store.keys.prefix[:-1]}.outbox"


# --- Processes ---------------------------------------------------------------------------------------


def test_a_process_tells_who_it_is_and_since_when(store: Store) -> None:
    presence = Presence(store.heartbeats, WORKER)
    presence.show()
    frozen(store).advance(3 * SECOND)

    presence.show()

    [seen] = store.vitals.signs().processes
    assert (seen.component, str(seen)) == (WORKER, f"worker {seen.pid} on {seen.host}")
    assert seen.seen_at == NOW + 3 * SECOND
    # The process is as old as its stopwatch says, however the frozen clock was moved.
    assert timedelta(0) <= seen.seen_at - seen.since < SECOND * 60
    assert seen.version


def test_how_far_a_clock_is_off_is_known_from_the_first_beat_on(fast_store: Store) -> None:
    Presence(fast_store.heartbeats, WORKER).show()

    here = fast_store.heartbeats.compare_clocks()

    [seen] = fast_store.vitals.signs().processes
    for skew in (seen.skew, here.skew):
        assert skew is not None
        # Far from both 0 and 20: what a busy machine adds to the way there and back is halved.
        assert 5 * SECOND < skew < 15 * SECOND


def test_every_process_is_seen_and_one_that_ends_in_good_order_is_no_more(store: Store) -> None:
    staying, leaving = Presence(store.heartbeats, SCHEDULER), Presence(another(store).heartbeats, WORKER)
    staying.show()
    leaving.show()

    before = {process.component for process in store.vitals.signs().processes}
    leaving.end()

    assert before == {SCHEDULER, WORKER}
    assert [process.component for process in store.vitals.signs().processes] == [SCHEDULER]


def test_who_falls_silent_is_remembered_for_an_hour(store: Store) -> None:
    Presence(store.heartbeats, WORKER).show()
    living = Presence(store.heartbeats, SCHEDULER)

    frozen(store).advance(REMEMBERED - timedelta(milliseconds=1))
    living.show()
    remembered = len(store.vitals.signs().processes)
    frozen(store).advance(timedelta(milliseconds=1))
    living.show()

    assert remembered == 2
    assert [process.component for process in store.vitals.signs().processes] == [SCHEDULER]
    assert store.connection.call("HLEN", store.keys("processes")) == 1


def test_a_beat_is_one_command(store: Store) -> None:
    presence = Presence(store.heartbeats, WORKER)
    presence.show()
    before = store.connection.round_trips

    presence.show()

    assert store.connection.round_trips - before == 1


# --- Queues ------------------------------------------------------------------------------------------


def test_how_long_a_queue_stands_is_counted_while_its_first_message_stays_the_first(store: Store) -> None:
    presence = Presence(store.heartbeats, WORKER)
    have_sent(store, "normal", "first", "second")
    presence.show()
    frozen(store).advance(HOUR)
    presence.show()

    standing = store.vitals.signs().queues[1]
    take_first(store)
    moved = store.vitals.signs().queues[1]
    presence.show()
    noted = store.vitals.signs().queues[1]

    assert standing == Queue("normal", 2, NOW, 0)
    assert moved == replace(standing, waiting=1, first_since=None)
    assert noted == replace(standing, waiting=1, first_since=NOW + HOUR)


def test_a_queue_that_runs_empty_is_forgotten(store: Store) -> None:
    presence = Presence(store.heartbeats, WORKER)
    have_sent(store, "normal", "only")
    presence.show()

    take_first(store)
    presence.show()
    frozen(store).advance(HOUR)
    have_sent(store, "normal", "only")
    presence.show()

    assert store.vitals.signs().queues == (
        Queue("control", 0, None, 0),
        Queue("normal", 1, NOW + HOUR, 0),
    )


# --- Agenda and runs ---------------------------------------------------------------------------------


def test_the_agenda_tells_since_when_its_first_entry_is_due_and_how_many_are(store: Store) -> None:
    empty = store.vitals.signs()
    frozen(store).advance(HOUR)
    store.connection.call(
        "ZADD",
        store.keys("agenda"),
        to_ms(NOW),
        "r|a",
        to_ms(NOW + HOUR),
        "r|b",
        to_ms(NOW + 2 * HOUR),
        "r|c",
    )

    signs = store.vitals.signs()

    assert (empty.agenda_since, empty.overdue, empty.agenda_size) == (None, 0, 0)
    assert (signs.agenda_since, signs.overdue, signs.agenda_size) == (NOW, 2, 3)


def test_a_run_that_goes_well_does_not_strike(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    under_way = store.vitals.signs()

    store.ledger.finish([end_of(job) for job in jobs_sent(store)])
    frozen(store).advance(24 * HOUR)

    assert (under_way.running, under_way.striking) == (1, ())
    assert (store.vitals.signs().running, store.vitals.signs().striking) == (0, ())


def test_a_run_past_its_deadline_strikes_and_still_adds_up(store: Store) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    store.ledger.finish([end_of(jobs_sent(store)[0], JobStatus.FAILED)])
    run = store.runs.get(run_id)
    frozen(store).move_to(run.deadline_at + SECOND)

    [striking] = store.vitals.signs().striking

    assert striking == StrikingRun(run_id, run.deadline_at, True, expected=2, ended=1, open=1)
    assert striking.unaccounted == 0


@pytest.mark.parametrize("ends", [False, True], ids=["under way", "ended"])
def test_a_job_that_vanishes_from_the_open_set_is_unaccounted(store: Store, ends: bool) -> None:
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    ada, bob = jobs_sent(store)

    store.connection.call("HDEL", store.keys("open", run_id), ada.user_id)
    if ends:
        store.ledger.finish([end_of(bob)])

    [striking] = store.vitals.signs().striking
    assert (striking.id, striking.is_running, striking.unaccounted) == (run_id, not ends, 1)


def test_what_was_mended_is_counted(store: Store) -> None:
    run_id = running(store, ["ada"])
    store.connection.call("ZREM", store.keys("agenda"), f"d|{run_id}")

    store.mending.follow(RunId(run_id))

    assert store.vitals.signs().mended == {"distributions": 1}


def test_looking_changes_nothing_and_is_one_command(store: Store) -> None:
    running(store, ["ada"])
    keys, before = keys_of(store), store.connection.round_trips

    store.vitals.signs()

    assert store.connection.round_trips - before == 1
    assert keys_of(store) == keys
