"""In which order waiting jobs are taken: fair over priorities, and over tasks within a priority.

Pure. Control messages come first, since they decide what the others are. Then high, normal and low
are served 16 : 4 : 1 while all of them wait, by smooth weighted round-robin, so that none starves
and none comes in bursts. Within a priority, tasks take turns.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from tq.models import Priority

WEIGHTS = {Priority.HIGH.value: 16, Priority.NORMAL.value: 4, Priority.LOW.value: 1}

T = TypeVar("T")


class Lanes(Generic[T]):
    """Items that wait, each in a lane and for a task. Not thread-safe."""

    def __init__(self) -> None:
        self._urgent: deque[T] = deque()
        self._lanes: dict[str, OrderedDict[str, deque[T]]] = {lane: OrderedDict() for lane in WEIGHTS}
        self._credit = dict.fromkeys(WEIGHTS, 0)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, item: T, *, lane: str, task: str = "") -> None:
        """Has an item wait; a lane that is none of the three goes before all of them."""
        self._size += 1
        tasks = self._lanes.get(lane)
        if tasks is None:
            self._urgent.append(item)
        else:
            tasks.setdefault(task, deque()).append(item)

    @property
    def has_urgent(self) -> bool:
        """Whether one waits that goes before all others."""
        return bool(self._urgent)

    def take(self) -> T:
        """The item whose turn it is.

        Raises:
            IndexError: if none waits.
        """
        if not self._urgent:
            return self.take_job(lambda _task: True)
        self._size -= 1
        return self._urgent.popleft()

    def has_job(self, may_begin: Callable[[str], bool]) -> bool:
        """Whether an item of one of the three lanes waits whose task may begin."""
        return any(may_begin(task) for tasks in self._lanes.values() for task in tasks)

    def take_job(self, may_begin: Callable[[str], bool]) -> T:
        """The item whose turn it is among those of the three lanes whose task may begin.

        Raises:
            IndexError: if none waits, or none may begin.
        """
        turns: dict[str, str] = {}
        for lane, tasks in self._lanes.items():
            for task in tasks:
                if may_begin(task):
                    turns[lane] = task
                    break
        if not turns:
            raise IndexError("nothing waits that may begin")
        lane = self._next_lane(turns)
        self._size -= 1
        waiting = self._lanes[lane][turns[lane]]
        item = waiting.popleft()
        self._lanes[lane].move_to_end(turns[lane])
        if not waiting:
            del self._lanes[lane][turns[lane]]
        return item

    def tasks(self) -> dict[str, int]:
        """How many items wait for each task."""
        counts: dict[str, int] = {}
        for tasks in self._lanes.values():
            for task, waiting in tasks.items():
                counts[task] = counts.get(task, 0) + len(waiting)
        return counts

    def withdraw(self, task: str, items: int) -> list[T]:
        """Takes out the items of a task that would come last, at most so many, last ones first."""
        withdrawn: list[T] = []
        for lane in reversed(WEIGHTS):
            waiting = self._lanes[lane].get(task)
            while waiting and len(withdrawn) < items:
                withdrawn.append(waiting.pop())
            if waiting is not None and not waiting:
                del self._lanes[lane][task]
        self._size -= len(withdrawn)
        return withdrawn

    def _next_lane(self, lanes: Iterable[str]) -> str:
        waiting = list(lanes)
        for lane in waiting:
            self._credit[lane] += WEIGHTS[lane]
        chosen = max(waiting, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(WEIGHTS[lane] for lane in waiting)
        return chosen
