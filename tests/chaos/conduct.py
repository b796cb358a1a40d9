"""One round: a system of real processes at work, faults at their moments, and then rest."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.book import Edit, minutes
from tests.chaos.breaker import AppendOnlyFile, Breaker
from tests.chaos.endpoint import Endpoint
from tests.chaos.evidence import Evidence, Plan
from tests.chaos.orders import Operator
from tests.chaos.processes import SHUTDOWN_TIMEOUT_S, Service, end_all
from tests.chaos.proxy import Proxies
from tests.chaos.schedule import PROCESSES, WORKERS, Kind
from tests.chaos.timetable import Timetable
from tests.chaos.watch import MENDABLE_AFTER_S, Watch
from tests.chaos.whereabouts import whereabouts
from tests.chaos.workload import EDITED, EVERY_TASK, MANUAL, SCHEDULED, tasks_file
from tests.end_to_end.commands import BIN, NAMESPACE, Commands
from tests.waiting import eventually
from tq.clock import from_ms
from tq.errors import StoreError
from tq.models import RunStatus, scheduled_run_id
from tq.redis_server import RedisServer
from tq.runtime import Runtime
from tq.store.connection import chunks
from tq.store.results import unpack_result

THREADS = 16
READY = "Worker process is ready for action"
RATE_LIMIT = 5000
RESULTS_KEPT = 100
RESULTS_BATCH = 2000
MOST_RUNS = 100
LASTING_PORTS = range(20_000, 32_000)  # Linux takes those of outgoing connections from 32768 on
ATTEMPTS = 20
OVERTIME_S = 60.0  # for a process that is asked to end, or an order that is not accepted
SETTLED_AGAIN_S = 0.5
# By then the first jobs of a run are under way, and not yet the last.
BEFORE_KILL_S = (0.3, 1.0)
# Whatever Redis has acknowledged is on disk; an event tells of every list that changes.
REDIS_OPTIONS = (
    *("--appendfsync", "always", "--notify-keyspace-events", "Kl"),
    *("--auto-aof-rewrite-percentage", "0"),
)


def live(plan: Plan, folder: Path) -> Evidence:
    """Lives through a round, in a folder of its own; nothing of it runs afterwards."""
    evidence = Evidence(plan)
    with ExitStack() as stack:
        # Dramatiq looks for modules in the working directory first: nothing of ours is to be found there.
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(_variable("CHAOS_PROCESS", "harness"))
        port = _lasting_port()
        redis = stack.enter_context(RedisServer(folder / "redis", port=port, extra=REDIS_OPTIONS))
        endpoint = stack.enter_context(Endpoint())
        proxies = stack.enter_context(Proxies())
        round_ = _Round(folder, redis, port, endpoint, proxies, evidence)
        stack.callback(round_.close)
        round_.begin()
        round_.break_things()
        round_.settle()
        round_.collect()
    return evidence


class _Round:
    def __init__(
        self,
        folder: Path,
        redis: RedisServer,
        port: int,
        endpoint: Endpoint,
        proxies: Proxies,
        evidence: Evidence,
    ) -> None:
        self._evidence = evidence
        self._plan = evidence.plan
        self._endpoint = endpoint
        code = {"PYTHONPATH": str(self._plan.package)} if self._plan.package else {}
        self._commands = Commands(
            folder,
            redis.url,
            tasks_file(endpoint.url, edited_every=1),
            {"TQ_RATE_LIMIT": str(RATE_LIMIT), "TQ_RESULT_HISTORY": str(RESULTS_KEPT), **code},
        )
        self._runtime: Runtime = self._commands.open_runtime()
        self._watch = Watch(port, NAMESPACE, EVERY_TASK)
        self._watching = ExitStack()
        self._timetable = Timetable()
        self._append_only = AppendOnlyFile(folder / "redis" / "appendonlydir")
        ways = {name: proxies.open(port) for name in PROCESSES}
        self._services = {name: Service(name, self._starter(name, way.port)) for name, way in ways.items()}
        self._operator = Operator(
            self._runtime,
            self._commands,
            self._timetable,
            evidence,
            tasks_file=folder / "tasks.yaml",
            endpoint_url=endpoint.url,
        )
        self._breaker = Breaker(
            self._services,
            ways,
            redis,
            self._append_only,
            endpoint,
            self._operator,
            self._runtime,
            self._timetable,
            evidence,
        )

    def _starter(self, name: str, port: int) -> Callable[[], subprocess.Popen[bytes]]:
        command = [str(BIN / "tq"), "scheduler"]
        if name in WORKERS:
            command = [str(BIN / "tq"), "worker", "--processes", "1", "--threads", str(THREADS)]
            command += ["--shutdown-timeout", f"{SHUTDOWN_TIMEOUT_S}s"]
        env = {"TQ_REDIS_URL": f"redis://127.0.0.1:{port}/0", "CHAOS_PROCESS": name}
        return lambda: self._commands.start(name, command, env)

    def begin(self) -> None:
        """Starts everything; returns when all workers take messages."""
        self._operator.enrol()
        self._watching.enter_context(self._watch)
        for service in self._services.values():
            service.start()
        eventually(lambda: self._commands.log_text().count(READY) >= len(WORKERS), why="workers not ready")
        self._evidence.began = time.time()

    def break_things(self) -> None:
        """Has every fault happen, and every run be started, each at its moment."""
        began = self._evidence.began
        for number, at_s in enumerate(_starts(self._plan)):
            start = partial(self._operator.start_run, MANUAL[number % len(MANUAL)], number)
            self._timetable.at(began + at_s, start)
        for fault in self._plan.faults:
            self._timetable.at(began + fault.at_s, partial(self._breaker.happen, fault))
        end = began + self._plan.seconds
        while (not self._timetable.is_empty or time.time() < end) and time.time() < end + OVERTIME_S:
            self._append_only.look()
            self._timetable.turn()
        if not self._timetable.is_empty:
            self._evidence.notes.append(f"not everything could be done {OVERTIME_S:.0f} s after its time")

    def settle(self) -> None:
        """Waits until everything that was due by now has ended and nothing is left to mend, or for long enough."""
        quiet = self._evidence.quiet = time.time()
        while time.time() < quiet + self._plan.settle_s:
            if self._has_settled(quiet):
                break
            time.sleep(SETTLED_AGAIN_S)
        else:
            self._evidence.notes.append(f"not settled within {self._plan.settle_s:.0f} s")
        self._evidence.settled = time.time()

    def _has_settled(self, quiet: float) -> bool:
        self._note_edits()
        oldest = self._watch.oldest
        if oldest is None or oldest.at < quiet or oldest.oldest_s > MENDABLE_AFTER_S:
            return False
        try:
            runs = {run.id: run for run in self._runtime.store.runs.latest(limit=MOST_RUNS)}
        except StoreError:
            return False
        is_busy = any(
            run.status is RunStatus.RUNNING and run.nominal_at.timestamp() <= quiet for run in runs.values()
        )
        return not is_busy and all(
            scheduled_run_id(task, from_ms(nominal * 1000)) in runs
            for task in SCHEDULED
            for nominal in minutes(self._evidence.published, quiet)
            if self._evidence.book.is_due_by_default(task, nominal)
        )

    def _note_edits(self) -> None:
        """Notes since when each edit has been in force without a break."""
        _, *edits = self._evidence.book.edits[EDITED]
        for number, edit in enumerate(edits, start=1):
            until = edits[number].sent if number < len(edits) else float("inf")
            edit.in_force = None
            for at, definitions in reversed(self._watch.definitions_seen):
                if edit.sent <= at < until:
                    if not _holds(edit, definitions.get(EDITED, "")):
                        break
                    edit.in_force = at

    def collect(self) -> None:
        """Ends all processes, and reads what has become of everything."""
        evidence, store = self._evidence, self._runtime.store
        self._note_edits()
        # While they run: what they put back as they end would look as if it had waited there.
        evidence.notes += whereabouts(store, NAMESPACE, until=evidence.quiet)
        evidence.notes += end_all(self._services.values())
        self._watching.close()
        evidence.runs = [store.runs.get(run.id) for run in store.runs.latest(limit=MOST_RUNS)]
        evidence.totals = store.totals.read([]).totals
        evidence.open_jobs = {run.id: set(store.runs.open_users(run.id)) for run in evidence.runs}
        key_of = partial(store.connection.keys, "results")
        for cells in chunks(list(evidence.book.changes), RESULTS_BATCH):
            found = store.connection.calls([("LRANGE", key_of(task, user), 0, -1) for task, user in cells])
            for (task, user), texts in zip(cells, found, strict=True):
                # In the order in which they were stored.
                results = [unpack_result(task, user, text) for text in reversed(texts)]
                evidence.results[(task, user)] = results
        evidence.calls = list(self._endpoint.calls)
        evidence.stored = dict(self._watch.ends)
        evidence.samples = list(self._watch.samples)
        evidence.mends = list(self._watch.mends)

    def close(self) -> None:
        """Leaves nothing running, wherever the round was broken off."""
        end_all(self._services.values())
        self._watching.close()
        self._commands.stop()
        self._runtime.close()


def _starts(plan: Plan) -> list[float]:
    """When the manual runs are started, in seconds from the round's beginning.

    A worker that has nothing to do takes nothing with it: so runs are started just before one is killed.
    It is one of three that distributes a run, so there are two of them.
    """
    random = Random(plan.seed)
    kills = [fault.at_s for fault in plan.faults if fault.kind is Kind.KILL and fault.target in WORKERS]
    starts = [max(0.0, at_s - random.uniform(*BEFORE_KILL_S)) for at_s in kills for _ in range(2)]
    starts += [random.uniform(0, 0.8 * plan.seconds) for _ in range(plan.workload.manual_runs)]
    return starts[: plan.workload.manual_runs]


def _lasting_port() -> int:
    """A free port that no outgoing connection is given while Redis is away."""
    for port in Random().sample(LASTING_PORTS, k=ATTEMPTS):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"none of {ATTEMPTS} ports in {LASTING_PORTS} is free")


def _holds(edit: Edit, definition: str) -> bool:
    """Whether a published definition, `id|interval`, is what an edit made it."""
    return definition.endswith(f"|minutely/{edit.every}@UTC")


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Has a variable that the tasks file names be there for us too."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
