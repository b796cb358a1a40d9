"""Where every thread is now, looked at so that the process neither comes to a halt nor loses its memory."""

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def frames_now() -> Iterator[Mapping[int, FrameType]]:
    """The innermost frame of each thread, by the thread's identity; to be gone through from there, before this ends.

    No garbage is collected in between, which would be in two ways the end of the process:

    - Python 3.11 and 3.12 hold a lock of their own while they make this, which the collector needs, too: were it to
      begin just then, no thread would ever go on (CPython's issue 106883).
    - Python 3.11 makes the object of a frame when it is first asked for, by `f_back`. If the collector begins then, and
      what it does lets other threads work, the thread that is looked at goes on; what is made is the object of a
      frame that is no more, of memory that is something else by then.
    """
    with _ONE_AT_A_TIME:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield sys._current_frames()
        finally:
            if collects:
                gc.enable()
