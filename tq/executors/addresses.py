"""Where a call may go, and connections that go nowhere else and end in time.

Only public addresses are called, unless the operator allows others. A host is resolved once, all its
addresses are judged, and both the check before the call and the connection use that same answer for
half a minute: a name cannot show a public address to the check and a private one to the connection.
Behind a proxy only the check applies; the proxy resolves the name anew, so there a name that changes
its address in between is not caught.

Time bounds everything, also the operating system's lookup of a name, which gives up by its own rules: it is made
aside, once for all who ask for the same name, and whoever has no more time leaves it.
"""

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple, Self

import httpcore

REMEMBERED = timedelta(seconds=30)  # a host that moves is followed within a retry or two
MAX_HOSTS = 1024  # tasks have few; placeholders in a host's name could make many
MAX_LOOKUPS = 64  # under way at once; each has a thread until the operating system gives up
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Blocks that carry an IPv4 address in their last 32 bits: NAT64, mapped, and compatible.
_WITH_IPV4_AT_THE_END = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0/96"), IPv6Network("::/96"))


class Place(NamedTuple):
    """The addresses of a host, and the first of them that is not public, if there is one."""

    addresses: tuple[str, ...]
    private: str | None


class Places:
    """Finds and judges the addresses of hosts; one for all threads of a process."""

    def __init__(
        self,
        *,
        resolve: Callable[[str], tuple[str, ...]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve or _addresses_of
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Place, float]] = {}
        self._under_way: dict[str, Future[Place]] = {}
        self._process = os.getpid()

    def find(self, host: str, *, within: float | None = None) -> Place:
        """The addresses of a host, remembered for 30 seconds; failures are not remembered.

        Raises:
            TimeoutError: if they are not known `within` that many seconds.
            OSError: if the name cannot be resolved.
            UnicodeError: if the host can be no name at all.
        """
        known = self._known.get(host)
        if known is not None and self._monotonic() < known[1]:
            return known[0]
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._under_way = {}  # the threads that were at it are the parent's
            lookup = self._under_way.get(host)
            if lookup is None:
                if len(self._under_way) >= MAX_LOOKUPS:
                    raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up")
                lookup = self._under_way[host] = Future()
                threading.Thread(target=self._look_up, args=(host, lookup), daemon=True).start()
        return lookup.result(within)

    def _look_up(self, host: str, lookup: Future[Place]) -> None:
        place, failure = None, None
        try:
            addresses = self._resolve(host)
            place = Place(addresses, next((address for address in addresses if not is_public(address)), None))
        except (OSError, ValueError) as error:
            failure = error
        finally:
            with self._lock:
                self._under_way.pop(host, None)
                if place is not None:
                    if len(self._known) >= MAX_HOSTS:
                        self._known.clear()
                    self._known[host] = (place, self._monotonic() + REMEMBERED.total_seconds())
            if place is not None:
                lookup.set_result(place)
            else:
                lookup.set_exception(failure or OSError("the lookup broke off"))


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = _wrapped(found)
        if inner is None:
            return found in _GLOBAL_UNICAST and found.is_global
        found = inner
    return found.is_global and not found.is_multicast


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    # Teredo carries one, too, but its whole block is not public.
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in block for block in _WITH_IPV4_AT_THE_END):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _addresses_of(host: str) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Until(float):
    """A call's time limit as httpx takes it, in seconds, that also knows the instant at which it is over.

    httpx grants its limit anew to every wait; a connection of `Connections` grants what is left.
    """

    ends: float

    def __new__(cls, seconds: float) -> Self:
        """The limit of a call that begins now."""
        limit = super().__new__(cls, seconds)
        limit.ends = time.monotonic() + seconds
        return limit

    @property
    def left(self) -> float:
        """Seconds until the end, or less than 0 after it."""
        return self.ends - time.monotonic()


class Connections(httpcore.NetworkBackend):
    """Opens httpx's connections: to judged addresses only, and each wait within the time of the call."""

    def __init__(self, places: Places, *, allow_private: bool) -> None:
        self._places = places
        self._allow_private = allow_private
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that accepts one; what time is left is shared among them.

        Raises:
            httpcore.ConnectError: if none does, or one is not public.
            httpcore.ConnectTimeout: if the last one did not in time.
            UnicodeError: if the host can be no name at all.
        """
        try:
            place = self._places.find(host, within=_left(timeout, httpcore.ConnectTimeout))
            if place.private is not None and not self._allow_private:
                raise PermissionError(errno.EACCES, f"its address {place.private} is not public")
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the lookup of the name took too long") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for untried, address in zip(range(len(place.addresses), 0, -1), place.addresses, strict=True):
            left = _left(timeout, httpcore.ConnectTimeout)
            share = None if left is None else left / untried
            try:
                stream = self._plain.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream)
        raise failure


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, plain: httpcore.NetworkStream) -> None:
        self._plain = plain

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._plain.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._plain.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._plain.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)


def _left(timeout: float | None, too_late: type[httpcore.TimeoutException]) -> float | None:
    if not isinstance(timeout, Until):
        return timeout
    left = timeout.left
    if left <= 0:
        raise too_late("the call's time is over")
    return left
