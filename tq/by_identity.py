"""What was made of objects that come again and again."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 2048


class ByIdentity(Generic[K, V]):
    """Found by which object it was made of: to compare objects would cost more, or to make it anew.

    It is for objects that do not change. Any thread may ask; of two that ask at once, each may make it.
    """

    def __init__(self, make: Callable[[K], V]) -> None:
        """Of more than `MOST` objects that come by turns, what was made is forgotten."""
        self._make = make
        self._known: dict[int, tuple[K, V]] = {}

    def get(self, key: K) -> V:
        """What was made of this object, now or before. It raises what making it raises."""
        # That it is kept along is what keeps another from getting its number.
        known = self._known.get(id(key))
        if known is not None and known[0] is key:
            return known[1]
        made = self._make(key)
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[id(key)] = (key, made)
        return made
