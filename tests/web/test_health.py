"""Is it alive, ready, well: what probes and people are told in each state, and that nobody waits for Redis."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from actors.transport import make_transport
from tests.bad_days import administrator, full, read_only
from tests.waiting import eventually
from tests.web.conftest import TOKEN, Caller, Open
from tq.clock import to_ms
from tq.limits import EVERY_TASK
from tq.models import TaskId, UserId
from tq.pipeline import start_run
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.settings import Settings
from tq.store.heartbeats import WEB
from tq.store.preferences import Enable
from tq.web.lookout import Lookout

Change = Callable[[Runtime], object]
AWAY = "redis://127.0.0.1:1/0"
CHECKS = ["redis", "ticks", "queues", "agenda", "unaccounted", "limits"]
LONG_AGO = 1_000_000_000_000


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may break."""
    with RedisServer(tmp_path / "redis", persist=False) as server:
        yield server


def on(runtime: Runtime, *words: str | int) -> object:
    """One Redis command; a text such as `@beats` in it is the key of that family."""
    keys = runtime.store.keys
    spelt = [keys(word[1:]) if isinstance(word, str) and word.startswith("@") else word for word in words]
    return runtime.store.connection.call(str(spelt[0]), *spelt[1:])


def a_queue_that_stands(runtime: Runtime) -> None:
    on(runtime, "RPUSH", f"{runtime.settings.namespace}:queue:low", "the first")
    since = to_ms(runtime.store.now() - timedelta(minutes=6))
    on(runtime, "HSET", "@firsts", "low", f"{since}|the first")


def a_job_that_vanished(runtime: Runtime) -> None:
    runtime.store.preferences.apply([Enable(UserId("ada"), TaskId("email_digest"))])
    run = start_run(runtime, TaskId("email_digest"))
    runtime.store.connection.call("HSET", runtime.store.keys("run", run.id), "expected", 3)


def a_limiter_that_cannot_be_read(runtime: Runtime) -> None:
    runtime.store.connection.call("LPUSH", runtime.store.keys("limit", EVERY_TASK), "x")


# --- livez -------------------------------------------------------------------------------------------


def test_a_process_that_answers_is_alive_whatever_becomes_of_redis(opened: Open) -> None:
    web = opened(redis_url=AWAY)

    assert (web.get("/livez").status_code, web.get("/livez").text) == (200, "ok\n")
    assert web.get("/livez?verbose").text == "[+]process ok\nlivez: ok\n"


# --- readyz ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("well")
def test_a_system_that_is_well_is_ready_and_says_so_of_every_check(web: Caller) -> None:
    answer, told = web.get("/readyz"), web.get("/readyz?verbose")

    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert told.status_code == 200
    assert told.text == "".join(f"[+]{check} ok\n" for check in CHECKS) + "readyz: ok\n"


STATES: list[tuple[str, str, Change]] = [
    ("ticks", "there never was a tick", lambda of: on(of, "DEL", "@heartbeat")),
    ("ticks", "2001-09-09", lambda of: on(of, "HSET", "@heartbeat", "tick", LONG_AGO)),
    ("queues", "nothing was taken from low for 6m", a_queue_that_stands),
    ("agenda", "1 of 1 entry overdue", lambda of: on(of, "ZADD", "@agenda", LONG_AGO, "d|some~run")),
    ("unaccounted", ": 3 of 3", a_job_that_vanished),
    ("limits", "the limiter's state cannot be read: Redis", a_limiter_that_cannot_be_read),
]


@pytest.mark.parametrize(
    ("check", "told", "change"), STATES, ids=[f"{state[0]}: {state[1]}" for state in STATES]
)
def test_what_keeps_the_system_from_its_work_is_not_ready(
    web: Caller, well: Runtime, check: str, told: str, change: Change
) -> None:
    change(well)

    answer, verbose, health = web.get("/readyz"), web.get("/readyz?verbose"), web.get("/health")

    assert {answer.status_code, verbose.status_code, health.status_code} == {503}
    assert answer.json()["error"]["code"] == "not_ready"
    assert answer.json()["error"]["details"] == {"problems": [check]}
    [line] = [line for line in verbose.text.splitlines() if line.startswith("[-]")]
    assert line.startswith(f"[-]{check} problem: ")
    assert told in line
    assert verbose.text.splitlines()[-1] == "readyz: not ready"
    assert health.json()["status"] == "unhealthy"


def test_where_nothing_is_declared_no_tick_is_missed(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text("tasks: []")
    web = opened()

    assert web.get("/readyz").status_code == 200


def test_tasks_that_are_declared_later_are_waited_for(opened: Open, tmp_path: Path) -> None:
    declared = (tmp_path / "tasks.yaml").read_text()
    (tmp_path / "tasks.yaml").write_text("tasks: []")
    web = opened()
    before = web.get("/readyz").status_code

    (tmp_path / "tasks.yaml").write_text(declared)

    assert before == 200
    eventually(lambda: web.get("/readyz").status_code == 503)


@pytest.mark.parametrize(
    ("state", "told"), [(full, "is full (maxmemory)"), (read_only, "is a read-only replica")]
)
def test_a_redis_that_takes_no_writes_is_not_ready(
    opened: Open, own_redis: RedisServer, state: Callable[..., object], told: str
) -> None:
    web = opened(redis_url=own_redis.url)
    with administrator(own_redis.url) as admin, state(admin):  # type: ignore[attr-defined] # both are context managers
        answer = web.get("/readyz?verbose")

    assert answer.status_code == 503
    assert answer.text.startswith("[-]redis problem: Redis at ")
    assert told in answer.text


def test_a_redis_that_is_away_is_the_only_thing_known(opened: Open) -> None:
    web = opened(redis_url="redis://:open-sesame-4711@127.0.0.1:1/0")

    answer = web.get("/readyz?verbose")

    assert answer.status_code == 503
    assert answer.text == (
        "[-]redis problem: Redis at redis://:***@127.0.0.1:1/0 cannot be reached; start it, or set TQ_REDIS_URL\n"
        "readyz: not ready\n"
    )


def test_a_redis_that_hangs_is_not_waited_for_and_is_ready_again_when_it_goes_on(
    opened: Open, own_redis: RedisServer, settings: Settings
) -> None:
    web = opened(redis_url=own_redis.url)
    on_own = settings.model_copy(update={"redis_url": own_redis.url})
    runtime = Runtime(on_own, make_transport(on_own))
    runtime.definitions.publish(runtime.store.planning.look())
    runtime.close()
    before = web.get("/readyz").status_code

    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        # Returns although nothing that is asked of Redis does.
        eventually(lambda: web.get("/readyz").status_code == 503)
        told = web.get("/readyz?verbose").text
        alive = web.get("/livez").status_code
        stats = web.get("/stats")
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)

    assert before == 200
    assert "did not answer" in told
    assert alive == 200
    assert (stats.status_code, stats.json()["error"]["code"]) == (503, "unavailable")
    eventually(lambda: web.get("/readyz").status_code == 200)


def test_all_who_ask_within_a_second_get_what_one_look_has_found(well: Runtime) -> None:
    lookout = Lookout(well)

    async def ask() -> list[object]:
        return [*await asyncio.gather(*(lookout.view() for _ in range(50))), await lookout.view()]

    views = asyncio.run(ask())

    assert len({id(view) for view in views}) == 1
    assert lookout.store.connection.round_trips < 12


def test_reasons_are_told_to_those_only_who_may_know(opened: Open, well: Runtime) -> None:
    web = opened(api_token=TOKEN)
    on(well, "DEL", "@heartbeat")

    stranger, known = web.get("/readyz?verbose"), web.get("/readyz?verbose", authorization=f"Bearer {TOKEN}")

    assert (stranger.status_code, known.status_code) == (503, 503)
    assert "[-]ticks problem\n" in stranger.text
    assert "never" not in stranger.text
    assert "[-]ticks problem: there never was a tick\n" in known.text


@pytest.mark.parametrize(
    ("query", "lists"), [("verbose", True), ("verbose=1", True), ("verbose=false", False)]
)
def test_every_check_is_listed_if_that_is_asked_for(web: Caller, query: str, lists: bool) -> None:
    assert ("[-]" in web.get(f"/readyz?{query}").text) == lists


# --- health ------------------------------------------------------------------------------------------


def test_health_is_healthy_degraded_or_unhealthy(web: Caller, opened: Open, well: Runtime) -> None:
    healthy = web.get("/health")
    well.store.orders.pause(EVERY_TASK, reason="they move house")
    degraded = opened().get("/health")
    unhealthy = opened(redis_url=AWAY).get("/health")

    assert [(answer.status_code, answer.json()["status"]) for answer in (healthy, degraded, unhealthy)] == [
        (200, "healthy"),
        (200, "degraded"),
        (503, "unhealthy"),
    ]
    assert [check["id"] for check in healthy.json()["checks"]] == CHECKS
    [held] = [check for check in degraded.json()["checks"] if check["status"] == "warning"]
    assert held["id"] == "limits"
    assert "they move house" in held["found"]
    assert held["remedy"]


def test_health_tells_a_stranger_its_status_and_nothing_else(opened: Open) -> None:
    web = opened(api_token=TOKEN, redis_url=AWAY)

    assert web.get("/health").json() == {"status": "unhealthy"}
    assert "checks" in web.get("/health", authorization=f"Bearer {TOKEN}").json()


# --- stats -------------------------------------------------------------------------------------------


def test_stats_tell_who_is_at_work_what_waits_and_what_is_under_way(web: Caller, well: Runtime) -> None:
    well.store.preferences.apply([Enable(UserId(user), TaskId("email_digest")) for user in ("ada", "bob")])
    run = start_run(well, TaskId("email_digest"))
    well.store.orders.pause(EVERY_TASK, reason="they move house", by="ada")

    told = web.get("/stats").json()

    [worker], [scheduler] = told["workers"], told["schedulers"]
    assert worker["pid"] == scheduler["pid"] == os.getpid()
    assert list(worker) == ["host", "pid", "version", "since", "seen", "silent"]
    assert not worker["silent"]
    assert told["last_tick"].endswith("Z")
    assert told["last_tick"] <= told["now"]
    assert [queue["queue"] for queue in told["queues"]] == ["control", "high", "normal", "low", "suspects"]
    assert told["agenda"]["size"] == 1
    assert [one["run_id"] for one in told["runs"]] == [run.id]
    assert (told["runs"][0]["task_id"], told["runs"][0]["kind"]) == ("email_digest", "manual")
    assert list(told["jobs"]) == [
        *("expected", "success", "failed", "expired", "cancelled", "skipped"),
        *("open", "waiting", "retries"),
    ]
    assert {limit["task_id"]: limit["configured"] for limit in told["limits"]} == {
        "*": 100,
        "email_digest": 20,
        "hourly_sync": None,
    }
    assert {(limit["effective"], limit["why"]) for limit in told["limits"][1:]} == {
        (0, "all tasks paused by ada: they move house")
    }


def test_stats_add_up_the_jobs_of_the_runs_under_way(web: Caller, well: Runtime) -> None:
    for expected, success in ((10, 4), (5, 1)):
        well.store.preferences.apply([Enable(UserId("ada"), TaskId("email_digest"))])
        run = start_run(well, TaskId("email_digest"))
        key = well.store.keys("run", run.id)
        well.store.connection.call("HSET", key, "expected", expected, "success", success)

    jobs = web.get("/stats").json()["jobs"]

    assert (jobs["expected"], jobs["success"], jobs["failed"]) == (15, 5, 0)


def test_stats_are_told_also_where_the_tasks_file_cannot_be_read(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text("tasks: [{id: a, retires: 3}]")

    answer = opened().get("/stats")

    assert answer.status_code == 200
    assert [limit["task_id"] for limit in answer.json()["limits"]] == ["*"]


# --- The process itself ------------------------------------------------------------------------------


def test_a_web_process_shows_itself_from_its_start_to_its_end_and_is_no_worker(
    web: Caller, runtime: Runtime
) -> None:
    def shown() -> list[str]:
        return [process.component for process in runtime.store.vitals.signs().processes]

    web.living(lambda: eventually(lambda: shown() == [WEB]))

    assert shown() == []


def test_an_app_starts_and_ends_while_redis_is_away(opened: Open) -> None:
    web = opened(redis_url=AWAY)

    assert web.living(lambda: "lived") == "lived"
