"""The way to Redis: one client, one script loader, and errors that say what to do.

Scripts stand in `lua/`, each with a header that explains it. `-- include: name` on a line of its
own puts another file there. Before a script runs, it gets the keys it uses (see `keys.py`) and,
where it enqueues or takes back, the transport's functions for that.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, cast

import redis
from loguru import logger
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from tq.clock import MILLISECOND, Clock, Stopwatch
from tq.errors import StoreError, StoreRefused, StoreUnavailable
from tq.settings import without_password
from tq.store.keys import Keys
from tq.store.transport import Transport

# A call that has not been answered in this time never will be: the longest script takes milliseconds.
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)

Argument = str | int | float | bytes


class Connection:
    """A client of one Redis, in one namespace. `round_trips` counts how often it was asked."""

    def __init__(
        self, url: str, *, keys: Keys, clock: Clock, transport: Transport, log_scripts: bool = False
    ) -> None:
        self.url = url
        self.keys = keys
        self.clock = clock
        self._transport = transport
        self._log_scripts = log_scripts
        self._scripts: dict[str, Any] = {}
        self.round_trips = 0
        self.client = open_client(url, decode_responses=True)

    def script(self, name: str, *arguments: Argument) -> Any:
        """What the script answers; its first argument is always the present, or 0 for Redis' own.

        Raises:
            StoreUnavailable: if Redis cannot be reached or is not ready.
            StoreRefused: if Redis answered with an error; then nothing was changed.
        """
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(self.source(name))
        watch = Stopwatch()
        self.round_trips += 1
        with self.errors():
            answer = script(keys=[self.keys.prefix], args=[self.clock.override_ms, *arguments])
        if self._log_scripts:
            logger.debug("script ran", script=name, duration_ms=round(watch.elapsed / MILLISECOND, 3))
        return answer

    def call(self, command: str, *arguments: Argument) -> Any:
        """What one Redis command answers.

        Raises:
            StoreUnavailable, StoreRefused: as `script` does.
        """
        self.round_trips += 1
        with self.errors():
            return self.client.execute_command(command, *arguments)

    def calls(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """What several commands answer, in one round trip."""
        self.round_trips += 1
        with self.errors(), self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return pipe.execute()

    def source(self, name: str) -> str:
        """The whole text of a script, as it is sent."""
        text = _whole(name)
        head = self.keys.lua(text)
        if "enqueue(" in text or "queued(" in text:
            head += self._transport.enqueue_lua
        if "holds(" in text:
            head += self._transport.holds_lua
        if "take_back(" in text:
            head += self._transport.take_back_lua
        return head + text

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the client's errors into ours, with the address and a remedy."""
        try:
            yield
        except (
            redis.exceptions.BusyLoadingError,
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
        ) as error:
            raise _explained(error, self.url) from error
        except redis.exceptions.RedisError as error:
            place = without_password(self.url)
            raise StoreRefused(f"Redis at {place} refused: {error}") from error

    def close(self) -> None:
        """Ends all connections."""
        self.client.close()


def open_client(url: str, *, decode_responses: bool, retries: int = 1) -> redis.Redis:
    """A client that gives up on a silent Redis, and connects when it is first used."""
    return redis.Redis.from_url(
        url,
        decode_responses=decode_responses,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=30,
        # One more try, for a connection that Redis or a proxy has closed while it was idle; scripts
        # are fenced, so a repetition does no harm. Whoever can wait longer does so on its own.
        retry=Retry(NoBackoff(), retries),
        # A question that only managed Redis understands, asked on every connection.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def _explained(error: redis.exceptions.RedisError, url: str) -> StoreError:
    place = without_password(url)
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return StoreRefused(f"Redis at {place} refused the login; check user and password in TQ_REDIS_URL")
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return StoreUnavailable(f"Redis at {place} is still loading its data; try again in a moment")
    if isinstance(error, redis.exceptions.TimeoutError):
        return StoreUnavailable(
            f"Redis at {place} did not answer in time; see whether it is overloaded or stopped"
        )
    return StoreUnavailable(f"Redis at {place} cannot be reached; start it, or set TQ_REDIS_URL")


def _whole(name: str) -> str:
    return _INCLUDE.sub(lambda match: _whole(match[1]), _read(name))


@cache
def _read(name: str) -> str:
    return (files("tq.store") / "lua" / f"{name}.lua").read_text()


def texts(answer: object) -> list[str]:
    """A script's answer that is known to be a list of texts."""
    return cast("list[str]", answer)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
