"""The store against a real Redis, and what its tests share: a transport that is a list, the steps of
a run by name, and ways to look at everything that is kept.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from threading import Barrier
from typing import Any, TypeVar, cast

import orjson
import redis

from tq.clock import Clock
from tq.models import (
    Batch,
    Envelope,
    ErrorDetail,
    Interval,
    JobStatus,
    Overlap,
    Priority,
    RunId,
    RunKind,
    TaskId,
    TaskType,
    UserId,
    scheduled_run_id,
)
from tq.settings import Settings
from tq.slots import LAST_PLACE, place_of, position_of, stretches
from tq.store import QueuedMessage, QueuedMessages, Store
from tq.store.connection import PATIENCE
from tq.store.keys import TABLE
from tq.store.ledger import End, Step
from tq.store.planning import ShareClaim
from tq.store.preferences import Cohort, Enable
from tq.testing.builders import make_task
from tq.testing.clock import FrozenClock, utc

NOW = utc("2026-11-24T09:45")
NINE = utc("2026-11-24T09:00")
HOUR = timedelta(hours=1)
DIGEST = TaskId("email_digest")
EVERYBODY = "*|default"
UTC_NINE = make_task(DIGEST, interval=Interval.daily(at="09:00"))
UTC_TEN = make_task(DIGEST, interval=Interval.daily(at="10:00"))
LEAF_SIZE = 128  # the most that Redis keeps compactly in one sorted set

T = TypeVar("T")


class ListTransport:
    """Puts `queue|id|body` at the end of a list; sets name what is waiting or being worked on, and by whom."""

    queues = ("control", "normal")

    def __init__(self, namespace: str) -> None:
        self.queue_keys = (f"{namespace}.outbox",)
        self.enqueue_lua = (
            f"local function enqueue(queue, id, body, ...)\n"
            f"  redis.call('RPUSH', '{namespace}.outbox', queue .. '|' .. id .. '|' .. body)\n"
            f"  if ... then enqueue(queue, ...) end\n"
            f"end\n"
            f"local function queued(queue, id)\n"
            f"  return redis.call('SISMEMBER', '{namespace}.queued', queue .. '|' .. id) == 1\n"
            f"end\n"
        )
        self.fetch_lua = ""  # nobody fetches from a list
        self.holds_lua = (
            f"local function holds(holder, queue, ids)\n"
            f"  local held = {{}}\n"
            f"  for _, id in ipairs(ids) do\n"
            f"    held[id] = redis.call('SISMEMBER', '{namespace}.held', holder .. '|' .. queue .. '|' .. id) == 1\n"
            f"  end\n"
            f"  return held\n"
            f"end\n"
        )
        self.workers_lua = (
            f"local function workers()\n"
            f"  local found, met = {{}}, {{}}\n"
            f"  for _, text in ipairs(redis.call('SMEMBERS', '{namespace}.held')) do\n"
            f"    local holder = string.match(text, '^[^|]*')\n"
            f"    if not met[holder] then table.insert(found, holder) end\n"
            f"    met[holder] = true\n"
            f"  end\n"
            f"  return found\n"
            f"end\n"
        )
        self.acknowledge_lua = (
            f"local function acknowledge(holder, queue, ids)\n"
            f"  for _, id in ipairs(ids) do\n"
            f"    redis.call('SREM', '{namespace}.held', holder .. '|' .. queue .. '|' .. id)\n"
            f"  end\n"
            f"end\n"
        )
        self.take_back_lua = (
            f"local function take_back(holder, queue, id, body)\n"
            f"  if holder == '' then return body end\n"
            f"  return redis.call('SREM', '{namespace}.held', holder .. '|' .. queue .. '|' .. id) == 1 and body\n"
            f"end\n"
        )
        self.backlog_lua = (
            f"local function waiting_in(queue)\n"
            f"  local found = {{}}\n"
            f"  for _, text in ipairs(redis.call('LRANGE', '{namespace}.outbox', 0, -1)) do\n"
            f"    local its_queue, id = string.match(text, '^(.-)|(.-)|')\n"
            f"    if its_queue == queue then table.insert(found, id) end\n"
            f"  end\n"
            f"  return found\n"
            f"end\n"
            f"local function first_of(queue) return waiting_in(queue)[1] or '' end\n"
            f"local function backlog(queue) return #waiting_in(queue), redis.call('SCARD', '{namespace}.dead') end\n"
        )

    def job_message(self, envelope: Envelope, priority: Priority) -> QueuedMessage:
        """The message is the envelope's fields."""
        message_id = f"{envelope.job_id}-{envelope.attempt}"
        return QueuedMessage(priority.value, message_id, orjson.dumps(envelope.to_wire()))

    def job_messages(self, batch: Batch, priority: Priority) -> QueuedMessages:
        """The messages of all jobs of the batch."""
        wire = batch.pattern.to_wire()
        jobs = [Envelope.from_wire([wire[0], user_id, *wire[2:]]) for user_id in batch.user_ids]
        messages = [self.job_message(job, priority) for job in jobs]
        return QueuedMessages(
            priority.value, [message.id for message in messages], [message.body for message in messages]
        )

    def distribution_message(self, run_id: RunId, *, cause: str = "") -> QueuedMessage:  # noqa: ARG002 - the signature is Transport's
        """The message is the run's id, on two lines, as a body may have any text."""
        return QueuedMessage("control", f"distribute-{run_id}", f"distribute\n{run_id}".encode())


_namespaces = count(1)


def open_store(
    url: str,
    *,
    namespace: str | None = None,
    clock: Clock | None = None,
    debug_redis: bool = False,
    patience: timedelta = PATIENCE,
) -> Store:
    """A store in a namespace of its own, unless one is named; its clock stands at a quarter to ten."""
    namespace = namespace or f"store.{next(_namespaces)}"
    settings = Settings(
        redis_url=url, namespace=namespace, broker="stub", result_history=3, debug_redis=debug_redis
    )
    return Store(settings, ListTransport(namespace), clock=clock or FrozenClock(NOW), patience=patience)


@contextmanager
def fresh_store(url: str) -> Iterator[Store]:
    """A store that must be left with keys only that the table of keys knows."""
    store = open_store(url)
    try:
        yield store
        assert not stray_keys(store)
    finally:
        store.close()


def another(store: Store) -> Store:
    """What another process has of the same namespace."""
    namespace = store.keys.prefix.removesuffix(":")
    return open_store(store.connection.url, namespace=namespace, clock=store.clock)


def frozen(store: Store) -> FrozenClock:
    """The clock of a fresh store."""
    assert isinstance(store.clock, FrozenClock)
    return store.clock


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls answer when all of them begin together, each in a thread of its own."""
    barrier = Barrier(len(calls))

    def begin(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))


# --- What is kept ------------------------------------------------------------------------------


def keys_of(store: Store) -> list[str]:
    """Every key in the store's namespace."""
    return sorted(store.connection.client.scan_iter(match=f"{store.keys.prefix}*", count=1000))


def family_of(store: Store, key: str) -> str | None:
    """The family of the table to which a key belongs."""
    for name, family in TABLE.items():
        pattern = "".join(
            ".+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{\w+\})", family.pattern)
        )
        if re.fullmatch(re.escape(store.keys.prefix) + pattern, key):
            return name
    return None


def stray_keys(store: Store) -> list[str]:
    """Keys that no family of the table has, or that are of another type than it says."""
    keys = keys_of(store)
    types = store.connection.calls([("TYPE", key) for key in keys])
    families = [family_of(store, key) for key in keys]
    return [
        f"{key} ({type_})"
        for key, type_, family in zip(keys, types, families, strict=True)
        if family is None or TABLE[family].type != type_
    ]


def contents(store: Store) -> dict[bytes, tuple[object, object]]:
    """Everything that the namespace holds, queues included, with the instant at which it expires."""
    with redis.Redis.from_url(store.connection.url) as client:
        keys = sorted(client.scan_iter(match=f"{store.keys.prefix[:-1]}[.:]*", count=1000))
        return {key: (client.dump(key), client.pexpiretime(key)) for key in keys}


def values(store: Store) -> dict[str, tuple[object, int]]:
    """The same, as it can be compared between stores: without Redis' own order, and hours in place of instants.

    Keys are named without their namespace.
    """
    redis = store.connection.call
    reads: dict[str, Callable[[str], object]] = {
        "string": lambda key: redis("GET", key),
        "hash": lambda key: redis("HGETALL", key),
        "set": lambda key: redis("SMEMBERS", key),
        "zset": lambda key: sorted(_scored(store, key)),
        "list": lambda key: redis("LRANGE", key, 0, -1),
    }
    namespace = store.keys.prefix[:-1]
    keys = store.connection.client.scan_iter(match=f"{namespace}[.:]*", count=1000)
    return {
        key.removeprefix(namespace): (reads[redis("TYPE", key)](key), round(redis("TTL", key) / 3600))
        for key in keys
    }


def due_entries(store: Store) -> dict[str, int]:
    """The due index: `task|cohort` → ms."""
    return dict(_scored(store, store.keys("due")))


def agenda_entries(store: Store) -> dict[str, int]:
    """The agenda: entry → ms."""
    return dict(_scored(store, store.keys("agenda")))


def _scored(store: Store, key: str) -> list[tuple[str, int]]:
    found = store.connection.client.zrange(key, 0, -1, withscores=True)
    # The client types all answers alike, whatever was asked for.
    return [(member, int(score)) for member, score in cast("list[tuple[str, float]]", found)]


@dataclass(frozen=True)
class Sent:
    """A message that was put into a queue."""

    queue: str
    id: str
    body: str

    @property
    def envelope(self) -> Envelope:
        """The job that the message carries."""
        return Envelope.from_wire(orjson.loads(self.body))


def outbox(store: Store) -> list[Sent]:
    """All messages that were put into queues so far, in order."""
    found = store.connection.call("LRANGE", f"{store.keys.prefix[:-1]}.outbox", 0, -1)
    return [Sent(*text.split("|", 2)) for text in found]


def have_queued(store: Store, message: QueuedMessage) -> None:
    """Has a message wait in its queue, or be worked on."""
    store.connection.call("SADD", f"{store.keys.prefix[:-1]}.queued", f"{message.queue}|{message.id}")


def have_fetched(store: Store, holder: str, message: QueuedMessage) -> None:
    """Has a process hold a message that it has fetched."""
    store.connection.call("SADD", f"{store.keys.prefix[:-1]}.held", f"{holder}|{message.queue}|{message.id}")


def hold(store: Store, holder: str, *jobs: Envelope) -> None:
    """Has a process hold the messages of these jobs."""
    for job in jobs:
        job.holder, job.queue = holder, Priority.NORMAL.value
        have_fetched(store, holder, QueuedMessage(job.queue, job.message_id, b""))


def jobs_sent(store: Store) -> list[Envelope]:
    """The jobs among the messages."""
    return [sent.envelope for sent in outbox(store) if sent.queue != "control"]


def leaves_of(store: Store, task_id: TaskId) -> dict[str, list[tuple[str, int]]]:
    """The keys of all leaves of a task's members, with members and places.

    Fails where a leaf is empty, too big, kept expensively, or holds what belongs into another.
    """
    leaves = {}
    for cell in store.preferences.cells(task_id):
        starts = [start for _, start in _scored(store, store.keys("branches", task_id, str(cell)))]
        for start, end in zip(starts, [*starts[1:], LAST_PLACE + 1], strict=True):
            key = store.keys("leaf", task_id, str(cell), str(start))
            entries = _scored(store, key)
            assert entries or start == 0
            assert len(entries) <= LEAF_SIZE
            assert not entries or store.connection.call("OBJECT", "ENCODING", key) == "listpack"
            assert all(start <= place < end for _, place in entries)
            leaves[key] = entries
    return leaves


def cohorts_of(store: Store, task: TaskType) -> set[str]:
    """`task|cohort` of whatever members of a task can fall due, worked out from its cells."""
    found = set()
    for cell in store.preferences.cells(task.id):
        canonical = task.interval.canonical if cell.interval == "default" else cell.interval
        zone = cell.zone if canonical.endswith("@user") else "*"
        found.add(f"{task.id}|{zone}|{cell.interval}")
    return found


def assert_both_directions_agree(store: Store, task_ids: Iterable[TaskId]) -> None:
    """Users of a task, and tasks of a user: each is worked out from the other."""
    everybody = list(store.preferences.everybody())
    assert len({preference.user_id for preference in everybody}) == len(everybody)
    for task_id in task_ids:
        expected = Counter[Cohort]()
        enabled = set()
        for preference in everybody:
            settings = preference.tasks.get(task_id)
            if settings is not None and settings.enabled:
                own = settings.interval.canonical if settings.interval else "default"
                expected[Cohort(preference.timezone, own)] += 1
                enabled.add((preference.user_id, place_of(task_id, preference.user_id)))
        found = [entry for entries in leaves_of(store, task_id).values() for entry in entries]
        assert store.preferences.cells(task_id) == dict(expected)
        assert len(found) == len(enabled)
        assert set(found) == enabled


# --- The steps of a run --------------------------------------------------------------------------


def definition_of(task: TaskType) -> str:
    """The id of a definition: the same for the same text."""
    return hashlib.blake2b(task.to_json().encode(), digest_size=8).hexdigest()


def publish(store: Store, version: int, *tasks: TaskType) -> bool:
    """Puts exactly these tasks into force."""
    definitions = {definition_of(task): task for task in tasks}
    return store.planning.publish(version, ",".join(sorted(definitions)), definitions)


def names(number: int, *, prefix: str = "u") -> list[str]:
    """So many users."""
    return [f"{prefix}{index:05}" for index in range(number)]


def enable(store: Store, user_ids: Iterable[str], task_id: TaskId = DIGEST, **settings: Any) -> None:
    """Switches a task on for users."""
    store.preferences.apply([Enable(UserId(user_id), task_id, **settings) for user_id in user_ids])


def share_of(cohort: str = EVERYBODY, **fields: Any) -> ShareClaim:
    """A share that starts at nine and may take an hour; it needs no due entry."""
    return ShareClaim(
        **{
            "cohort": cohort,
            "start_at": NINE,
            "spread": timedelta(0),
            "deadline_at": NOW + HOUR,
            **fields,
        }
    )


def claim(
    store: Store,
    *shares: ShareClaim,
    task: TaskType | None = None,
    nominal_at: datetime = NINE,
    run_id: RunId | None = None,
    kind: RunKind = RunKind.SCHEDULE,
    overlap: Overlap = Overlap.REPLACE,
    distribute_in: timedelta = timedelta(seconds=5),
) -> tuple[int, int]:
    """Claims a run; returns how many shares were claimed, and how many of them are carried out."""
    task = task or make_task(DIGEST)
    run_id = run_id or scheduled_run_id(task.id, nominal_at)
    return store.planning.claim(
        run_id,
        task=task,
        definition=definition_of(task),
        kind=kind,
        nominal_at=nominal_at,
        overlap=overlap,
        shares=shares,
        distribution=ListTransport("").distribution_message(run_id),
        distribute_in=distribute_in,
    )


def running(store: Store, user_ids: Iterable[str], **settings: Any) -> RunId:
    """The run of nine o'clock, claimed for these users and not yet distributed."""
    enable(store, user_ids, **settings)
    claim(store, share_of())
    return scheduled_run_id(DIGEST, NINE)


def next_step(store: Store, run_id: RunId, *, share: int = 0, size: int = 1000) -> Step:
    """The step that a distributor would take from where the share's cursor is."""
    run = store.runs.get(run_id)
    part = run.shares[share]
    # As far as the order does not go round: after that the next step.
    after, upto = next(stretches(part.first, after=part.cursor), (LAST_PLACE, LAST_PLACE))
    page = store.preferences.page(
        run.task_id, Cohort.parse(part.cohort), after=after, upto=upto, size=size, run_id=run_id, share=share
    )
    reached = position_of(page.reached, part.first)
    alike: dict[str, list[UserId]] = defaultdict(list)
    for member in page.members:
        alike[member.parameters].append(member.user_id)
    batches = [
        Batch(
            Envelope(
                task_id=run.task_id,
                user_id=user_ids[0],
                run_id=run_id,
                kind=run.kind,
                definition=run.definition,
                scheduled_at=run.nominal_at,
                execute_after=part.start_at,
                share=share,
                parameters=parameters,
            ),
            user_ids,
        )
        for parameters, user_ids in alike.items()
    ]
    return Step(share, part.cursor, reached, reached == LAST_PLACE, store.clock.now(), batches=batches)


def users_in(step: Step) -> list[UserId]:
    """Everybody who gets a job by a step."""
    return [user_id for batch in step.batches for user_id in batch.user_ids]


def distribute(store: Store, run_id: RunId, *, size: int = 1000) -> int:
    """Fans a run out to its end; returns how many jobs were new."""
    sent = 0
    for share, part in enumerate(store.runs.get(run_id).shares):
        done = part.done
        while not done:
            step = next_step(store, run_id, share=share, size=size)
            sent += store.ledger.fan_out(run_id, step, Priority.NORMAL) or 0
            done = step.done
    return sent


def end_of(envelope: Envelope, status: JobStatus = JobStatus.SUCCESS, **fields: Any) -> End:
    """The end of a job, as an attempt that took a second reports it."""
    failed = status is JobStatus.FAILED
    return End(
        **{
            "envelope": envelope,
            "status": status,
            "started_at": NOW,
            "ended_at": NOW + timedelta(seconds=1),
            "duration": timedelta(seconds=1),
            "attempts": envelope.attempt,
            "error": ErrorDetail(code="HTTP_500", message="it broke") if failed else None,
            **fields,
        }
    )
