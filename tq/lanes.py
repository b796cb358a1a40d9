"""In which order waiting jobs are taken: fair over priorities, and over tasks within a priority.

Pure. Control messages come first, since they decide what the others are. Then high, normal and low
are served 16 : 4 : 1 while all of them wait, by smooth weighted round-robin, so that none starves
and none comes in bursts. Within a priority, tasks take turns.
"""

from collections import OrderedDict, deque
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

    def take(self) -> T:
        """The item whose turn it is.

        Raises:
            IndexError: if none waits.
        """
        if not self._size:
            raise IndexError("nothing waits")
        self._size -= 1
        if self._urgent:
            return self._urgent.popleft()
        tasks = self._lanes[self._next_lane()]
        task, waiting = tasks.popitem(last=False)
        item = waiting.popleft()
        if waiting:
            tasks[task] = waiting
        return item

    def _next_lane(self) -> str:
        waiting = [lane for lane, tasks in self._lanes.items() if tasks]
        for lane in waiting:
            self._credit[lane] += WEIGHTS[lane]
        chosen = max(waiting, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(WEIGHTS[lane] for lane in waiting)
        return chosen
