"""Where the messages are of jobs that should have ended, for whoever has to find out why they did not."""

from collections.abc import Iterator
from itertools import islice

from actors.broker import JOB_QUEUES
from actors.transport import broker_namespace
from tq.models import Run, RunStatus, UserId, job_id_of
from tq.store import Store

MOST_RUNS = 100
MOST_JOBS = 10  # of each run


def whereabouts(store: Store, namespace: str, *, until: float) -> list[str]:
    """A line for each of some open jobs of runs whose nominal time is not after an instant (s)."""
    late = [
        run
        for run in store.runs.latest(limit=MOST_RUNS)
        if run.status is RunStatus.RUNNING and run.nominal_at.timestamp() <= until
    ]
    return [
        _line(store, namespace, run, user)
        for run in late
        for user in islice(store.runs.open_users(run.id), MOST_JOBS)
    ]


def _line(store: Store, namespace: str, run: Run, user: UserId) -> str:
    redis = store.connection
    state = redis.call("HGET", redis.keys("open", run.id), user) or "ended meanwhile"
    message = f"{job_id_of(run.id, user)}-{state.partition('|')[0]}"
    prefix, agenda = broker_namespace(namespace), redis.keys("agenda")
    where: list[str] = []
    for queue in sorted(JOB_QUEUES):
        if redis.call("HEXISTS", f"{prefix}:{queue}.msgs", message):
            where.append(f"body in {queue}")
        ahead = redis.call("LPOS", f"{prefix}:{queue}", message)
        if ahead is not None:
            # With many ahead the system is slow; with none, nobody asks.
            where.append(
                f"queued in {queue}, {ahead} ahead and {redis.call('LLEN', f'{prefix}:{queue}')} in all"
            )
        where += [
            f"fetched by {process}"
            for process in _processes(store, prefix)
            if redis.call("SISMEMBER", f"{prefix}:__acks__.{process}.{queue}", message)
        ]
    for kind, what in (("r", "waits for its retry"), ("p", "was put off")):
        if redis.call("ZSCORE", agenda, f"{kind}|{run.id}|{user}") is not None:
            where.append(what)
    return f"open: {run.id}: {user} ({state}): {', '.join(where) or 'no message anywhere'}"


def _processes(store: Store, prefix: str) -> Iterator[str]:
    yield from store.connection.call("ZRANGE", f"{prefix}:__heartbeats__", 0, -1)
