"""What the system is told while things break: users and intervals change, tasks are paused, runs started.

Whatever is not accepted is said again, as an operator would; so is what Redis may have lost.
"""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

from tests.chaos.book import Change, Edit
from tests.chaos.evidence import Evidence
from tests.chaos.timetable import Do, Timetable
from tests.chaos.workload import (
    EDITED,
    EVERY_TASK,
    OWN_MINUTES,
    SCHEDULED,
    SPREAD,
    ZONED,
    ZONES,
    tasks_file,
)
from tests.end_to_end.commands import BIN, Commands
from tq.errors import StoreError
from tq.models import TaskId, UserId
from tq.pipeline import start_run
from tq.runtime import Runtime
from tq.store.preferences import Change as PreferenceChange
from tq.store.preferences import Disable, Enable, Relocate

CHANGED_AT_ONCE = 20
RETRY_S = 0.5
# Redis loses a second; what was accepted a little earlier does no harm when it is said again.
SAID_AGAIN_S = 3.0


class Operator:
    """Tells the system, past all proxies, and writes down what was accepted when."""

    def __init__(
        self,
        runtime: Runtime,
        commands: Commands,
        timetable: Timetable,
        evidence: Evidence,
        *,
        tasks_file: Path,
        endpoint_url: str,
    ) -> None:
        self._runtime = runtime
        self._commands = commands
        self._timetable = timetable
        self._evidence = evidence
        self._book = evidence.book
        self._workload = evidence.plan.workload
        self._random = Random(evidence.plan.seed)
        self._tasks_file = tasks_file
        self._endpoint_url = endpoint_url
        self._said: dict[str, tuple[float, Do]] = {}
        self._order = count()
        self._orders: dict[str, str] = {}  # the last one for each task: only that counts

    def enrol(self) -> None:
        """Gives all users their tasks, and puts the definitions into force."""
        enrolments = self._workload.enrolments(self._random)
        sent = time.time()
        self._runtime.store.preferences.apply(enrolments)
        accepted = time.time()
        for one in enrolments:
            self._book.changes[(one.task_id, one.user_id)].append(Change(sent, accepted, True))
            if one.task_id == SPREAD and one.interval is not None:
                self._book.own_minutes[(one.task_id, one.user_id)] = OWN_MINUTES
        self._book.zoned = frozenset({ZONED})
        self._runtime.definitions.publish(self._runtime.store.planning.look(limit=0))
        self._evidence.published = time.time()
        for task in SCHEDULED:
            self._book.edits[task].append(Edit(accepted, 1, self._evidence.published))

    def start_run(self, task: TaskId, number: int) -> None:
        """Starts a run for everybody; however often it must be said, it is one run."""
        key = f"{self._evidence.plan.seed}-{number}"
        self.tell(lambda: self._evidence.asked_for.add(start_run(self._runtime, task, request_key=key).id))

    def change_users(self, how: str, then: Do) -> None:
        """Has some users `disable` or `enable` a task each, or `move` to another zone."""
        random = self._random
        users = [UserId(f"user-{random.randrange(self._workload.users):05}") for _ in range(CHANGED_AT_ONCE)]
        cells = [(random.choice(EVERY_TASK), user) for user in users]
        changes = [_change(how, task, user, random) for task, user in cells]
        sent = time.time()

        def say() -> None:
            self._runtime.store.preferences.apply(changes)
            accepted = time.time()
            for task, user in cells:
                # Whoever was not answered at first may have been heard then.
                if how == "move":
                    self._book.moves[user].append((sent, accepted))
                else:
                    self._book.changes[(task, user)].append(Change(sent, accepted, how == "enable"))

        self.tell(say, then)

    def edit(self, every: int) -> None:
        """Writes the tasks file anew; a tick puts it into force."""
        self._book.edits[EDITED].append(Edit(time.time(), every))
        new = self._tasks_file.with_suffix(".new")
        new.write_text(tasks_file(self._endpoint_url, edited_every=every))
        new.replace(self._tasks_file)

    def order(self, order: str, task: str, then: Do) -> None:
        """Has `tq tasks` `pause` or `resume` a task."""
        self._orders[task] = order
        self._give(task, then)

    def _give(self, task: str, then: Do) -> None:
        """Gives the last order for a task until it is accepted."""
        order = self._orders[task]
        process = self._commands.start("orders", [str(BIN / "tq"), "tasks", order, task])

        def ended(well: bool) -> None:
            if not well:
                self._timetable.after(RETRY_S, lambda: self._give(task, then))
                return
            self._said[task] = (time.time(), lambda: self._give(task, lambda: None))
            if self._orders[task] != order:
                # Another was given while this one was on its way, and may have been overtaken by it.
                self._give(task, lambda: None)
            then()

        self._timetable.when_ended(process, ended)

    def tell(self, say: Do, then: Do = lambda: None) -> None:
        """Says something until it is accepted."""

        def until_accepted() -> None:
            try:
                say()
            except StoreError:
                self._timetable.after(RETRY_S, until_accepted)
                return
            self._said[f"{next(self._order)}"] = (time.time(), until_accepted)
            then()

        until_accepted()

    def say_again(self, lost: float) -> None:
        """Says again what was accepted shortly before an instant at which Redis has lost something."""
        for at, say in list(self._said.values()):
            if at > lost - SAID_AGAIN_S:
                self._timetable.after(0, say)


def _change(how: str, task: TaskId, user: UserId, random: Random) -> PreferenceChange:
    changes: dict[str, Callable[[], PreferenceChange]] = {
        "disable": lambda: Disable(user, task),
        "enable": lambda: Enable(user, task),
        "move": lambda: Relocate(user, random.choice(ZONES)),
    }
    return changes[how]()
