"""Whether a thread, as it was found, waits: by the function in which it stands.

While a thread waits in C, its Python frame stands at the call. Nearly all waits come down to a few functions of
the standard library and of Redis' client that do little else. What waits elsewhere is taken to work: that
costs it the little that it has used since, or, where threads have no clocks, shows it.
"""

from functools import lru_cache
from types import CodeType

# By the end of the file's path and the function: those that wait for threads, files, sockets and processes.
_WAITING = frozenset(
    {
        *(("threading.py", name) for name in ("Condition.wait", "Thread._wait_for_tstate_lock")),
        ("thread.py", "_worker"),
        *(
            ("selectors.py", f"{kind}Selector.select")
            for kind in ("Select", "_PollLike", "Epoll", "Devpoll", "Kqueue")
        ),
        *(
            ("socket.py", name)
            for name in ("SocketIO.readinto", "socket.accept", "create_connection", "getaddrinfo")
        ),
        *(("ssl.py", name) for name in ("SSLSocket.read", "SSLSocket.do_handshake")),
        *(("connection.py", f"Connection.{name}") for name in ("_recv", "_send")),
        *(("subprocess.py", f"Popen.{name}") for name in ("_try_wait", "_wait", "_communicate")),
        *(("hiredis.py", name) for name in ("_HiredisParser.read_from_socket", "_socket_can_read")),
        ("socket.py", "SocketBuffer._read_from_socket"),
    }
)


def waits(code: CodeType) -> bool:
    """Whether a thread whose innermost function this is waits."""
    return _waits(code.co_filename, code.co_qualname)


@lru_cache(maxsize=4096)
def _waits(path: str, function: str) -> bool:
    return (path.replace("\\", "/").rpartition("/")[2], function) in _WAITING
