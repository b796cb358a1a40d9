"""What is counted for all time, and what processes have seen."""

from datetime import timedelta

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.ledgers import counted, summed
from tq.models import JobStatus, Priority, RunId, RunKind, TaskId, UserId
from tq.models.runs import NAMED
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.ledger import Retry
from tq.store.planning import Move
from tq.store.totals import OfTask

from . import (
    DIGEST,
    HOUR,
    UTC_NINE,
    another,
    claim,
    distribute,
    enable,
    end_of,
    fresh_store,
    frozen,
    jobs_sent,
    publish,
    running,
    share_of,
)

OTHER = TaskId("other")


def test_totals_are_what_the_ledgers_of_all_runs_of_a_task_and_kind_have_counted(store: Store) -> None:
    run_id = running(store, ["ada", "bob", "cyd"])
    distribute(store, run_id)
    ada, bob, cyd = jobs_sent(store)
    store.ledger.finish([end_of(ada), Retry(bob, HOUR, 1, Priority.NORMAL), end_of(cyd, JobStatus.FAILED)])
    asked = RunId("email_digest~m1")
    store.planning.ask_for(asked, DIGEST, [UserId("ada")], keep=HOUR)
    claim(store, share_of(NAMED), run_id=asked, kind=RunKind.MANUAL)
    distribute(store, asked)

    totals = store.totals.read([DIGEST]).totals

    assert counted(totals) == summed(store.runs.latest())
    assert counted(totals) == {
        "email_digest|schedule|runs": 1,
        "email_digest|schedule|expected": 3,
        "email_digest|schedule|success": 1,
        "email_digest|schedule|failed": 1,
        "email_digest|schedule|retries": 1,
        "email_digest|manual|runs": 1,
        "email_digest|manual|expected": 1,
    }


def test_an_end_that_is_told_twice_counts_once(store: Store) -> None:
    run_id = running(store, ["ada"])
    distribute(store, run_id)
    [ada] = jobs_sent(store)

    store.ledger.finish([end_of(ada)])
    another(store).ledger.finish([end_of(ada), end_of(ada, JobStatus.FAILED)])

    assert counted(store.totals.read([]).totals)["email_digest|schedule|success"] == 1
    assert "email_digest|schedule|failed" not in counted(store.totals.read([]).totals)


def test_a_run_that_is_skipped_as_a_whole_counts_with_its_reason(store: Store) -> None:
    enable(store, ["ada", "bob"])

    claim(store, share_of(skip="overlap"))

    totals = counted(store.totals.read([]).totals)
    assert totals["email_digest|schedule|skipped"] == totals["email_digest|schedule|skipped:overlap"] == 2
    assert totals == summed(store.runs.latest())


def test_of_each_task_it_is_told_what_there_is_now(store: Store) -> None:
    publish(store, 1, UTC_NINE)
    run_id = running(store, ["ada", "bob"])
    distribute(store, run_id)
    ada, _ = jobs_sent(store)
    store.ledger.finish([end_of(ada, JobStatus.FAILED)])
    frozen(store).advance(timedelta(days=1))
    [due, *_] = [due for due in store.planning.look().due if due.task_id == DIGEST]
    store.planning.move_on([Move(due, store.clock.now() + HOUR, 3)])

    tasks = store.totals.read([DIGEST, OTHER]).tasks

    assert tasks == {DIGEST: OfTask(failures=1, open=1, missed=3), OTHER: OfTask()}


def test_open_jobs_of_a_task_that_is_declared_no_more_are_told_too(store: Store) -> None:
    distribute(store, running(store, ["ada"]))

    assert store.totals.read([OTHER]).tasks == {OTHER: OfTask(), DIGEST: OfTask(open=1)}


numbers = st.lists(st.integers(0, 10**9) | st.floats(0, 1e9), min_size=1, max_size=4)
series = st.dictionaries(st.sampled_from(["a|x", "a|y", "b"]), numbers, max_size=3)
tasks = st.dictionaries(st.sampled_from(["email_digest", "other", ""]), series, max_size=3)


@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(told=st.lists(tasks, max_size=4))
def test_what_processes_have_seen_is_added_number_by_number(
    redis_server: RedisServer, told: list[dict[str, dict[str, list[float]]]]
) -> None:
    with fresh_store(redis_server.url) as store:
        expected: dict[tuple[str, str], list[float]] = {}
        for one in told:
            store.totals.add(one)
            for task, of_task in one.items():
                for name, values in of_task.items():
                    sums = expected.setdefault((task, name), [])
                    sums += [0.0] * (len(values) - len(sums))
                    for place, value in enumerate(values):
                        sums[place] += value

        seen = {
            (task, name): values
            for task, of_task in store.totals.read([]).seen.items()
            for name, values in of_task.items()
        }

        assert seen.keys() == expected.keys()
        for place_of, values in expected.items():
            assert len(seen[place_of]) == len(values)
            assert all(abs(a - b) <= 1e-9 * max(1, b) for a, b in zip(seen[place_of], values, strict=True))


def test_counts_of_what_processes_have_seen_are_whole_however_large(store: Store) -> None:
    store.totals.add({DIGEST: {"attempts|2xx|done": [99_999_999_999_998]}})
    store.totals.add({DIGEST: {"attempts|2xx|done": [1]}})

    assert store.totals.read([]).seen == {DIGEST: {"attempts|2xx|done": [99_999_999_999_999]}}
