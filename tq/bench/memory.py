"""`tq bench memory`: what users, runs and queued jobs cost in Redis' memory.

Differences of what Redis says that it uses, from one stage to the next: nobody, everybody with one task,
everybody with a second one, a run for everybody that is under way as far as backpressure lets it, with no
worker taking anything away. Which keys it is in is told by family, as Redis reckons each key.
"""

from collections.abc import Callable, Mapping
from contextlib import closing

from tq.bench.machine import describe_machine
from tq.bench.measures import rounded
from tq.bench.workbench import TASK, Workbench, enrol, http_task, workbench
from tq.models import TaskId
from tq.pipeline import distribute, start_run
from tq.store.connection import chunks

FURTHER_TASK = TaskId("bench-too")
LOOKED_AT_ONCE = 1000
# Of a family with more keys than this, so many are looked at, evenly, and stand for the others.
MOST_LOOKED_AT = 20_000
MEGABYTE = 1_000_000
# What says of a run how many of its jobs ended how, and how far it is.
LEDGER = ("run", "shares")
STAGES = 3


def bench_memory(users: int, *, on_step: Callable[[], None] = lambda: None) -> dict[str, object]:
    """What so many users cost. It is measured once: it does not depend on time.

    Raises:
        TaskQueueError: a process cannot be started.
    """
    with workbench() as bench, closing(bench.open_runtime()) as runtime:
        bench.declare([http_task(bench), {**http_task(bench), "id": FURTHER_TASK}])
        runtime.store.ping()
        nobody = bench.redis_memory()
        enrol(runtime, users)
        with_one = bench.redis_memory()
        of_users = sizes_by_family(bench)
        on_step()
        enrol(runtime, users, FURTHER_TASK)
        with_two = bench.redis_memory()
        on_step()
        run = start_run(runtime, TASK)
        queued = distribute(runtime, run.id)
        with_run = bench.redis_memory()
        of_run = sizes_by_family(bench)
        on_step()
        return {
            "bytes_per_user_with_one_task": rounded((with_one - nobody) / users),
            "bytes_per_user_and_further_task": rounded((with_two - with_one) / users),
            "ledger_mb": rounded(sum(of_run.get(family, 0) for family in LEDGER) / MEGABYTE),
            "queue_mb": rounded((with_run - with_two) / MEGABYTE),
            "queued_jobs": queued,
            "bytes_per_user_by_family": {name: rounded(size / users) for name, size in of_users.items()},
            "kilobytes_of_run_by_family": {
                name: rounded((size - of_users.get(name, 0)) / 1000)
                for name, size in of_run.items()
                if name not in of_users
            },
            "users": users,
            "machine": describe_machine(bench.client),
        }


def sizes_by_family(bench: Workbench) -> Mapping[str, float]:
    """Bytes of all keys by their first word, the largest first."""
    prefix = f"{bench.settings.namespace}:"
    keys: dict[str, list[str]] = {}
    for key in bench.client.scan_iter(f"{prefix}*", count=LOOKED_AT_ONCE):
        keys.setdefault(key.removeprefix(prefix).partition(":")[0], []).append(key)
    sizes = {family: _size(bench, found) for family, found in keys.items()}
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def _size(bench: Workbench, keys: list[str]) -> float:
    some = keys[:: max(1, len(keys) // MOST_LOOKED_AT)]
    size = 0
    for few in chunks(some, LOOKED_AT_ONCE):
        with bench.client.pipeline(transaction=False) as pipe:
            for key in few:
                pipe.execute_command("MEMORY", "USAGE", key, "SAMPLES", "0")
            size += sum(int(found or 0) for found in pipe.execute())
    return size * len(keys) / len(some)
