"""Threads that wait for something to do. Who came last is woken first.

`threading.Condition` wakes whoever has waited longest. So of hundreds of threads all would take turns where a few do,
and each of them keeps its own connection, buffers and stack, which grow cold meanwhile.
"""

import threading


class Parking:
    """Where threads wait. All that is done here is done by who holds the lock."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._parked: list[threading.Lock] = []  # one for each thread, which waits until it is let go of

    def wait(self, seconds: float | None = None) -> None:
        """Waits until it is woken, for so long at most. The lock is let go of meanwhile."""
        parked, is_woken = threading.Lock(), False
        parked.acquire()
        self._parked.append(parked)
        self._lock.release()
        try:
            is_woken = parked.acquire(timeout=-1 if seconds is None else max(0.0, seconds))
        finally:
            self._lock.acquire()
            if not is_woken and parked in self._parked:
                self._parked.remove(parked)

    def wake(self, threads: int) -> None:
        """Wakes so many, or all that there are if these are fewer."""
        for _ in range(min(threads, len(self._parked))):
            self._parked.pop().release()

    def wake_all(self) -> None:
        """Wakes all."""
        self.wake(len(self._parked))
