"""What an observation of the system means: well, worth a look, or to be changed at once."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tq.doctor import Finding, Observation, Status, judge, judge_readiness, unreachable
from tq.doctor.observation import Definitions, Scope
from tq.limits import EVERY_TASK, Limit
from tq.models import RunId, Strategy
from tq.store.heartbeats import SCHEDULER, WEB, WORKER, ClockComparison, Process
from tq.store.limits import Standing
from tq.store.vitals import Queue, Server, Signs, StrikingRun
from tq.testing.clock import utc

NOW = utc("2026-11-24T09:45")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MILLISECOND = timedelta(milliseconds=1)
GIB = 1 << 30

WELL_SERVER = Server(
    name="Redis",
    version="7.0.15",
    role="master",
    aof=True,
    aof_writes="ok",
    aof_rewrites="ok",
    is_rewriting=False,
    snapshots="ok",
    appendfsync="everysec",
    save="",
    policy="noeviction",
    used_memory=GIB,
    max_memory=4 * GIB,
    system_memory=8 * GIB,
)
LIMIT = Limit(Strategy.ADAPTIVE, floor=1, base=50, ceiling=100)
DEFINED = Definitions(tasks=2, version=7, fingerprint="f7")


def process(component: str = WORKER, **fields: Any) -> Process:
    """A process that has just shown itself."""
    return Process(
        **{
            "component": component,
            "host": "app-1",
            "pid": 4711,
            "version": "1.2.0",
            "since": NOW - 60 * MINUTE,
            "seen_at": NOW - SECOND,
            "skew": MILLISECOND,
            **fields,
        }
    )


def scope(name: str = EVERY_TASK, *, limit: Limit = LIMIT, **fields: Any) -> Scope:
    """How all tasks, or one, stand: at half their ceiling."""
    standing = Standing(
        **{
            "scope": name,
            "strategy": "adaptive",
            "rate": 50.0,
            "ceiling": 100.0,
            "state": "closed",
            "why": "as much as is asked for",
            "until": None,
            "in_use": 0,
            "waiting": 0,
            "pace": 0.0,
            "error_rate": 0.0,
            "paused": False,
            **fields,
        }
    )
    return Scope(limit, standing)


def queue(**fields: Any) -> Queue:
    """A queue whose first message has just become that."""
    return Queue(**{"name": "normal", "waiting": 3, "first_since": NOW - SECOND, "dead_letters": 0, **fields})


def run(**fields: Any) -> StrikingRun:
    """A run under way whose deadline has just passed."""
    return StrikingRun(
        **{
            "id": RunId("digest~1"),
            "deadline_at": NOW - SECOND,
            "is_running": True,
            "expected": 10,
            "ended": 4,
            "open": 6,
            **fields,
        }
    )


WELL = Observation(
    address="redis://127.0.0.1:6379/0",
    here=ClockComparison(skew=MILLISECOND, round_trip=MILLISECOND),
    server=WELL_SERVER,
    signs=Signs(
        now=NOW,
        last_tick=NOW - 40 * SECOND,
        agenda_since=NOW + MINUTE,
        overdue=0,
        agenda_size=5,
        mended={},
        queues=(queue(),),
        processes=(process(), process(SCHEDULER, pid=17, seen_at=NOW - 40 * SECOND)),
        running=1,
        striking=(),
    ),
    scopes=(scope(), scope("digest")),
    declared=DEFINED,
    published=DEFINED,
)


def of_server(**fields: Any) -> Observation:
    return replace(WELL, server=replace(WELL_SERVER, **fields))


def with_signs(**fields: Any) -> Observation:
    return replace(WELL, signs=replace(WELL.signs, **fields))


def with_skews(*skews: timedelta) -> Observation:
    """A worker per skew, beside a scheduler that has not told its own yet."""
    workers = (process(pid=pid, skew=skew) for pid, skew in enumerate(skews))
    return with_signs(processes=(*workers, process(SCHEDULER, skew=None)))


def found_by(check: str, seen: Observation) -> Finding:
    """The finding of one check."""
    return next(finding for finding in judge(seen) if finding.id == check)


def not_well(seen: Observation) -> dict[str, Status]:
    """The checks that are not ok."""
    return {finding.id: finding.status for finding in judge(seen) if finding.status is not Status.OK}


# --- All checks ----------------------------------------------------------------------------------------


def test_a_system_that_is_well_needs_no_remedy() -> None:
    findings = judge(WELL)

    assert not_well(WELL) == {}
    assert all(finding.found and finding.why and not finding.remedy for finding in findings)


def test_the_ids_of_findings_never_change() -> None:
    assert [finding.id for finding in judge(WELL)] == [
        *("redis", "server_version", "replica", "persistence", "disk", "eviction", "memory"),
        *("clocks", "ticks", "schedulers", "workers", "silent_workers", "versions"),
        *("queues", "agenda", "dead_letters", "mended", "deadlines", "unaccounted"),
        *("limits", "tasks_file"),
    ]


def test_what_tells_whether_the_system_works_are_some_of_these_checks() -> None:
    assert [finding.id for finding in judge_readiness(WELL)] == [
        *("redis", "ticks", "queues", "agenda", "unaccounted", "limits")
    ]


def test_where_no_task_is_declared_there_need_be_no_tick() -> None:
    nothing = Definitions(tasks=0, version=0, fingerprint="f0")
    never = with_signs(last_tick=None)

    assert found_by("ticks", replace(never, declared=nothing, published=nothing)).status is Status.OK
    assert found_by("ticks", replace(never, declared=nothing)).status is Status.PROBLEM
    assert found_by("ticks", replace(never, published=nothing)).status is Status.PROBLEM
    assert found_by("ticks", replace(never, declared="broken", published=nothing)).status is Status.PROBLEM


def test_a_web_process_falls_silent_like_a_worker_and_is_none() -> None:
    silent, alive = process(WEB, seen_at=NOW - 16 * SECOND), process(WEB, seen_at=NOW - 15 * SECOND)

    assert (silent.is_silent(NOW), alive.is_silent(NOW)) == (True, False)
    assert not_well(with_signs(processes=(*WELL.signs.processes, silent, alive))) == {}
    assert found_by("workers", with_signs(processes=(alive,))).status is Status.PROBLEM


def test_a_redis_that_does_nothing_is_the_only_finding() -> None:
    finding = unreachable("Redis at redis://127.0.0.1:1/0 cannot be reached; start it")

    assert (finding.id, finding.status) == ("redis", Status.PROBLEM)
    assert "cannot be reached" in finding.found


def test_what_a_provider_does_not_tell_is_a_warning_and_no_problem() -> None:
    questions = ("server_version", "replica", "persistence", "disk", "eviction", "memory")

    seen = replace(WELL, server=Server())

    assert not_well(seen) == dict.fromkeys(questions, Status.WARNING)
    assert all("could not be looked at: INFO" in found_by(check, seen).found for check in questions)


# Each with what fires it, and with what is just short of that.
W, P = Status.WARNING, Status.PROBLEM
CASES: Sequence[tuple[str, Status, str, Observation]] = [
    (
        "redis",
        W,
        "answers in 50.0 ms",
        replace(WELL, here=ClockComparison(timedelta(0), 50 * MILLISECOND)),
    ),
    ("server_version", P, "Redis 6.2.14", of_server(version="6.2.14")),
    ("replica", P, "replica of 10.0.0.1", of_server(role="slave", primary="10.0.0.1")),
    ("persistence", P, "nothing is kept", of_server(aof=False)),
    ("persistence", W, "snapshots only", of_server(aof=False, save="3600 1")),
    ("persistence", W, "not told", of_server(aof=False, save=None)),
    ("persistence", W, "half a minute", of_server(appendfsync="no")),
    ("disk", P, "append-only file failed", of_server(aof_writes="err")),
    ("disk", P, "snapshot failed", of_server(snapshots="err", save="3600 1")),
    ("disk", W, "rewrite", of_server(aof_rewrites="err")),
    ("eviction", P, "allkeys-lru", of_server(policy="allkeys-lru")),
    ("eviction", W, "without effect", of_server(policy="volatile-ttl", max_memory=0)),
    ("memory", W, "75% of maxmemory (4 GiB)", of_server(used_memory=3 * GIB)),
    (
        "memory",
        P,
        "90% of the machine's memory",
        of_server(used_memory=9 * GIB, max_memory=0, system_memory=10 * GIB),
    ),
    ("clocks", W, "worker 0 on app-1 is 1.1 s ahead", with_skews(1100 * MILLISECOND)),
    ("clocks", P, "worker 0 on app-1 is 31.0 s behind", with_skews(-31 * SECOND)),
    ("ticks", P, "never", with_signs(last_tick=None)),
    ("ticks", P, "2m31s ago", with_signs(last_tick=NOW - 151 * SECOND)),
    ("schedulers", P, "no scheduler", with_signs(processes=(process(),))),
    ("workers", P, "no worker", with_signs(processes=(process(SCHEDULER),))),
    (
        "silent_workers",
        W,
        "worker 9 on app-1 16s ago",
        with_signs(processes=(*WELL.signs.processes, process(pid=9, seen_at=NOW - 16 * SECOND))),
    ),
    (
        "versions",
        W,
        "1.1.9 (1 process)",
        with_signs(processes=(*WELL.signs.processes, process(version="1.1.9"))),
    ),
    ("queues", W, "normal for 1m1s", with_signs(queues=(queue(first_since=NOW - 61 * SECOND),))),
    ("queues", P, "normal for 5m1s", with_signs(queues=(queue(first_since=NOW - 301 * SECOND),))),
    (
        "agenda",
        W,
        "1 of 5 entries overdue, the first for 6s",
        with_signs(agenda_since=NOW - 6 * SECOND, overdue=1),
    ),
    ("agenda", P, "for 1m1s", with_signs(agenda_since=NOW - 61 * SECOND, overdue=1)),
    ("dead_letters", W, "normal 2", with_signs(queues=(queue(dead_letters=2),))),
    ("deadlines", W, "digest~1 is 1m1s past", with_signs(striking=(run(deadline_at=NOW - 61 * SECOND),))),
    ("deadlines", P, "digest~1 is 15m1s past", with_signs(striking=(run(deadline_at=NOW - 901 * SECOND),))),
    ("unaccounted", P, "digest~1: 1 of 10", with_signs(striking=(run(open=5),))),
    ("unaccounted", P, "digest~1: 6 of 10", with_signs(striking=(run(is_running=False),))),
    (
        "limits",
        W,
        "digest: breaker open",
        replace(WELL, scopes=(scope("digest", state="open", why="breaker open"),)),
    ),
    ("limits", P, "cannot be read: Redis refused", replace(WELL, scopes="Redis refused: odd")),
    ("limits", W, "all tasks: paused", replace(WELL, scopes=(scope(paused=True, why="paused"),))),
    (
        "limits",
        W,
        "held until 2026-11-24 09:46:00 UTC",
        replace(WELL, scopes=(scope("digest", why="held", until=NOW + MINUTE),)),
    ),
    ("limits", W, "digest: at its lowest rate, 1/s", replace(WELL, scopes=(scope("digest", rate=1.0),))),
    (
        "tasks_file",
        P,
        "tasks.yaml:3: a: no",
        replace(WELL, declared="tasks.yaml:3: a: no\ntasks.yaml:4: b: no"),
    ),
    ("tasks_file", W, "none published", replace(WELL, published=Definitions(0, 0, ""))),
    ("tasks_file", W, "newer", replace(WELL, declared=Definitions(2, 8, "f8"))),
    ("tasks_file", W, "older", replace(WELL, declared=Definitions(2, 6, "f6"))),
]


@pytest.mark.parametrize(("check", "status", "told", "seen"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES])
def test_what_is_not_well_is_told_with_what_to_do(
    check: str, status: Status, told: str, seen: Observation
) -> None:
    finding = found_by(check, seen)

    assert finding.status is status
    assert told in finding.found
    assert finding.remedy


NOT_YET = [
    replace(WELL, here=ClockComparison(timedelta(0), 49 * MILLISECOND)),
    of_server(version="8.1.0", name="Valkey"),
    of_server(used_memory=int(2.9 * GIB)),
    # A snapshot that failed long ago matters to nobody who takes none.
    of_server(snapshots="err"),
    of_server(appendfsync="always"),
    of_server(appendfsync=None),
    with_skews(990 * MILLISECOND),
    with_skews(timedelta(0)),
    with_signs(last_tick=NOW - 150 * SECOND),
    with_signs(queues=(queue(first_since=NOW - MINUTE),)),
    with_signs(queues=(queue(waiting=10_000, first_since=None),)),
    with_signs(agenda_since=NOW - 5 * SECOND, overdue=1),
    with_signs(agenda_since=None, agenda_size=0),
    with_signs(striking=(run(),)),
    with_signs(mended={"messages": 3, "distributions": 1, "of a later version": 2}),
    replace(WELL, scopes=(scope(rate=1.01),)),
    # What was set so low by hand, or knows one rate only, is not in trouble.
    replace(WELL, scopes=(scope(rate=1.0, ceiling=1.0),)),
    replace(WELL, scopes=(scope(rate=1.0, strategy="pinned"),)),
    replace(WELL, scopes=(scope(rate=1.0, limit=replace(LIMIT, base=1, ceiling=1)),)),
]


@pytest.mark.parametrize("seen", NOT_YET)
def test_what_is_just_short_of_trouble_is_well(seen: Observation) -> None:
    assert not_well(seen) == {}


# --- Particular words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alive", "remedy"),
    [
        ((process(),), "start tq scheduler"),
        ((process(SCHEDULER),), "start tq worker"),
        ((process(), process(SCHEDULER)), "see the workers' log"),
    ],
)
def test_what_to_do_about_ticks_depends_on_who_is_missing(alive: tuple[Process, ...], remedy: str) -> None:
    seen = with_signs(last_tick=None, processes=alive)

    assert found_by("ticks", seen).remedy.startswith(remedy)


def test_when_all_clocks_are_off_alike_it_may_be_redis_own() -> None:
    seen = replace(with_skews(40 * SECOND), here=ClockComparison(40 * SECOND, MILLISECOND))

    assert "it may be Redis' own" in found_by("clocks", seen).found


def test_a_slow_answer_does_not_make_a_clock_wrong() -> None:
    seen = replace(WELL, here=ClockComparison(1500 * MILLISECOND, 3 * SECOND))

    assert found_by("clocks", seen).status is Status.OK


def test_the_dead_do_not_count_for_clocks_and_versions() -> None:
    dead = process(pid=9, seen_at=NOW - 16 * SECOND, skew=60 * SECOND, version="0.9")

    seen = with_signs(processes=(*WELL.signs.processes, dead))

    assert not_well(seen).keys() == {"silent_workers"}


def test_of_many_that_are_alike_the_first_are_named_and_the_others_counted() -> None:
    seen = with_signs(striking=tuple(run(id=RunId(f"digest~{number}"), open=0) for number in range(12)))

    found = found_by("unaccounted", seen).found

    assert "digest~4: 6 of 10; and 7 more" in found
    assert "digest~5" not in found


def test_what_is_about_several_names_those_with_which_something_is_the_matter() -> None:
    one, other = (
        scope("digest", state="open", why="breaker open"),
        scope("sync", paused=True, why="paused"),
    )
    well = scope("report")
    late = NOW - 20 * MINUTE

    assert found_by("limits", replace(WELL, scopes=(one, well, other))).subjects == ("digest", "sync")
    assert found_by("deadlines", with_signs(striking=(run(deadline_at=late),))).subjects == ("digest~1",)
    assert found_by("dead_letters", with_signs(queues=(queue(dead_letters=2),))).subjects == ("normal",)
    assert found_by("limits", replace(WELL, scopes=(well,))).subjects == ()
