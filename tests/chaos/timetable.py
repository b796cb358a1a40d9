"""What is to be done when: by one thread, which also starts all processes, one thing after the other."""

import heapq
import subprocess
import time
from collections.abc import Callable
from itertools import count

Do = Callable[[], object]
TURN_S = 0.02


class Timetable:
    """Things to be done at their moments, and commands to be waited for meanwhile."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Do]] = []
        self._order = count()
        self._commands: list[tuple[subprocess.Popen[bytes], Callable[[bool], object]]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be done or waited for."""
        return not self._entries and not self._commands

    def at(self, instant: float, do: Do) -> None:
        """Has something done at an instant (s since the epoch), or as soon after it as may be."""
        heapq.heappush(self._entries, (instant, next(self._order), do))

    def after(self, seconds: float, *things: Do) -> None:
        """Has things done, one after the other, in so many seconds."""

        def do_all() -> None:
            for do in things:
                do()

        self.at(time.time() + seconds, do_all)

    def when_ended(self, process: subprocess.Popen[bytes], then: Callable[[bool], object]) -> None:
        """Tells, when a command has ended, whether it ended well."""
        self._commands.append((process, then))

    def turn(self) -> None:
        """Does one thing that is due, or waits for a moment."""
        for command in [one for one in self._commands if one[0].poll() is not None]:
            self._commands.remove(command)
            process, then = command
            then(process.returncode == 0)
        if self._entries and self._entries[0][0] <= time.time():
            heapq.heappop(self._entries)[2]()
        else:
            time.sleep(TURN_S)
