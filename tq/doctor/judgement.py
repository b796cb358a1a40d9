"""What an observation means: whether all is well, why that matters, and what to change.

Pure. A finding's id never changes between releases: alerts hang on it. A problem is what breaks a
promise now, or will when the next thing goes wrong; a warning is what somebody should have a look at.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from tq.doctor.observation import Definitions, Observation, Scope
from tq.limits import EVERY_TASK
from tq.models import format_duration, format_rate
from tq.store.heartbeats import SCHEDULER, WORKER, Process

LEAST_REDIS = 7  # what everything here is tested on
SLOW_REDIS = timedelta(milliseconds=50)  # a job takes a handful of round trips
MEMORY_WARNING, MEMORY_PROBLEM = 0.75, 0.90
SKEW_WARNING, SKEW_PROBLEM = timedelta(seconds=1), timedelta(seconds=30)
# Two ticks were due since, and a while to carry them out.
TICK_OVERDUE = timedelta(seconds=150)
QUEUE_WARNING, QUEUE_PROBLEM = timedelta(minutes=1), timedelta(minutes=5)
AGENDA_WARNING, AGENDA_PROBLEM = timedelta(seconds=5), timedelta(minutes=1)
# Calls that were begun in time may last as long as their timeout, of five minutes or so.
DEADLINE_WARNING, DEADLINE_PROBLEM = timedelta(minutes=1), timedelta(minutes=15)
# What must be well for the system to be at work.
READINESS = frozenset({"redis", "ticks", "queues", "agenda", "unaccounted", "limits"})
SHOWN = 5  # of many that are alike
# A rate is at its floor when it is as near as a step of the rule's leaves it.
NEAR = 1.001
MENDED = {
    "messages": "{} jobs that had lost their message",
    "distributions": "{} runs that nobody followed",
}


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found. `remedy` says what to change; it is empty where nothing need be.

    `subjects` are those with which something is the matter, where a check is about several: tasks, queues, runs.
    """

    id: str
    status: Status
    found: str
    why: str
    remedy: str
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: Status
    found: str
    remedy: str = ""
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Check:
    """A check: what it is about, why that matters, and how it is decided."""

    id: str
    why: str
    decide: Callable[[Observation], _Verdict]


def judge(seen: Observation) -> list[Finding]:
    """A finding for each check, in a fixed order."""
    return [_finding(check, check.decide(seen)) for check in CHECKS]


def judge_readiness(seen: Observation) -> list[Finding]:
    """A finding for each check that tells whether the system works; a glance is enough for these."""
    return [_finding(check, check.decide(seen)) for check in CHECKS if check.id in READINESS]


def unreachable(reason: str) -> Finding:
    """The only finding there is where Redis does not do what is asked of it."""
    check = CHECKS[0]
    return _finding(check, _problem(reason, "mend that first; everything else is known only from Redis"))


def _finding(check: _Check, verdict: _Verdict) -> Finding:
    return Finding(check.id, verdict.status, verdict.found, check.why, verdict.remedy, verdict.subjects)


def _ok(found: str) -> _Verdict:
    return _Verdict(Status.OK, found)


def _warning(found: str, remedy: str, subjects: Iterable[str] = ()) -> _Verdict:
    return _Verdict(Status.WARNING, found, remedy, tuple(subjects))


def _problem(found: str, remedy: str, subjects: Iterable[str] = ()) -> _Verdict:
    return _Verdict(Status.PROBLEM, found, remedy, tuple(subjects))


def _not_told(question: str) -> _Verdict:
    return _warning(
        f"could not be looked at: {question} is not answered",
        f"allow this user {question}, or look into it where your Redis is administered",
    )


# --- Redis itself ------------------------------------------------------------------------------------


def _redis(seen: Observation) -> _Verdict:
    took = seen.here.round_trip
    answers = f"{seen.address} answers in {_milliseconds(took)}"
    if took >= SLOW_REDIS:
        return _warning(
            answers,
            "put workers and Redis into one place, and look at SLOWLOG and the load of its machine",
        )
    return _ok(answers)


def _server_version(seen: Observation) -> _Verdict:
    name, version = seen.server.name, seen.server.version
    if name is None or version is None:
        return _not_told("INFO")
    found = f"{name} {version}"
    major = int(version.partition(".")[0]) if version.partition(".")[0].isdecimal() else 0
    if name == "Redis" and major < LEAST_REDIS:
        return _problem(found, f"run Redis {LEAST_REDIS} or newer, or Valkey")
    return _ok(found)


def _replica(seen: Observation) -> _Verdict:
    server = seen.server
    if server.role is None:
        return _not_told("INFO")
    if server.role != "master":
        return _problem(
            f"a replica of {server.primary or 'another'}, which takes no writes",
            "have TQ_REDIS_URL name the primary, or promote this one",
        )
    return _ok("a primary")


def _persistence(seen: Observation) -> _Verdict:
    server = seen.server
    if server.aof is None:
        return _not_told("INFO")
    remedy = "set appendonly yes and appendfsync everysec in redis.conf, and with CONFIG SET to have it now"
    if not server.aof:
        if server.save:
            return _warning(f"snapshots only (save {server.save}): what came after the last is lost", remedy)
        if server.save is None:
            return _warning("no append-only file; whether snapshots are taken is not told", remedy)
        return _problem("nothing is kept on disk: a restart loses everything, users included", remedy)
    rewriting = ", being rewritten now" if server.is_rewriting else ""
    if server.appendfsync is None:
        return _ok(f"append-only file{rewriting}; how often it is synced is not told")
    if server.appendfsync == "no":
        return _warning(
            f"append-only file, synced when the machine likes{rewriting}: it may lose half a minute",
            "set appendfsync everysec",
        )
    return _ok(f"append-only file, appendfsync {server.appendfsync}{rewriting}")


def _disk(seen: Observation) -> _Verdict:
    server = seen.server
    if server.aof is None:
        return _not_told("INFO")
    keeps_snapshots = bool(server.save) or server.save is None
    if server.aof and server.aof_writes not in (None, "ok"):
        return _problem(
            "the last write to the append-only file failed; Redis refuses writes until one succeeds",
            "see Redis' log, and give its disk room",
        )
    if keeps_snapshots and server.snapshots not in (None, "ok"):
        return _problem(
            "the last snapshot failed",
            "see Redis' log; give its disk room, and allow vm.overcommit_memory=1 where it could not fork",
        )
    if server.aof and server.aof_rewrites not in (None, "ok"):
        return _warning(
            "the last rewrite of the append-only file failed: the file grows",
            "see Redis' log; give its disk room, and allow vm.overcommit_memory=1 where it could not fork",
        )
    return _ok("the last writes to disk went well")


def _eviction(seen: Observation) -> _Verdict:
    server = seen.server
    if server.policy is None:
        return _not_told("INFO")
    if server.policy == "noeviction":
        return _ok("maxmemory-policy noeviction")
    found = f"maxmemory-policy {server.policy}"
    remedy = "set maxmemory-policy noeviction"
    if server.max_memory == 0:
        return _warning(f"{found}, without effect while there is no maxmemory", remedy)
    return _problem(f"{found}: when memory is full, Redis throws away what it is to keep", remedy)


def _memory(seen: Observation) -> _Verdict:
    server = seen.server
    used, most, bound = server.used_memory, server.max_memory, "maxmemory"
    if used is None or most is None:
        return _not_told("INFO")
    if not most:
        most, bound = server.system_memory or 0, "the machine's memory"
    if not most:
        return _ok(f"{_bytes(used)} used, of an unknown total")
    share = used / most
    found = f"{_bytes(used)} used, {share:.0%} of {bound} ({_bytes(most)})"
    remedy = "give Redis more memory, or lower TQ_RESULT_TTL and TQ_RESULT_HISTORY"
    if share >= MEMORY_PROBLEM:
        return _problem(found, remedy)
    if share >= MEMORY_WARNING:
        return _warning(found, remedy)
    return _ok(found)


# --- Who lives ---------------------------------------------------------------------------------------


def _clocks(seen: Observation) -> _Verdict:
    clocks = {"this machine": seen.here.skew}
    for process in _alive(seen):
        if process.skew is not None:
            clocks[str(process)] = process.skew
    # Redis tells its time when it answers: a slow answer says less, so it gets the benefit of the doubt.
    wrong = {who: skew for who, skew in clocks.items() if abs(skew) - seen.here.round_trip > SKEW_WARNING}
    if not wrong:
        worst = max(abs(skew) for skew in clocks.values())
        return _ok(f"{_count(len(clocks), 'clock')} compared with Redis', at most {_milliseconds(worst)} off")
    told = [
        f"{who} is {_seconds(abs(skew))} {'ahead' if skew > timedelta(0) else 'behind'}"
        for who, skew in sorted(wrong.items(), key=lambda item: -abs(item[1]))
    ]
    found = _listed(told)
    if len(wrong) == len(clocks) > 1:
        found += "; all of them, so it may be Redis' own clock that is wrong"
    remedy = "have all machines, Redis' included, keep time by NTP (chrony, systemd-timesyncd)"
    is_problem = any(abs(skew) > SKEW_PROBLEM for skew in wrong.values())
    return _problem(found, remedy) if is_problem else _warning(found, remedy)


def _ticks(seen: Observation) -> _Verdict:
    last = seen.signs.last_tick
    if isinstance(seen.declared, Definitions) and not (seen.declared.tasks or seen.published.tasks):
        return _ok("no task is declared, so nothing falls due")
    if last is not None and seen.signs.now - last <= TICK_OVERDUE:
        return _ok(f"the last tick was {_ago(seen.signs.now - last)}")
    found = (
        "there never was a tick"
        if last is None
        else f"the last tick was {_ago(seen.signs.now - last)}, {last:%Y-%m-%d %H:%M:%S} UTC"
    )
    if not _alive_of(seen, SCHEDULER):
        return _problem(found, "start tq scheduler; nobody sends ticks")
    if not _alive_of(seen, WORKER):
        return _problem(found, "start tq worker; ticks are sent, and nobody carries them out")
    return _problem(
        found,
        "see the workers' log for `ticked` and errors, and the checks clocks and queues: a tick that "
        "waits for 50 s, or seems to by a wrong clock, is dropped",
    )


def _schedulers(seen: Observation) -> _Verdict:
    alive = _alive_of(seen, SCHEDULER)
    if not alive:
        return _problem("no scheduler has sent a tick lately", "start tq scheduler and keep it running")
    return _ok(f"{_count(len(alive), 'scheduler')}: {_listed(_who(alive))}")


def _workers(seen: Observation) -> _Verdict:
    alive = _alive_of(seen, WORKER)
    if not alive:
        return _problem("no worker process shows itself", "start tq worker and keep it running")
    return _ok(f"{_count(len(alive), 'process', 'processes')}: {_listed(_who(alive))}")


def _silent(seen: Observation) -> _Verdict:
    alive = _alive(seen)
    silent = [
        process for process in seen.signs.processes if process not in alive and process.component == WORKER
    ]
    if not silent:
        return _ok("no worker has fallen silent in the last hour")
    told = [f"{process} {_ago(seen.signs.now - process.seen_at)}" for process in silent]
    return _warning(
        f"fell silent without taking leave: {_listed(told)}",
        "see their log, and dmesg for a kill for want of memory; one that still runs hangs, or is cut off "
        "from Redis. Who was replaced is forgotten after an hour",
    )


def _versions(seen: Observation) -> _Verdict:
    by_version: dict[str, int] = {}
    for process in _alive(seen):
        by_version[process.version] = by_version.get(process.version, 0) + 1
    if len(by_version) > 1:
        told = [
            f"{version} ({_count(times, 'process', 'processes')})" for version, times in by_version.items()
        ]
        return _warning(
            f"several versions are at work: {_listed(told)}", "finish the upgrade: restart the others"
        )
    return _ok(f"one version at work: {next(iter(by_version))}" if by_version else "nobody is at work")


def _alive(seen: Observation) -> list[Process]:
    return [process for process in seen.signs.processes if not process.is_silent(seen.signs.now)]


def _alive_of(seen: Observation, component: str) -> list[Process]:
    return [process for process in _alive(seen) if process.component == component]


def _who(processes: Sequence[Process]) -> list[str]:
    return [
        f"{process.pid} on {process.host} since {process.since:%Y-%m-%d %H:%M} UTC" for process in processes
    ]


# --- What waits --------------------------------------------------------------------------------------


def _queues(seen: Observation) -> _Verdict:
    waiting = [f"{queue.name} {queue.waiting:,}" for queue in seen.signs.queues if queue.waiting]
    now = seen.signs.now
    standing = [
        (queue.name, now - queue.first_since)
        for queue in seen.signs.queues
        if queue.first_since is not None and now - queue.first_since > QUEUE_WARNING
    ]
    if not standing:
        return _ok(f"waiting: {', '.join(waiting)}" if waiting else "nothing waits")
    found = _listed(
        f"nothing was taken from {name} for {format_duration(_whole_seconds(age))}" for name, age in standing
    )
    remedy = "see that some tq worker serves these queues (--queues), and whether its calls hang"
    is_problem = any(age > QUEUE_PROBLEM for _, age in standing)
    found = f"{found}; waiting: {', '.join(waiting)}"
    names = [name for name, _ in standing]
    return _problem(found, remedy, names) if is_problem else _warning(found, remedy, names)


def _agenda(seen: Observation) -> _Verdict:
    signs = seen.signs
    size = _count(signs.agenda_size, "entry", "entries")
    late = timedelta(0) if signs.agenda_since is None else signs.now - signs.agenda_since
    if late <= AGENDA_WARNING:
        return _ok(f"{size}, none overdue" if signs.agenda_size else "nothing is due later")
    found = f"{signs.overdue:,} of {size} overdue, the first for {format_duration(_whole_seconds(late))}"
    remedy = "each worker process releases what is due: start one, or see its log for `upkeep failed`"
    return _problem(found, remedy) if late > AGENDA_PROBLEM else _warning(found, remedy)


def _dead_letters(seen: Observation) -> _Verdict:
    dead = {queue.name: queue.dead_letters for queue in seen.signs.queues if queue.dead_letters}
    if not dead:
        return _ok("none")
    return _warning(
        f"put away: {', '.join(f'{name} {letters:,}' for name, letters in dead.items())}",
        "see the workers' log for `moved to the dead letters`; the usual cause is a worker of an older version",
        dead,
    )


def _mended(seen: Observation) -> _Verdict:
    told = [MENDED.get(what, "{} " + what).format(f"{times:,}") for what, times in seen.signs.mended.items()]
    return _ok(f"since the beginning: {', '.join(told)}" if told else "nothing ever had to be")


def _deadlines(seen: Observation) -> _Verdict:
    now = seen.signs.now
    late = [
        (run.id, now - run.deadline_at)
        for run in seen.signs.striking
        if run.is_running and now - run.deadline_at > DEADLINE_WARNING
    ]
    if not late:
        return _ok(f"{_count(seen.signs.running, 'run')} under way, all within their deadline")
    found = _listed(
        f"{run_id} is {format_duration(_whole_seconds(by))} past its deadline" for run_id, by in late
    )
    remedy = "workers end such jobs: see that they live, and their log for `upkeep failed` (step mending)"
    is_problem = any(by > DEADLINE_PROBLEM for _, by in late)
    runs = [run_id for run_id, _ in late]
    return _problem(found, remedy, runs) if is_problem else _warning(found, remedy, runs)


def _unaccounted(seen: Observation) -> _Verdict:
    wrong = [run for run in seen.signs.striking if run.unaccounted]
    if not wrong:
        return _ok("every job of the runs under way, and of the last that ended, is open or ended")
    told = [f"{run.id}: {run.unaccounted:,} of {run.expected:,}" for run in wrong]
    return _problem(
        f"unaccounted jobs: {_listed(told)}",
        "tq runs show RUN tells more; keep a copy of Redis' data and report it, this must never be",
        [run.id for run in wrong],
    )


# --- What was declared and ordered -------------------------------------------------------------------


def _limits(seen: Observation) -> _Verdict:
    told: dict[str, str] = {}
    if isinstance(seen.scopes, str):
        return _problem(
            f"the limiter's state cannot be read: {seen.scopes}",
            "calls wait for it; see what Redis says. Deleting the keys limit:* has all rates begin anew",
        )
    for scope in seen.scopes:
        standing = scope.standing
        name = "all tasks" if standing.scope == EVERY_TASK else standing.scope
        if standing.held:
            until = f" until {standing.until:%Y-%m-%d %H:%M:%S} UTC" if standing.until else ""
            told[name] = f"{standing.why}{until}"
        elif _is_at_floor(scope):
            told[name] = f"at its lowest rate, {format_rate(standing.rate)} ({standing.why})"
    if not told:
        return _ok("calls may be made everywhere")
    return _warning(
        _listed(f"{name}: {why}" for name, why in told.items()),
        "tq limits shows more. A breaker and a floor go when the endpoint recovers: see why it fails with "
        "tq results TASK --failures; a pause goes with tq tasks resume",
        told,
    )


def _is_at_floor(scope: Scope) -> bool:
    limit, standing = scope.limit, scope.standing
    return (
        limit.own
        and standing.strategy == "adaptive"
        and limit.floor * NEAR < min(limit.base, standing.ceiling)
        and standing.rate <= limit.floor * NEAR
    )


def _tasks_file(seen: Observation) -> _Verdict:
    declared, published = seen.declared, seen.published
    if isinstance(declared, str):
        lines = declared.splitlines()
        return _problem(
            _listed(lines),
            "mend the file; tq tasks validate tells the same. Until then the published ones hold",
        )
    if declared.fingerprint == published.fingerprint:
        return _ok(f"{_count(declared.tasks, 'task')}, as published")
    if not published.version:
        return _warning(
            f"{_count(declared.tasks, 'task')} declared, none published yet", "the next tick publishes them"
        )
    if declared.version > published.version:
        return _warning(
            "the definitions here are newer than those in force",
            "the next tick publishes them; if it does not, the workers read another file",
        )
    return _warning(
        "the definitions here are older than those in force",
        "bring the file here up to date; or touch it, to have it win",
    )


# --- Words -------------------------------------------------------------------------------------------


def _listed(texts: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    found = list(texts)
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _ago(age: timedelta) -> str:
    return f"{format_duration(_whole_seconds(age))} ago"


def _whole_seconds(duration: timedelta) -> timedelta:
    return timedelta(seconds=max(0, round(duration.total_seconds())))


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.1f} s"


def _milliseconds(duration: timedelta) -> str:
    return f"{duration.total_seconds() * 1000:.1f} ms"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


CHECKS = (
    _Check(
        "redis",
        "all state is in Redis; without it nothing begins and nothing is recorded",
        _redis,
    ),
    _Check(
        "server_version",
        "all is tested on Redis 7 and on Valkey; an older server may lack what scripts ask of it",
        _server_version,
    ),
    _Check("replica", "a replica takes no writes, so nothing begins and nothing is recorded", _replica),
    _Check(
        "persistence",
        "what Redis forgets when it restarts is lost: jobs that ended are called again, runs and users' "
        "settings are gone. A second or less is found again by itself",
        _persistence,
    ),
    _Check(
        "disk",
        "Redis that cannot write to its disk refuses to change anything, or forgets it",
        _disk,
    ),
    _Check(
        "eviction",
        "every key is needed; one that is thrown away is users who are never served",
        _eviction,
    ),
    _Check(
        "memory",
        "a full Redis refuses every write: nothing falls due, and no job's end is recorded",
        _memory,
    ),
    _Check(
        "clocks",
        "deadlines go by Redis' clock, but each scheduler ticks by its own, a worker that is 50 s ahead drops "
        "every tick, and signatures carry the caller's time",
        _clocks,
    ),
    _Check(
        "ticks", "without ticks nothing falls due; the next one makes up for those that were lost", _ticks
    ),
    _Check(
        "schedulers", "a scheduler sends a tick each minute; one is enough, several do no harm", _schedulers
    ),
    _Check("workers", "worker processes do all the work, ticks included", _workers),
    _Check(
        "silent_workers",
        "jobs of a silent worker come again, and those it had begun are called twice",
        _silent,
    ),
    _Check(
        "versions",
        "versions that work side by side may understand each other's messages in part only",
        _versions,
    ),
    _Check("queues", "what waits at a queue that nobody serves is never carried out", _queues),
    _Check("agenda", "retries, jobs that were put off and the next slots of runs wait there", _agenda),
    _Check(
        "dead_letters", "a message that nobody could work; its job is found and sent again", _dead_letters
    ),
    _Check("mended", "what was lost or stalled and set going again; it grows when Redis loses data", _mended),
    _Check("deadlines", "no job of a run begins after its deadline, so it should have ended", _deadlines),
    _Check("unaccounted", "every expected job ends in exactly one visible state", _unaccounted),
    _Check("limits", "a task that is held makes no calls, or only a few", _limits),
    _Check("tasks_file", "what is in force is what was published, not what the file here says", _tasks_file),
)
