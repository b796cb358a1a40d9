"""A small TCP proxy between each process and Redis, so that its network can fail."""

import asyncio
import socket
import threading
from types import TracebackType
from typing import Self, cast

HOST = "127.0.0.1"


class Proxy:
    """One process' way to Redis. Its methods may be called by any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream_port: int) -> None:
        self.loop = loop
        self.upstream_port = upstream_port
        self.delay_s = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.pairs: set[_Side] = set()

    async def listen(self) -> None:
        """Takes callers from now on, at `port`."""
        listener = socket.create_server((HOST, 0), backlog=256)
        self.port: int = listener.getsockname()[1]
        self._server = await self.loop.create_server(lambda: _Side(self, None), sock=listener)

    def cut(self) -> None:
        """Ends all connections, as a firewall that forgets them would."""
        self.loop.call_soon_threadsafe(self._cut)

    def slow_down(self, delay_s: float) -> None:
        """Has whatever passes take longer; 0 for no longer than it must."""
        self.loop.call_soon_threadsafe(setattr, self, "delay_s", delay_s)

    def swallow(self) -> None:
        """Lets nothing pass; what is sent meanwhile waits, as it does in a real network."""
        self.loop.call_soon_threadsafe(self._swallow)

    def let_pass(self) -> None:
        """Lets everything pass again, also what has waited."""
        self.loop.call_soon_threadsafe(self._let_pass)

    def _cut(self) -> None:
        for side in list(self.pairs):
            side.transport.abort()

    def _swallow(self) -> None:
        self.open.clear()
        for side in self.pairs:
            side.transport.pause_reading()

    def _let_pass(self) -> None:
        self.open.set()
        for side in self.pairs:
            side.transport.resume_reading()


class _Side(asyncio.Protocol):
    """One side of a connection: the caller's, which opens the other, or Redis'."""

    def __init__(self, proxy: Proxy, other: "_Side | None") -> None:
        self._proxy = proxy
        self._other = other
        self._early: list[bytes] = []
        self._last_due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # a stream's transports are such
        self._proxy.pairs.add(self)
        if not self._proxy.open.is_set():
            self.transport.pause_reading()
        if self._other is None:
            self._opening = self._proxy.loop.create_task(self._open_other())

    async def _open_other(self) -> None:
        await self._proxy.open.wait()
        try:
            _, other = await self._proxy.loop.create_connection(
                lambda: _Side(self._proxy, self), HOST, self._proxy.upstream_port
            )
        except OSError:
            self.transport.abort()
            return
        self._other = other
        if self.transport.is_closing():
            other.transport.abort()
        for data in self._early:
            self._pass_on(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._pass_on(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.pairs.discard(self)
        if self._other is not None:
            self._other.transport.abort() if error else self._other.transport.close()

    def _pass_on(self, data: bytes) -> None:
        now = self._proxy.loop.time()
        due = max(now + self._proxy.delay_s, self._last_due)
        if due <= now:
            self._write(data)
        else:
            self._last_due = due
            self._proxy.loop.call_at(due, self._write, data)

    def _write(self, data: bytes) -> None:
        if self._other is not None and not self._other.transport.is_closing():
            self._other.transport.write(data)


class Proxies:
    """Runs proxies in a thread of its own, for as long as it is entered."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._all: list[Proxy] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")
        self._thread.start()
        return self

    def open(self, upstream_port: int) -> Proxy:
        """A new way to a port of this machine."""
        proxy = Proxy(self._loop, upstream_port)
        asyncio.run_coroutine_threadsafe(proxy.listen(), self._loop).result()
        self._all.append(proxy)
        return proxy

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for proxy in self._all:
            proxy._server.close()
            proxy._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # asyncio tells a connection of its end in the next turn of the loop
