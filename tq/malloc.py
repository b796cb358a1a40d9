"""How the C library hands out memory to threads.

glibc gives them up to eight heaps for each core, and hardly ever gives back what one of these has once needed. After
some minutes of 500 calls a second a worker's heaps had 44 MB, of which 20 were in use.
"""

import ctypes
import os
from contextlib import suppress

# Threads of Python seldom ask at the same time. What `MALLOC_ARENA_MAX` says in the environment goes before.
HEAPS = 2
_M_ARENA_MAX = -8  # as glibc's malloc.h has it


def share_heaps() -> None:
    """Has all threads that are still to be started share a few heaps, where the C library is glibc."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with suppress(OSError, AttributeError):  # others have no such function
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
