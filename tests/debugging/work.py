"""Threads that are looked at: some that compute, many that wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def hot(stopping: threading.Event) -> None:
    """Computes until it is to stop."""
    while not stopping.is_set():
        burn()


def burn() -> int:
    """What is to be found."""
    total = 0
    for number in range(2_000):
        total += number * number
    return total


def waiter(stopping: threading.Event) -> None:
    """Waits until it is to stop."""
    stopping.wait()


def restless(stopping: threading.Event) -> None:
    """Works for less than a millisecond and waits for some, again and again, as a worker's threads do."""
    while not stopping.is_set():
        burn()
        stopping.wait(0.003)


def sleeper(stopping: threading.Event) -> None:
    """Looks every few milliseconds whether it is to stop, and does nothing else."""
    while not stopping.wait(0.01):
        pass


@contextmanager
def running(*work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Has each run in a thread of its own, named for it."""
    stopping = threading.Event()
    threads = [
        threading.Thread(target=each, args=(stopping,), name=f"{each.__name__}-{number}", daemon=True)
        for number, each in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
