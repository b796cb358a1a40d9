"""Headers that are known to be right, so that httpx need not go through each of them again.

It would do so twice a call: for the request, and for its answer.
"""

from collections.abc import Iterable

import httpx

# A name as it is sent, the same in lower case, and a value: as httpx keeps them.
Line = tuple[bytes, bytes, bytes]


class ReadyHeaders(httpx.Headers):
    """Like any of httpx's; copied by it as they are."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._list = list(lines)
        self._encoding = None
