"""Redis in each bad state there is: what it does not take now is refused whole, with a remedy, and goes on
by itself as soon as the state ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from tests.bad_days import (
    State,
    administrator,
    busy,
    full,
    loading,
    read_only,
    unable_to_persist,
    without_its_primary,
    without_replicas,
)
from tests.chaos.proxy import Proxies
from tests.ports import free_port
from tests.waiting import eventually
from tq.errors import StoreRefused, StoreUnavailable
from tq.limits import KINDS, Limit
from tq.models import JobStatus, Priority, RunId, RunKind, Strategy, UserId, scheduled_run_id
from tq.models.runs import Wait
from tq.redis_server import RedisServer
from tq.store import Store
from tq.store.heartbeats import WORKER, Presence
from tq.store.keys import DATA_VERSION
from tq.store.ledger import Retry
from tq.store.limits import Ask, Request
from tq.store.planning import Move
from tq.store.preferences import Disable, Relocate

from . import (
    DIGEST,
    HOUR,
    NINE,
    UTC_NINE,
    UTC_TEN,
    ListTransport,
    another,
    claim,
    distribute,
    enable,
    end_of,
    frozen,
    have_fetched,
    jobs_sent,
    keys_of,
    open_store,
    publish,
    running,
    share_of,
)

PASSWORD = "s3cr3t/of:mine"
Work = dict[str, Callable[[], object]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that is put into each state, and back."""
    folder = tmp_path_factory.mktemp("redis")
    extra = ("--enable-debug-command", "local")
    with RedisServer(folder, persist=False, password=PASSWORD, extra=extra) as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """What changes its state."""
    with administrator(server.url) as client:
        yield client


def port_of(server: RedisServer) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def all_of(store: Store) -> dict[str, object]:
    """Everything that the namespace holds, in no matter which order Redis has it in memory."""
    client = store.connection.client
    found: dict[str, object] = {}
    for key in map(str, client.scan_iter(match=f"{store.keys.prefix[:-1]}[.:]*", count=1000)):
        match client.type(key):
            case "set":
                found[key] = client.execute_command("SMEMBERS", key)
            case "hash":
                found[key] = client.execute_command("HGETALL", key)
            case _:
                found[key] = client.dump(key)
        found[f"end of {key}"] = client.pexpiretime(key)
    return found


def says(error: BaseException, *parts: str) -> bool:
    """Whether the message is one line with these parts, names the address, and keeps password and users to itself."""
    message = str(error)
    hidden = ("\n", "s3cr3t", "ada", "@user_script")
    return all(part in message for part in ("Redis at redis://", *parts)) and not any(
        part in message for part in hidden
    )


# --- States that pass ------------------------------------------------------------------------------------


def work_of(store: Store) -> Work:
    """Something to be written for each of the store's concerns, none of it done yet."""
    publish(store, 1, UTC_NINE)
    enable(store, ["eve", "fay", "gus"])
    run_id = running(store, ["ada", "bob", "cyd", "dan"])
    distribute(store, run_id)
    jobs = {job.user_id: job for job in jobs_sent(store)}
    for user in ("ada", "cyd", "dan"):
        job = jobs[UserId(user)]
        job.holder, job.queue = "worker:1", Priority.NORMAL.value
        have_fetched(store, job.holder, ListTransport("").job_message(job, Priority.NORMAL))
    store.ledger.finish([Retry(jobs[UserId("dan")], timedelta(0), 1, Priority.NORMAL)])
    asked = RunId("email_digest~m1")
    claim(store, share_of(), run_id=asked, kind=RunKind.MANUAL)
    frozen(store).advance(timedelta(milliseconds=1))
    [due] = store.planning.look().due
    limit = Limit(Strategy.ADAPTIVE, floor=1, base=5, ceiling=10, concurrency=2)
    request = Request(
        "worker:1",
        limit,
        slots=1,
        tasks=[Ask(DIGEST, limit, slots=1, weight=4, waiting=1, in_use=0, counts=[1] * len(KINDS))],
    )
    change = store.preferences.apply
    return {
        "enable": lambda: enable(store, ["new"], parameters={"a": 1}),
        "relocate": lambda: change([Relocate(UserId("eve"), "Asia/Tokyo")]),
        "tick": store.planning.look,
        "move on": lambda: store.planning.move_on([Move(due, store.clock.now() + HOUR)]),
        "claim": lambda: claim(store, share_of(), run_id=RunId("email_digest~m2"), kind=RunKind.MANUAL),
        "ask for": lambda: store.planning.ask_for(RunId("r"), DIGEST, [UserId("ada")], keep=HOUR),
        "distribute": lambda: distribute(store, asked),
        "note a wait": lambda: store.ledger.note_wait(asked, Wait.ROOM),
        # Whenever it was asked for.
        "begin": lambda: [given[:3] for given in store.ledger.begin([jobs[UserId("ada")]])],
        "retry, unnoted": lambda: store.ledger.finish([Retry(jobs[UserId("eve")], HOUR, 1, Priority.NORMAL)]),
        "order a rate": lambda: store.orders.set_rate(DIGEST, 50),
        "pause": lambda: store.orders.pause(DIGEST),
        "exchange": lambda: store.limits.exchange(request),
        "mend": lambda: store.mending.is_mine("worker:1", lasts=HOUR),
        "show": lambda: bool(Presence(store.heartbeats, WORKER).show()),
        "cancel": lambda: store.runs.cancel(asked, reason="enough"),
        # What begins by taking something away, or giving it an end, is done even by a Redis that is full.
        "publish": lambda: publish(store, 2, UTC_TEN),
        "end": lambda: store.ledger.finish([end_of(jobs[UserId("ada")], JobStatus.FAILED)]),
        "retry": lambda: store.ledger.finish([Retry(jobs[UserId("cyd")], HOUR, 1, Priority.NORMAL)]),
        "release": store.agenda.release_due,
        "disable": lambda: change([Disable(UserId("fay"), DIGEST, "tired")]),
        "forget": lambda: store.preferences.forget(UserId("gus")),
    }


DONE_WHEN_FULL = {"publish", "end", "retry", "release", "disable", "forget"}


@dataclass(frozen=True)
class Passing:
    """A state that passes: what is said of it, what is done all the same, and whether it tells what it has."""

    begin: State
    told: str
    done: frozenset[str] = frozenset()
    tells: bool = True


PASSING = [
    Passing(full, "is full (maxmemory) and takes nothing new; raise", done=frozenset(DONE_WHEN_FULL)),
    Passing(read_only, "is a read-only replica; promote it, or set TQ_REDIS_URL"),
    Passing(without_its_primary, "set TQ_REDIS_URL to", tells=False),
    Passing(unable_to_persist, "is unable to persist to disk and takes nothing new; see its log"),
    Passing(without_replicas, "has fewer replicas in reach than min-replicas-to-write"),
    Passing(loading, "is still loading its data; try again in a moment", tells=False),
    Passing(busy, "is busy with a slow script; wait for its end, or see SCRIPT KILL", tells=False),
]


@pytest.mark.parametrize("state", PASSING, ids=[state.begin.__name__ for state in PASSING])
def test_what_a_passing_state_refuses_changes_nothing_and_is_done_afterwards(
    admin: redis.Redis, own_store: Store, state: Passing
) -> None:
    work = work_of(own_store)
    before = all_of(own_store)
    refusals: dict[str, StoreUnavailable] = {}

    with state.begin(admin):
        for name in work.keys() - state.done:
            with pytest.raises(StoreUnavailable) as caught:
                work[name]()
            refusals[name] = caught.value
        told = own_store.preferences.get(UserId("ada")) if state.tells else None

    assert [name for name, error in refusals.items() if not says(error, state.told)] == []
    assert all_of(own_store) == before
    assert told is None or told.tasks[DIGEST].enabled
    calm = open_store(own_store.connection.url)
    assert [do() for do in work.values()] == [do() for do in work_of(calm).values()]
    calm.close()


def test_a_redis_that_is_full_takes_in_what_has_ended_and_lets_go(
    admin: redis.Redis, own_store: Store
) -> None:
    work = work_of(own_store)

    with full(admin):
        done = {name: work[name]() for name in DONE_WHEN_FULL}

    counts = own_store.runs.get(scheduled_run_id(DIGEST, NINE)).counts
    assert done == {
        "publish": True,
        "end": [True],
        "retry": [True],
        "release": 1,
        "disable": 1,
        "forget": True,
    }
    assert (counts.failed, counts.waiting, counts.skipped, counts.unaccounted) == (1, 1, 2, 0)


def test_the_time_of_the_state_is_over_for_who_has_just_come_too(
    admin: redis.Redis, own_store: Store
) -> None:
    work_of(own_store)
    newcomer = another(own_store)

    with read_only(admin):
        users = newcomer.preferences.count(DIGEST)
        with pytest.raises(StoreUnavailable):
            enable(newcomer, ["new"])
    enable(newcomer, ["new"])

    assert newcomer.preferences.count(DIGEST) == users + 1
    newcomer.close()


def test_who_has_become_a_replica_is_left_for_whoever_its_name_leads_to_now(
    tmp_path: Path, server: RedisServer, admin: redis.Redis
) -> None:
    with (
        RedisServer(tmp_path / "heir", persist=False, password=PASSWORD) as heir,
        Proxies() as proxies,
    ):
        name = proxies.open(port_of(server))
        store = open_store(server.url.replace(str(port_of(server)), str(name.port)))
        enable(store, ["ada"])

        with read_only(admin):
            name.upstream_port = port_of(heir)
            enable(store, ["bob"])
            users = list(store.preferences.members(DIGEST))

        assert users == ["bob"]
        store.close()


# --- States that last ------------------------------------------------------------------------------------


def test_a_database_that_there_is_not_is_refused_with_the_setting_to_look_at(server: RedisServer) -> None:
    store = open_store(server.url.removesuffix("/0") + "/99")

    with pytest.raises(StoreRefused) as caught:
        enable(store, ["ada"])

    assert says(caught.value, "/99 has no database of that number; end TQ_REDIS_URL with a lower one")
    store.close()


def test_a_node_of_a_cluster_is_left_alone_even_if_it_has_all_keys(tmp_path: Path) -> None:
    extra = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with RedisServer(tmp_path, persist=False, extra=extra) as node, administrator(node.url) as client:
        store = open_store(node.url)

        without_keys = refusal_of(lambda: enable(store, ["ada"]))
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
        with_all = refusal_of(lambda: enable(store, ["ada"]))

        told = "is a node of a cluster; TaskQueue needs all keys in one place: set TQ_REDIS_URL"
        assert says(without_keys, told)
        assert says(with_all, told)
        assert client.dbsize() == 0
        store.close()


def test_a_user_who_may_not_do_what_is_needed_is_told(server: RedisServer, admin: redis.Redis) -> None:
    allow(admin, "~other:*", "+@all")
    store = open_store(f"redis://tenant:s3cr3t@127.0.0.1:{port_of(server)}/0")

    without_keys = refusal_of(lambda: enable(store, ["ada"]))
    allow(admin, "~*", "+@all", "-evalsha")
    without_scripts = refusal_of(lambda: enable(store, ["ada"]))

    assert says(without_keys, "does not allow that to the user in TQ_REDIS_URL; see README")
    assert says(without_scripts, "does not allow that to the user in TQ_REDIS_URL; see README")
    store.close()


def test_the_rights_that_readme_names_are_enough(server: RedisServer, admin: redis.Redis) -> None:
    store = open_store(f"redis://tenant:s3cr3t@127.0.0.1:{port_of(server)}/0", namespace="tenant")

    allow(admin, "~tenant*", "&tenant*", "+@all", "-@dangerous", "+info")

    for do in work_of(store).values():
        do()
    store.close()


def allow(admin: redis.Redis, *rights: str) -> None:
    admin.execute_command("ACL", "SETUSER", "tenant", "reset", "on", ">s3cr3t", *rights)


def refusal_of(work: Callable[[], object]) -> StoreRefused:
    with pytest.raises(StoreRefused) as caught:
        work()
    return caught.value


def test_what_a_later_version_has_written_is_left_alone_even_by_who_runs_already(own_store: Store) -> None:
    work = work_of(own_store)
    newcomer = another(own_store)
    version = own_store.keys("data_version")
    own_store.connection.call("SET", version, DATA_VERSION + 1)
    before = all_of(own_store)

    scripts = work.keys() - {"ask for", "note a wait"}
    refusals = [refusal_of(work[name]) for name in scripts]
    refusals += [refusal_of(newcomer.ping), refusal_of(lambda: newcomer.preferences.cells(DIGEST))]

    told = "holds data that a later version of TaskQueue has written; run that version, or set another"
    assert all(says(refusal, told, "TQ_NAMESPACE") for refusal in refusals)
    assert all_of(own_store) == before
    own_store.connection.call("SET", version, DATA_VERSION)
    enable(newcomer, ["new"])
    newcomer.close()


def test_whoever_comes_first_notes_in_which_version_all_is_stored(own_store: Store) -> None:
    own_store.ping()

    assert keys_of(own_store) == [own_store.keys("data_version")]
    assert own_store.connection.call("GET", own_store.keys("data_version")) == str(DATA_VERSION)


def test_whoever_brings_a_later_version_keeps_out_those_of_earlier_ones(own_store: Store) -> None:
    own_store.connection.client.set(own_store.keys("data_version"), DATA_VERSION - 1)

    own_store.ping()

    assert own_store.connection.call("GET", own_store.keys("data_version")) == str(DATA_VERSION)


def test_a_key_that_another_program_uses_is_named_before_anything_is_changed(
    admin: redis.Redis, own_store: Store
) -> None:
    agenda = own_store.keys("agenda")
    admin.rpush(agenda, "something else")
    before = all_of(own_store)

    refusal = refusal_of(lambda: enable(own_store, ["ada"]))

    assert says(refusal, f"holds a list as {agenda}, where TaskQueue keeps a zset", "set TQ_NAMESPACE")
    assert all_of(own_store) == before
    admin.delete(agenda)
    enable(own_store, ["ada"])


def test_a_key_of_another_kind_that_turns_up_later_is_told_in_one_line(
    admin: redis.Redis, own_store: Store
) -> None:
    own_store.ping()
    admin.set(own_store.keys("cells", DIGEST), "text")

    refusal = refusal_of(lambda: enable(own_store, ["ada"]))

    assert says(refusal, "holds a key of another kind than TaskQueue's", "set TQ_NAMESPACE")
