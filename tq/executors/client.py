"""The client that carries out HTTP calls: httpx, over libcurl where there is pycurl, else over httpx's own transport.

Either way proxies come from the environment as httpx reads it, no redirect is followed, and no cookie is kept.
"""

from typing import Any

import httpx
from httpx._utils import get_environment_proxies
from loguru import logger

from tq.by_identity import ByIdentity
from tq.executors.addresses import Connections, Places

MAX_IDLE = 256  # connections that wait for their next call: as many as a process has threads at most


def open_client(places: Places, *, allow_private: bool, max_body: int) -> httpx.Client:
    """A client for all threads of this process; it opens no connection before its first call.

    Where libcurl carries calls out, an answer's body ends after `max_body` bytes.

    Raises:
        ValueError: if a proxy that the environment names is no URL of a proxy.
    """
    try:
        from tq.executors.curl import CurlTransport
    except ImportError as error:
        logger.warning(
            "calls go over httpx's own transport, which is several times slower; install pycurl to have libcurl carry them out",
            reason=str(error),
        )
        return _over_httpx(places, allow_private=allow_private)

    def over_libcurl(proxy: str | None = None) -> CurlTransport:
        return CurlTransport(
            places,
            allow_private=allow_private,
            proxy=httpx.Proxy(proxy) if proxy else None,
            max_body=max_body,
            max_idle=MAX_IDLE,
        )

    # httpx reads the environment only for transports of its own. Who is exempt takes the direct way.
    mounts = {
        pattern: over_libcurl(proxy) if proxy else None
        for pattern, proxy in get_environment_proxies().items()
    }
    return _without_cookies(_CallClient(transport=over_libcurl(), mounts=mounts))


def _over_httpx(places: Places, *, allow_private: bool) -> httpx.Client:
    client = httpx.Client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE))
    # httpx has no public way to open its connections oneself and yet take proxies from the environment.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            to_proxy = transport is not client._transport
            transport._pool._network_backend = Connections(places, allow_private=allow_private or to_proxy)
    return _without_cookies(client)


class _CallClient(httpx.Client):
    """Sends a call straight to its transport, if that is all there is to do.

    httpx's own way there goes by logins, redirects, hooks and cookies. None of them is used here, but for a login
    that stands in a URL.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._ways = ByIdentity(self._way_of)  # most calls of a task have the same URL

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """The answer, as `httpx.Client.send` gives it.

        Raises:
            httpx.TransportError: if there is none.
        """
        way = self._ways.get(request.url)
        if way is None:
            return super().send(request, stream=stream, **options)
        response = way.handle_request(request)
        response.request = request
        if not stream:
            response.read()
        return response

    def _way_of(self, url: httpx.URL) -> httpx.BaseTransport | None:
        return None if url.userinfo else self._transport_for_url(url)


def _without_cookies(client: httpx.Client) -> httpx.Client:
    client._cookies = _NoCookies()
    return client


class _NoCookies(httpx.Cookies):
    """A cookie that came with one user's answer must not travel with another's request."""

    def extract_cookies(self, response: httpx.Response) -> None:
        # Looking for one costs a third of all else that is done for a call.
        pass
