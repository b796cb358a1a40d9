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
            waiting = tasks.get(task)
            if waiting is None:
                waiting = tasks[task] = deque()
            waiting.append(item)

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

    def has_job(self, may_begin: Callable[[str], int]) -> bool:
        """Whether an item of one of the three lanes waits whose task may begin."""
        return any(may_begin(task) for tasks in self._lanes.values() for task in tasks)

    def take_job(self, may_begin: Callable[[str], int]) -> T:
        """The item whose turn it is among those of the three lanes whose task may begin.

        Raises:
            IndexError: if none waits, or none may begin.
        """
        jobs = self.take_jobs(1, may_begin)
        if not jobs:
            raise IndexError("nothing waits that may begin")
        return jobs[0]

    def take_jobs(self, most: int, may_begin: Callable[[str], int]) -> list[T]:
        """So many items of the three lanes at most, in turn, and of each task as many as may begin."""
        left: dict[str, int] = {}
        jobs: list[T] = []
        while len(jobs) < most:
            turns: dict[str, str] = {}
            for lane, tasks in self._lanes.items():
                for task in tasks:
                    if task not in left:
                        left[task] = may_begin(task)
                    if left[task]:
                        turns[lane] = task
                        break
            if not turns:
                break
            lane = self._next_lane(turns)
            left[turns[lane]] -= 1
            jobs.append(self._take(lane, turns[lane]))
        return jobs

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

    def _take(self, lane: str, task: str) -> T:
        self._size -= 1
        tasks = self._lanes[lane]
        item = tasks[task].popleft()
        if tasks[task]:
            tasks.move_to_end(task)
        else:
            del tasks[task]
        return item

    def _next_lane(self, lanes: Iterable[str]) -> str:
        waiting = list(lanes)
        if len(waiting) == 1:
            return waiting[0]  # whose credit would be as before
        for lane in waiting:
            self._credit[lane] += WEIGHTS[lane]
        chosen = max(waiting, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(WEIGHTS[lane] for lane in waiting)
        return chosen
