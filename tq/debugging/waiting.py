"""Whether a thread, as it was found, waits for something.

While a thread waits in C, its Python frame stands at the call. Which function was called is not told, but
its name can be read from the instructions. A function written in Python has a frame of its own and so is
never taken for one that waits; a function in C that is called like one of these and works is taken for it,
and then its time counts where the thread is found next.
"""

import dis
from types import CodeType, FrameType

# What waits for locks, time, files, sockets and processes, in the standard library and in Redis' client.
_WAITING = frozenset(
    {"acquire", "__enter__", "sleep", "select", "poll", "epoll", "control", "pause", "sigwait", "sigtimedwait"}
    | {"accept", "connect", "connect_ex", "do_handshake", "getaddrinfo", "gethostbyaddr", "gethostbyname"}
    | {"recv", "recv_into", "recvfrom", "recvmsg", "read", "read1", "readinto", "readline", "waitpid", "waitid"}
)  # fmt: skip


class Waiting:
    """Knows it of every instruction it was asked about."""

    def __init__(self) -> None:
        # The code is kept beside what is known of it, so that no other gets its id.
        self._known: dict[int, tuple[CodeType, frozenset[int]]] = {}

    def __call__(self, frame: FrameType) -> bool:
        """Whether the thread that this is the innermost frame of waits."""
        known = self._known.get(id(frame.f_code))
        if known is None:
            known = self._known[id(frame.f_code)] = (frame.f_code, _where_it_waits(frame.f_code))
        return frame.f_lasti in known[1]


def _where_it_waits(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions that may wait: calls by such a name, and the beginnings of `with`.

    What a call calls is the last name that was loaded before it and begins in the source where the call does.
    """
    found, loaded = [], {}
    for instruction in dis.get_instructions(code):
        at = instruction.positions
        begins = (at.lineno, at.col_offset) if at else None
        if instruction.opname.startswith("LOAD_"):
            loaded[begins] = instruction.argval
        elif instruction.opname == "BEFORE_WITH" or (
            instruction.opname.startswith("CALL") and loaded.get(begins) in _WAITING
        ):
            found.append(instruction.offset)
    return frozenset(found)
