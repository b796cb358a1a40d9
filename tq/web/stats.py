"""What the system is doing now, in one document: who, what waits, what is under way, and how fast."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from tq.errors import InvalidDefinition
from tq.limits import EVERY_TASK, Limit, limit_everything, limit_of
from tq.models import RateBand, Run
from tq.runtime import Runtime
from tq.store import Store
from tq.store.heartbeats import SCHEDULER, WEB, WORKER, Process
from tq.store.vitals import Signs

OUTCOMES = ("success", "failed", "expired", "cancelled", "skipped")
STILL = ("expected", *OUTCOMES, "open", "waiting", "retries")


def stats_of(runtime: Runtime, store: Store) -> dict[str, Any]:
    """The document; a rate is in calls per second.

    Raises:
        StoreError: if Redis does not tell.
    """
    signs, running = store.vitals.signs(), store.runs.running()
    return {
        "now": signs.now,
        "last_tick": signs.last_tick,
        "schedulers": _processes(signs, SCHEDULER),
        "workers": _processes(signs, WORKER),
        "web": _processes(signs, WEB),
        "queues": [
            {
                "queue": queue.name,
                "waiting": queue.waiting,
                "first_since": queue.first_since,
                "dead_letters": queue.dead_letters,
            }
            for queue in signs.queues
        ],
        "agenda": {"size": signs.agenda_size, "overdue": signs.overdue, "first_due": signs.agenda_since},
        "runs": [_run(run) for run in running],
        "jobs": _jobs(running),
        "limits": list(_limits(runtime, store)),
    }


def _processes(signs: Signs, component: str) -> list[dict[str, Any]]:
    return [
        _process(process, signs.now)
        for process in sorted(signs.processes, key=lambda process: process.since)
        if process.component == component
    ]


def _process(process: Process, now: datetime) -> dict[str, Any]:
    return {
        "host": process.host,
        "pid": process.pid,
        "version": process.version,
        "since": process.since,
        "seen": process.seen_at,
        "silent": process.is_silent(now),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "task_id": run.task_id,
        "kind": run.kind.value,
        "nominal_at": run.nominal_at,
        "claimed_at": run.claimed_at,
        "deadline_at": run.deadline_at,
        **{name: getattr(run.counts, name) for name in STILL},
    }


def _jobs(running: Sequence[Run]) -> dict[str, int]:
    """The jobs of all runs under way, by how they have ended or that they have not."""
    total = Counter(dict.fromkeys(STILL, 0))
    for run in running:
        total.update({name: getattr(run.counts, name) for name in STILL})
    return dict(total)


def _limits(runtime: Runtime, store: Store) -> Iterator[dict[str, Any]]:
    """How all tasks together stand, and then each."""
    settings = runtime.settings
    configured: dict[str, float | RateBand | None] = {EVERY_TASK: settings.rate_limit}
    limits: dict[str, Limit] = {EVERY_TASK: limit_everything(settings)}
    # Who asks how the system fares is answered also where the tasks file cannot be read.
    with suppress(InvalidDefinition):
        for task in runtime.registry.current.tasks.values():
            configured[task.id], limits[task.id] = task.rate_limit, limit_of(task, settings)
    standings = store.limits.standings(limits)
    whole = standings[EVERY_TASK]
    for scope, rate in configured.items():
        standing = standings[scope]
        yield {
            "task_id": scope,
            "configured": rate.model_dump() if isinstance(rate, RateBand) else rate,
            "concurrency": limits[scope].concurrency or None,
            "ceiling": standing.ceiling_within(whole),
            "effective": standing.effective_within(whole),
            "why": standing.why_within(whole),
            "until": standing.until_within(whole),
            "in_use": standing.in_use,
            "waiting": standing.waiting,
            "error_rate": standing.error_rate,
        }
