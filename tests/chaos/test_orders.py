"""What the operator of a chaos round has said holds in the end, whatever Redis has lost meanwhile."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tests.chaos.evidence import Evidence, Plan
from tests.chaos.orders import Operator
from tests.chaos.timetable import Timetable
from tests.chaos.workload import Workload
from tests.end_to_end.commands import Commands
from tests.waiting import eventually


class Orders(Commands):
    """Commands that do nothing but end; they fail while `is_away`, as they would without Redis."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "redis://127.0.0.1:1/0", "tasks: []")
        self.given: list[str] = []
        self.is_away = False

    def start(
        self,
        name: str,  # noqa: ARG002 - the signature is that of Commands
        command: Sequence[str],
        env: Mapping[str, str] | None = None,  # noqa: ARG002 - likewise
    ) -> subprocess.Popen[bytes]:
        """Notes the order, and whether it is accepted."""
        self.given.append(command[-2])
        return super().start("orders", ["false" if self.is_away else "true"])


def test_what_is_said_again_is_the_last_order_though_that_was_not_accepted_yet(tmp_path: Path) -> None:
    timetable, orders = Timetable(), Orders(tmp_path)
    with closing(orders.open_runtime()) as runtime, closing_commands(orders):
        evidence = Evidence(Plan(seed=1, faults=[], workload=Workload(1, 0)))
        operator = Operator(
            runtime, orders, timetable, evidence, tasks_file=tmp_path / "tasks.yaml", endpoint_url=""
        )
        operator.order("pause", "bulk", lambda: None)
        turn_until(timetable, lambda: timetable.is_empty)
        orders.is_away = True
        operator.order("resume", "bulk", lambda: None)
        turn_until(timetable, lambda: len(orders.given) > 2)

        orders.is_away = False
        operator.say_again(time.time())
        turn_until(timetable, lambda: timetable.is_empty)

    assert orders.given[0] == "pause"
    assert set(orders.given[1:]) == {"resume"}


def turn_until(timetable: Timetable, condition: Callable[[], bool]) -> None:
    """Does what is due until the condition holds."""

    def holds() -> bool:
        timetable.turn()
        return condition()

    eventually(holds)


@contextmanager
def closing_commands(commands: Commands) -> Iterator[None]:
    """Ends them all."""
    try:
        yield
    finally:
        commands.stop()
