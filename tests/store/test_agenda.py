"""What is due later comes once, in its order, and only if it is still wanted."""

from datetime import timedelta
from functools import partial

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tq.clock import MILLISECOND, to_ms
from tq.models import Priority, RunId, UserId, Verdict
from tq.redis_server import RedisServer
from tq.store import QueuedMessage, Store
from tq.store.agenda import BATCH, PutOff
from tq.store.ledger import Retry
from tq.store.preferences import Disable

from . import (
    DIGEST,
    HOUR,
    NOW,
    ListTransport,
    Sent,
    agenda_entries,
    another,
    at_once,
    claim,
    contents,
    distribute,
    enable,
    end_of,
    fresh_store,
    frozen,
    have_fetched,
    have_queued,
    jobs_sent,
    names,
    outbox,
    running,
    share_of,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def retries(store: Store, delays: list[timedelta]) -> dict[str, timedelta]:
    """Has one job for each delay wait for its retry; returns who waits how long."""
    distribute(store, running(store, names(len(delays))))
    jobs = jobs_sent(store)
    store.ledger.finish(
        [Retry(job, delay, 1, Priority.NORMAL) for job, delay in zip(jobs, delays, strict=True)]
    )
    return {job.user_id: delay for job, delay in zip(jobs, delays, strict=True)}


def retried(store: Store) -> list[str]:
    """Whose retries were put into the queue, in order."""
    return [job.user_id for job in jobs_sent(store) if job.attempt == 2]


# --- Retries ---------------------------------------------------------------------------------------


def test_a_retry_stays_until_its_millisecond_has_come(store: Store) -> None:
    retries(store, [MINUTE])

    frozen(store).advance(MINUTE - MILLISECOND)
    assert store.agenda.release_due() == 0
    assert store.agenda.size() == 1

    frozen(store).advance(MILLISECOND)
    assert store.agenda.release_due() == 1
    assert (store.agenda.size(), store.agenda.release_due()) == (0, 0)
    assert retried(store) == names(1)


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seconds=st.lists(st.integers(0, 100), max_size=12), passed=st.integers(0, 100))
def test_what_is_due_comes_in_the_order_of_its_time(
    redis_server: RedisServer, seconds: list[int], passed: int
) -> None:
    with fresh_store(redis_server.url) as store:
        waiting = retries(store, [second * SECOND for second in seconds])
        frozen(store).advance(passed * SECOND)

        released = store.agenda.release_due(limit=5)

        came = retried(store)
        assert released == len(came)
        assert set(came) == {user for user, delay in waiting.items() if delay <= passed * SECOND}
        assert [waiting[user] for user in came] == sorted(waiting[user] for user in came)


def test_a_crowd_of_releasers_releases_each_entry_once(store: Store) -> None:
    retries(store, [number * MILLISECOND for number in range(500)])
    frozen(store).advance(SECOND)

    released = at_once([partial(another(store).agenda.release_due, limit=20) for _ in range(8)])

    assert sum(released) == 500
    assert sorted(retried(store)) == names(500)
    assert store.agenda.size() == 0


def test_one_script_takes_no_more_than_it_may_and_the_earliest_first(store: Store) -> None:
    waiting = retries(store, [number * SECOND for number in range(10)])
    frozen(store).advance(MINUTE)

    assert store.connection.script("release", 4) == [4, 4, 6]

    assert retried(store) == sorted(waiting, key=lambda user: waiting[user])[:4]


def test_a_retry_whose_job_has_ended_vanishes_without_a_message(store: Store) -> None:
    retries(store, [MINUTE] * 3)
    store.preferences.apply([Disable(UserId("u00000"), DIGEST)])
    [ended] = [job for job in jobs_sent(store) if job.user_id == "u00001"]
    store.ledger.finish([end_of(ended.next_attempt(spent=1))])
    frozen(store).advance(MINUTE)

    assert store.agenda.release_due() == 1

    assert retried(store) == ["u00002"]
    assert agenda_entries(store) == {}
    assert store.connection.call("EXISTS", store.keys("agenda_messages")) == 0


# --- Jobs that were put off --------------------------------------------------------------------------


def fetched(store: Store, number: int = 1, *, holder: str = "") -> list[PutOff]:
    """So many jobs that a process has fetched and not begun, to come again after a minute."""
    distribute(store, running(store, names(number)))
    jobs = []
    for sent in outbox(store):
        message = QueuedMessage(sent.queue, sent.id, sent.body.encode())
        have_fetched(store, holder, message)
        jobs.append(PutOff(sent.envelope, message, MINUTE))
    return jobs


def test_a_job_that_was_put_off_comes_again_as_it_was_when_its_time_has_come(store: Store) -> None:
    [job] = fetched(store)
    [before] = outbox(store)

    assert store.agenda.put_off([job]) == 1

    frozen(store).advance(MINUTE - MILLISECOND)
    assert store.agenda.release_due() == 0
    frozen(store).advance(MILLISECOND)
    assert (store.agenda.release_due(), store.agenda.release_due()) == (1, 0)
    assert outbox(store) == [before, before]
    assert agenda_entries(store) == {}
    assert store.connection.call("EXISTS", store.keys("agenda_messages")) == 0


def test_a_job_that_was_put_off_spends_no_attempt_and_does_not_wait_for_a_retry(store: Store) -> None:
    [job] = fetched(store)
    before = store.runs.get(job.envelope.run_id)

    store.agenda.put_off([job])

    assert store.runs.get(job.envelope.run_id) == before
    assert store.ledger.begin([job.envelope])[0].verdict is Verdict.GO


def test_a_process_puts_off_only_what_it_still_holds(store: Store) -> None:
    [job] = fetched(store, holder="taken for dead")
    before = contents(store)

    assert store.agenda.put_off([job], holder="another") == 0
    assert contents(store) == before
    assert store.agenda.put_off([job, job], holder="taken for dead") == 1
    assert store.agenda.put_off([job], holder="taken for dead") == 0


def test_of_racing_processes_one_puts_a_job_off(store: Store) -> None:
    jobs = fetched(store, 50, holder="worker")

    put_off = at_once([partial(another(store).agenda.put_off, jobs, holder="worker") for _ in range(4)])

    assert sum(put_off) == 50
    frozen(store).advance(MINUTE)
    assert store.agenda.release_due() == 50


def test_more_jobs_than_one_script_may_take_are_put_off_in_several(store: Store) -> None:
    jobs = fetched(store, 2 * BATCH + 1)

    assert store.agenda.put_off(jobs) == 2 * BATCH + 1


def test_a_job_that_has_ended_or_has_a_later_attempt_is_not_put_off(store: Store) -> None:
    ended, superseded = fetched(store, 2)
    store.ledger.finish([end_of(ended.envelope), Retry(superseded.envelope, HOUR, 1, Priority.NORMAL)])

    assert store.agenda.put_off([ended, superseded]) == 0

    assert list(agenda_entries(store)) == [f"r|{superseded.envelope.run_id}|{superseded.envelope.user_id}"]


def test_a_job_that_ends_while_it_is_put_off_does_not_come_again(store: Store) -> None:
    ended, disabled, wanted = fetched(store, 3)
    store.agenda.put_off([ended, disabled, wanted])

    store.ledger.finish([end_of(ended.envelope)])
    store.preferences.apply([Disable(disabled.envelope.user_id, DIGEST)])

    assert list(agenda_entries(store)) == [f"p|{wanted.envelope.run_id}|{wanted.envelope.user_id}"]
    assert store.connection.call("HLEN", store.keys("agenda_messages")) == 1


# --- Distribution ------------------------------------------------------------------------------------

ASKED = RunId("email_digest~m1")
MESSAGE = ListTransport("").distribution_message(ASKED)


def to_be_distributed(store: Store) -> None:
    """A run whose distribution is due now."""
    enable(store, ["ada"])
    claim(store, share_of(), run_id=ASKED, distribute_in=timedelta(0))


def test_a_distribution_is_queued_and_watched_for_half_a_minute(store: Store) -> None:
    to_be_distributed(store)

    assert store.agenda.release_due() == 1
    assert outbox(store) == [Sent(MESSAGE.queue, MESSAGE.id, MESSAGE.body.decode())]
    assert agenda_entries(store) == {f"d|{ASKED}": to_ms(NOW) + 30_000}

    frozen(store).advance(30 * SECOND - MILLISECOND)
    assert store.agenda.release_due() == 0
    frozen(store).advance(MILLISECOND)
    assert store.agenda.release_due() == 1
    assert len(outbox(store)) == 2


def test_a_distribution_that_waits_in_its_queue_is_not_queued_twice(store: Store) -> None:
    to_be_distributed(store)
    have_queued(store, MESSAGE)

    assert store.agenda.release_due() == 0

    assert outbox(store) == []
    assert agenda_entries(store) == {f"d|{ASKED}": to_ms(NOW) + 1000}


def test_a_crowd_of_releasers_queues_a_distribution_once(store: Store) -> None:
    to_be_distributed(store)

    released = at_once([another(store).agenda.release_due for _ in range(8)])

    assert sum(released) == 1
    assert len(outbox(store)) == 1


def test_a_run_that_is_distributed_leaves_the_agenda(store: Store) -> None:
    to_be_distributed(store)

    distribute(store, ASKED)

    assert agenda_entries(store) == {}
    assert store.connection.call("EXISTS", store.keys("agenda_messages")) == 0


def test_a_run_is_distributed_at_the_earliest_instant_that_was_asked_for(store: Store) -> None:
    to_be_distributed(store)
    store.agenda.release_due()

    store.agenda.distribute_by(ASKED, NOW + 3 * SECOND)
    store.agenda.distribute_by(ASKED, NOW + 9 * SECOND)
    store.agenda.distribute_by(RunId("email_digest~gone"), NOW)

    assert agenda_entries(store) == {f"d|{ASKED}": to_ms(NOW + 3 * SECOND)}


def test_an_entry_without_a_message_goes_instead_of_coming_back_for_ever(store: Store) -> None:
    to_be_distributed(store)
    store.connection.call("DEL", store.keys("agenda_messages"))

    assert store.agenda.release_due() == 0

    assert agenda_entries(store) == {}


def test_what_is_not_due_is_left_as_it_is(store: Store) -> None:
    retries(store, [MINUTE])
    before = contents(store)

    store.agenda.release_due()

    assert contents(store) == before
