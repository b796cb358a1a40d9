"""httpx's transport over libcurl: what waits for an answer holds neither the interpreter's lock nor much memory.

A call has one time limit for all of it: the lookup of the name, the connection, the request, the answer.
Names are looked up by `Places` alone and libcurl is told their addresses. What is judged is the address that a socket
is opened for, so a name cannot show a public address to a check and a private one to the connection.

A request is sent once. libcurl by itself repeats one whose connection broke before an answer came; the endpoint
may have done the work by then, so here this is an error, and whoever called decides. Nor is it sent over a
connection that is known to be closed; over TLS this may have gone unnoticed for up to a second.

Who carries a call out depends on TLS. A plain call is made by the calling thread with a handle that keeps one
connection: nothing is cheaper. But the certificates that a handle trusts take 0.8 MB and 10 ms, so calls over TLS
share one loop per process (`curl_loop`), and with it one set of certificates, connections, and HTTP/2 streams.
"""

import ctypes
import errno
import math
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

import certifi
import httpx
import pycurl

from tq.by_identity import ByIdentity
from tq.executors.addresses import Places, Until, is_public
from tq.executors.curl_loop import Failure, Loop, failure_of
from tq.ready_http import Line, lines_of, ready_headers

# httpx keeps a connection for 5 s, and so do many servers: whoever calls at that instant loses the race.
IDLE_SECONDS = 4
# What is sent at a time. libcurl's own 64 kB, once for each of hundreds of threads, would be nearly half of what a call keeps.
UPLOAD_BYTES = 16 * 1024
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_SCHEMES = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
# libcurl adds these by itself unless it is told not to; and would wait a second for "100 Continue".
_UNASKED = ((b"\naccept:", b"Accept:"), (b"\ncontent-type:", b"Content-Type:"), (b"\nexpect:", b"Expect:"))
_CUT_OFF = 0  # what a write callback returns to have no more of an answer
# Of newer libcurl, and not named by every pycurl.
_E_PROXY = 97
# When a request was sent, or, where libcurl is too old to say so, when it was about to be.
_SENT_TIME = getattr(pycurl, "POSTTRANSFER_TIME_T", pycurl.PRETRANSFER_TIME_T)
# Whatever Python itself offers to look at a socket gives up the interpreter's lock meanwhile: among many threads
# that takes far longer than the look.
_recv = ctypes.PyDLL(None, use_errno=True).recv
_ONE_BYTE = ctypes.create_string_buffer(1)
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

_Error = TypeVar("_Error", bound=httpx.TransportError)

_NO_HTTP = frozenset(
    {
        pycurl.E_GOT_NOTHING,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_UNSUPPORTED_PROTOCOL,  # an answer without a status line
        pycurl.E_FTP_WEIRD_SERVER_REPLY,  # the same number is HTTP's, too
        pycurl.E_HTTP2,
        92,  # a stream of HTTP/2 was closed with an error
        95,  # HTTP/3
        100,  # headers without end
    }
)
_BAD_CERTIFICATE = frozenset(
    {pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT, pycurl.E_SSL_ISSUER_ERROR}
)
_NO_TLS = frozenset({pycurl.E_SSL_CONNECT_ERROR, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_CIPHER})


class CurlTransport(httpx.BaseTransport):
    """Carries out requests, from any number of threads of one process.

    `max_body` bounds what is read of an answer's body, in bytes: a longer one ends there, and its
    connection is closed. The time limit of a call is the longest of the request's four timeouts, or what
    is left of it if it is an `Until`. An answer that came whole has its body, as it came, among its
    extensions as `whole_body`: reading it from there saves what httpx's streams cost. So may a request.
    Every answer has there its `time_to_first_byte`, in seconds from when the request was sent.
    """

    def __init__(
        self,
        places: Places,
        *,
        allow_private: bool = False,
        proxy: httpx.Proxy | None = None,
        max_body: int | None = None,
        max_idle: int = 20,
    ) -> None:
        """Nothing is opened before the first call, and at most `max_idle` connections are kept for later ones.

        The address of a `proxy` may be private whatever `allow_private` says, and the addresses of what is
        called through it are the proxy's to find.
        """
        self._places = places
        self._allow_private = allow_private or proxy is not None
        self._proxy = proxy
        self._max_body = max_body
        self._targets = ByIdentity(self._target_of)  # most calls of a task have the same URL
        self._idle = _Idle(max_idle)
        self._loop = Loop(max_idle=max_idle)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer; what goes wrong after its head is raised by reading its body.

        Raises:
            httpx.TransportError: of the kind that httpx's own transport raises.
            UnicodeError: if the host can be no name at all.
        """
        target = self._targets.get(request.url)
        if target.scheme not in _SCHEMES:
            raise httpx.UnsupportedProtocol(f"{target.scheme!r} is not http or https", request=request)
        until = _until(request)
        pinned = "" if target.is_address else self._pinned(request, target, until)
        handle = self._idle.take(target.origin) or self._new_handle()
        try:
            handle.prepare(request, target.text, pinned, until)
            failure = self._loop.perform(handle.curl) if target.is_secure else handle.perform()
            answer = handle.answer(request, failure)
        except httpx.TransportError:
            self._idle.give(target.origin, handle)
            raise
        # After any other exception, one that was thrown into this thread, nobody knows what the handle is at.
        self._idle.give(target.origin, handle)
        return answer

    def close(self) -> None:
        """Close all connections; calls over TLS that are under way fail."""
        self._idle.close()
        self._loop.close()

    def _new_handle(self) -> "_Handle":
        return _Handle(proxy=self._proxy, allow_private=self._allow_private, max_body=self._max_body)

    def _target_of(self, url: httpx.URL) -> "_Target":
        proxy = None if self._proxy is None else self._proxy.url
        connected = proxy or url
        host = connected.raw_host.decode("ascii")
        is_secure = "https" in {url.scheme, connected.scheme}
        return _Target(
            # Without login and fragment: httpx has made a header of the one, and the other is not sent.
            text=b"%s://%s%s" % (url.raw_scheme, url.netloc, url.raw_path),
            scheme=url.scheme,
            origin=_ANY if is_secure or proxy else url.netloc,
            is_secure=is_secure,
            host=host,
            port=connected.port or _DEFAULT_PORTS.get(connected.scheme, 0),
            is_address=_is_address(host),
        )

    def _pinned(self, request: httpx.Request, target: "_Target", until: Until | None) -> str:
        """What libcurl is to take for the addresses of the host that it connects to."""
        host = target.host
        try:
            place = self._places.find(host, within=None if until is None else until.left)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("the lookup of the name took too long", request=request) from error
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        if place.addresses == (host,) or "%" in "".join(place.addresses):
            return ""  # an address already, or one of this machine's links, which only the system can read
        return f"+{host}:{target.port}:{','.join(place.addresses)}"


_ANY = b""  # where handles wait that serve any host: in the loop, or connected to the one proxy


class _Target(NamedTuple):
    """Where a URL leads; host and port are those that are connected to, the proxy's if there is one."""

    text: bytes
    scheme: str
    origin: bytes
    is_secure: bool
    host: str
    port: int
    is_address: bool


class _Idle:
    """Handles between two calls; the last used is taken first, so that as few as possible stay in use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._of: dict[bytes, deque[_Handle]] = {}
        self._order: dict[_Handle, tuple[bytes, float]] = {}  # since when; the oldest first
        self._is_closed = False

    def take(self, origin: bytes) -> "_Handle | None":
        with self._lock:
            handles = self._of.get(origin)
            if not handles:
                return None
            handle = handles.pop()
            del self._order[handle]
            return handle

    def give(self, origin: bytes, handle: "_Handle") -> None:
        now = time.monotonic()
        stale = []
        with self._lock:
            self._of.setdefault(origin, deque()).append(handle)
            self._order[handle] = (origin, now)
            while self._order and (self._is_closed or self._is_stale(now)):
                stale.append(self._drop_oldest())
        for old in stale:
            old.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle = list(self._order)
            self._order.clear()
            self._of.clear()
        for handle in idle:
            handle.close()

    def _is_stale(self, now: float) -> bool:
        _, since = next(iter(self._order.values()))
        return len(self._order) > self._limit or since < now - IDLE_SECONDS

    def _drop_oldest(self) -> "_Handle":
        handle, (origin, _) = next(iter(self._order.items()))
        del self._order[handle]
        # What was given first lies at the bottom of its own pile, too.
        handles = self._of[origin]
        handles.popleft()
        if not handles:
            del self._of[origin]
        return handle


class _Handle:
    """One of libcurl's handles, and what the call that it is at work on has brought so far."""

    def __init__(self, *, proxy: httpx.Proxy | None, allow_private: bool, max_body: int | None) -> None:
        self.curl = pycurl.Curl()
        self._max_body = max_body
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._size = 0
        self._is_cut = False
        self._sendings = 0
        self._refused: str | None = None
        self._socket = -1
        # What was set for the last call and need not be set again.
        self._url = b""
        self._method = ("", False)
        self._limit_ms = 0
        self._sent = 0
        self._set_for_good(proxy, allow_private=allow_private)

    def prepare(self, request: httpx.Request, url: bytes, pinned: str, until: Until | None) -> None:
        """Forget the last call and take up this one.

        Raises:
            httpx.LocalProtocolError: if a header has a line break in it.
            httpx.ConnectTimeout: if the time is over.
        """
        curl = self.curl
        self._head.clear()
        self._body.clear()
        self._size = 0
        self._is_cut = False
        self._sendings = 0
        self._refused = None
        curl.setopt(pycurl.HTTPHEADER, _header_lines(request))
        body: bytes | None = request.extensions.get("whole_body")
        if body is None:
            body = request.read()
        self._sent = len(body)
        with_body = bool(body) or request.method in _WITH_BODY
        if with_body:
            curl.setopt(pycurl.POSTFIELDS, body)
        if (request.method, with_body) != self._method:
            self._set_method(request.method, with_body=with_body)
        if url != self._url:
            curl.setopt(pycurl.URL, url)
            self._url = url
        # Every time, since libcurl forgets it, and in the loop another handle may have set it otherwise.
        if pinned:
            curl.setopt(pycurl.RESOLVE, [pinned])
        limit_ms = 0
        if until is not None:
            left = until.left
            if left <= 0:
                raise httpx.ConnectTimeout("the call's time is over", request=request)
            limit_ms = math.ceil(left * 1000)
        if limit_ms != self._limit_ms:
            curl.setopt(pycurl.TIMEOUT_MS, limit_ms)
            self._limit_ms = limit_ms

    def perform(self) -> Failure | None:
        """Carry the call out here, over the handle's own connection."""
        # libcurl looks whether a connection still lives once a second at most; a request over a dead one is lost.
        is_dead = self._socket >= 0 and _is_readable(self._socket)
        if is_dead:
            self.curl.setopt(pycurl.FRESH_CONNECT, 1)
        try:
            self.curl.perform()
        except pycurl.error as error:
            return failure_of(error)
        finally:
            if is_dead:
                self.curl.setopt(pycurl.FRESH_CONNECT, 0)
            self._socket = self.curl.getinfo(pycurl.ACTIVESOCKET)
        return None

    def answer(self, request: httpx.Request, failure: Failure | None) -> httpx.Response:
        """What came, or why nothing did.

        Raises:
            httpx.TransportError: if there was no whole head.
        """
        if self._is_cut:
            failure = None
        head = _parse_head(tuple(self._head))
        if head is None:
            raise self._error(request, failure or (pycurl.E_GOT_NOTHING, ""))
        status, reason, version, headers = head
        first_byte_us = self.curl.getinfo(pycurl.STARTTRANSFER_TIME_T) - self.curl.getinfo(_SENT_TIME)
        extensions: dict[str, Any] = {
            "http_version": version,
            "reason_phrase": reason,
            "time_to_first_byte": max(0, first_byte_us) / 1_000_000,
        }
        body = b"".join(self._body)
        if failure is None:
            extensions["whole_body"] = body
        stream = _Received(body, None if failure is None else self._error(request, failure))
        return httpx.Response(status, headers=ready_headers(headers), stream=stream, extensions=extensions)

    def close(self) -> None:
        self.curl.close()

    def _set_for_good(self, proxy: httpx.Proxy | None, *, allow_private: bool) -> None:
        curl = self.curl
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PATH_AS_IS, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.MAXCONNECTS, 1)
        curl.setopt(pycurl.MAXAGE_CONN, IDLE_SECONDS)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, UPLOAD_BYTES)
        if pycurl.version_info()[4] & pycurl.VERSION_HTTP2:
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        _trust(curl, pycurl.CAINFO, pycurl.CAPATH)
        # Both are set, since libcurl would read the environment itself.
        curl.setopt(pycurl.NOPROXY, "")
        curl.setopt(pycurl.PROXY, "" if proxy is None else _proxy_text(proxy.url))
        if proxy is not None:
            if proxy.url.scheme == "https":
                _trust(curl, pycurl.PROXY_CAINFO, pycurl.PROXY_CAPATH)
            if proxy.raw_auth is not None:
                user, password = proxy.raw_auth
                curl.setopt(pycurl.PROXYUSERNAME, user)
                curl.setopt(pycurl.PROXYPASSWORD, password)
        curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)
        curl.setopt(pycurl.PREREQFUNCTION, self._send)
        if not allow_private:
            curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    def _set_method(self, method: str, *, with_body: bool) -> None:
        self._method = (method, with_body)
        curl = self.curl
        curl.setopt(pycurl.NOBODY, method == "HEAD")
        if not with_body and method != "HEAD":
            curl.setopt(pycurl.HTTPGET, 1)
        curl.setopt(pycurl.CUSTOMREQUEST, method)

    def _take(self, chunk: bytes) -> int | None:
        if self._max_body is not None and self._size + len(chunk) >= self._max_body:
            self._body.append(chunk[: self._max_body - self._size])
            self._is_cut = True
            return _CUT_OFF
        self._size += len(chunk)
        self._body.append(chunk)
        return None

    def _send(self, *_: object) -> int:
        """Called before a request is sent: the first time it may be, and never again."""
        self._sendings += 1
        # What a proxy said of the tunnel is not the answer.
        self._head.clear()
        return pycurl.PREREQFUNC_OK if self._sendings == 1 else pycurl.PREREQFUNC_ABORT

    def _open_socket(self, _: int, address: Any) -> socket.socket | int:
        family, kind, protocol, place = address
        if not is_public(place[0]):
            self._refused = place[0]
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)

    def _error(self, request: httpx.Request, failure: Failure) -> httpx.TransportError:
        code, text = failure
        if self._refused is not None and self._sendings == 0:
            refusal = PermissionError(errno.EACCES, f"its address {self._refused} is not public")
            return _because(httpx.ConnectError, refusal, request)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return self._timed_out(request)
        if (
            code in {pycurl.E_COULDNT_RESOLVE_PROXY, _E_PROXY}
            or self.curl.getinfo(pycurl.HTTP_CONNECTCODE) >= 300
        ):
            return httpx.ProxyError(text, request=request)
        if code in {pycurl.E_URL_MALFORMAT, pycurl.E_BAD_FUNCTION_ARGUMENT}:
            return httpx.LocalProtocolError(text, request=request)
        if code in _NO_HTTP or code == pycurl.E_ABORTED_BY_CALLBACK:
            return httpx.RemoteProtocolError(
                text or "the connection was closed without an answer", request=request
            )
        if code in _BAD_CERTIFICATE:
            return _because(httpx.ConnectError, _certificate_error(text), request)
        if code in _NO_TLS:
            return _because(httpx.ConnectError, _tls_error(text), request)
        number = self.curl.getinfo(pycurl.OS_ERRNO)
        cause = OSError(number, os.strerror(number)) if number else None
        if self._sendings == 0:
            return _because(httpx.ConnectError, cause, request, text)
        kind = httpx.WriteError if code == pycurl.E_SEND_ERROR else httpx.ReadError
        return _because(kind, cause or ConnectionResetError(errno.ECONNRESET, text), request)

    def _timed_out(self, request: httpx.Request) -> httpx.TimeoutException:
        said = f"the call's time of {self._limit_ms} ms is over"
        if self._sendings == 0:
            return httpx.ConnectTimeout(said, request=request)
        if self.curl.getinfo(pycurl.SIZE_UPLOAD_T) < self._sent:
            return httpx.WriteTimeout(said, request=request)
        return httpx.ReadTimeout(said, request=request)


class _Received(httpx.SyncByteStream):
    """A body, or what came of it and what ended it."""

    def __init__(self, body: bytes, error: httpx.TransportError | None) -> None:
        self._body = body
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        if self._body:
            yield self._body
        if self._error is not None:
            raise self._error


def _is_readable(fd: int) -> bool:
    """Whether something has come over a socket: bytes that nobody has asked for, or its end."""
    if _recv(fd, _ONE_BYTE, 1, _LOOK) >= 0:
        return True
    return ctypes.get_errno() not in {errno.EAGAIN, errno.EWOULDBLOCK}


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _until(request: httpx.Request) -> Until | None:
    limits = set((request.extensions.get("timeout") or {}).values())
    if not limits or None in limits:
        return None
    longest = max(limits)
    return longest if isinstance(longest, Until) else Until(longest)


def _header_lines(request: httpx.Request) -> list[bytes]:
    lines = lines_of(request.headers)
    block = b"\n%s\n" % b"\n".join(lines).lower()
    if block.count(b"\n") > len(lines) + 1 or b"\r" in block or b"\0" in block:
        raise httpx.LocalProtocolError("a header has a line break in it", request=request)
    if b": \n" in block:
        # A name with nothing after its colon tells libcurl to leave the header out.
        lines = [b"%s: %s" % (name, value) if value else b"%s;" % name for name, value in request.headers.raw]
    lines += [without for header, without in _UNASKED if header not in block]
    return lines


@lru_cache(maxsize=64)  # many answers begin alike
def _parse_head(lines: tuple[bytes, ...]) -> tuple[int, bytes, bytes, Sequence[Line]] | None:
    """Status, its words, the version and the headers of the final answer; None if its head is not whole.

    Before it there may be heads of interim answers (103 Early Hints), and after it trailers.
    """
    status, reason, version = 0, b"", b""
    headers: list[Line] = []
    for line in lines:
        if not status:
            version, _, rest = line.partition(b" ")
            code, _, reason = rest.strip().partition(b" ")
            if not version.startswith(b"HTTP/") or not code.isdigit():
                return None
            status = int(code)
            headers = []
        elif line in {b"\r\n", b"\n"}:
            if status >= 200:
                return status, reason, version, headers
            status = 0
        elif line[:1] in {b" ", b"\t"} and headers:
            name, lower, value = headers[-1]
            headers[-1] = (name, lower, value + b" " + line.strip())
        else:
            name, _, value = line.partition(b":")
            headers.append((name, name.lower(), value.strip()))
    return None


def _trust(curl: pycurl.Curl, file_option: int, directory_option: int) -> None:
    """Trust whom httpx would: SSL_CERT_FILE, SSL_CERT_DIR, else the certificates of certifi."""
    file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        curl.setopt(file_option, file)
        curl.unsetopt(directory_option)
    elif directory:
        curl.unsetopt(file_option)
        curl.setopt(directory_option, directory)
    else:
        curl.setopt(file_option, certifi.where())
        curl.unsetopt(directory_option)


def _proxy_text(url: httpx.URL) -> str:
    # httpx leaves the lookup of names to a proxy of either kind; libcurl does so for the second only.
    scheme = "socks5h" if url.scheme == "socks5" else url.scheme
    return f"{scheme}://{url.raw_host.decode('ascii')}:{url.port or _DEFAULT_PORTS[url.scheme]}"


def _because(kind: type[_Error], cause: OSError | None, request: httpx.Request, text: str = "") -> _Error:
    error = kind(text or str(cause), request=request)
    error.__cause__ = cause
    return error


def _certificate_error(text: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, text)
    # "SSL certificate problem: self-signed certificate", or with "OpenSSL verify result" and a number after it.
    error.verify_message = text.split(": ", 1)[-1].partition(" (")[0]
    return error


def _tls_error(text: str) -> ssl.SSLError:
    error = ssl.SSLError(1, text)
    error.reason = text.rpartition("::")[2]
    return error
