"""Many calls of many threads over one set of connections, carried out by one thread.

Whoever calls waits until that thread says how the call has ended. The thread starts with the first call and ends
when the loop is closed; calls that are under way by then fail.
"""

import os
import selectors
import threading
import time
from collections import deque
from contextlib import suppress

import pycurl

Failure = tuple[int, str]  # libcurl's number of an error, and its words

_CLOSED = (pycurl.E_ABORTED_BY_CALLBACK, "the connections were closed in mid-call")
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_WANTED = {
    pycurl.POLL_IN: _READ,
    pycurl.POLL_OUT: _WRITE,
    pycurl.POLL_INOUT: _READ | _WRITE,
}
_READY = {
    _READ: pycurl.CSELECT_IN,
    _WRITE: pycurl.CSELECT_OUT,
    _READ | _WRITE: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}


class Loop:
    """Carries out the calls of all threads of one process; it is of no use to a fork."""

    def __init__(self, *, max_idle: int) -> None:
        """At most `max_idle` connections are kept for later calls; nothing is opened before the first."""
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._entering: deque[_Call] = deque()
        self._under_way: dict[pycurl.Curl, _Call] = {}
        self._due: float | None = None  # when libcurl wants to be called though nothing has come
        self._is_woken = False

    def perform(self, curl: pycurl.Curl) -> Failure | None:
        """Wait until the call has ended; None if it ended well. The handle's own timeout bounds the wait."""
        call = _Call(curl)
        with self._lock:
            if self._is_closed:
                return _CLOSED
            if self._thread is None:
                self._start()
            self._entering.append(call)
        self._wake()
        call.ended.acquire()
        return call.failure

    def close(self) -> None:
        """End the thread, and with it every call and connection."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._wake()
            thread.join()

    def _start(self) -> None:
        self._wakeup, self._waker = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._waker, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, _READ)
        # What the process waits for at its end are calls, and these end by their own timeout.
        self._thread = threading.Thread(target=self._run, name="calls over TLS", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        # One byte is enough for all that enter before the loop looks.
        if not self._is_woken:
            self._is_woken = True
            with suppress(BlockingIOError):
                os.write(self._waker, b"x")

    def _run(self) -> None:
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_MAXCONNECTS, self._max_idle)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        try:
            while not self._is_closed:
                self._turn(multi)
        finally:
            self._end(multi)

    def _turn(self, multi: pycurl.CurlMulti) -> None:
        wait = None if self._due is None else max(0.0, self._due - time.monotonic())
        for key, events in self._selector.select(wait):
            if key.fd == self._wakeup:
                self._let_in(multi)
            else:
                multi.socket_action(key.fd, _READY[events])
        if self._due is not None and self._due <= time.monotonic():
            self._due = None
            multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        more = 1
        while more:
            more, succeeded, failed = multi.info_read()
            for curl in succeeded:
                self._let_out(multi, curl, None)
            for curl, code, text in failed:
                self._let_out(multi, curl, (code, text))

    def _let_in(self, multi: pycurl.CurlMulti) -> None:
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        # Before the look, not after it: who enters from here on wakes the loop again.
        self._is_woken = False
        while self._entering:
            call = self._entering.popleft()
            try:
                multi.add_handle(call.curl)
            except pycurl.error as error:
                call.end(failure_of(error))
            else:
                self._under_way[call.curl] = call

    def _let_out(self, multi: pycurl.CurlMulti, curl: pycurl.Curl, failure: Failure | None) -> None:
        multi.remove_handle(curl)
        self._under_way.pop(curl).end(failure)

    def _watch(self, wanted: int, fd: int, *_: object) -> None:
        if wanted == pycurl.POLL_REMOVE:
            # libcurl may tell of sockets that it never had watched.
            with suppress(KeyError, ValueError):
                self._selector.unregister(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, _WANTED[wanted])
        else:
            self._selector.register(fd, _WANTED[wanted])

    def _set_timer(self, ms: int) -> None:
        self._due = None if ms < 0 else time.monotonic() + ms / 1000

    def _end(self, multi: pycurl.CurlMulti) -> None:
        with self._lock:
            self._is_closed = True
        for curl in list(self._under_way):
            self._let_out(multi, curl, _CLOSED)
        while self._entering:
            self._entering.popleft().end(_CLOSED)
        multi.close()
        self._selector.close()
        os.close(self._wakeup)
        os.close(self._waker)


class _Call:
    """A call, and whoever waits for its end."""

    __slots__ = ("curl", "ended", "failure")

    def __init__(self, curl: pycurl.Curl) -> None:
        self.curl = curl
        self.failure: Failure | None = None
        self.ended = threading.Lock()
        self.ended.acquire()

    def end(self, failure: Failure | None) -> None:
        self.failure = failure
        self.ended.release()


def failure_of(error: pycurl.error) -> Failure:
    """What libcurl said."""
    return int(error.args[0]), str(error.args[-1])
