"""Waiting for a condition, instead of for a time."""

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def eventually(condition: Callable[[], bool], *, within_s: float = PATIENCE_S, why: str = "") -> None:
    """Returns as soon as the condition holds; fails when it has not in a long time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {within_s} s: {why or condition}")
        time.sleep(0.05)
