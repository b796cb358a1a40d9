"""The way to Redis: one client, one script loader, and errors that say what to do.

Scripts stand in `lua/`, each with a header that explains it. `-- include: name` on a line of its
own puts another file there. Before a script runs, it gets the keys it uses (see `keys.py`) and,
where it enqueues or takes back, the transport's functions for that.

No script is half done for want of anything: Redis looks whether it may write (memory, disk, role)
before the first write of a script only, and then refuses the whole. Before all else each script
looks whether a later version of TaskQueue has written what is stored.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any, cast

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from tq.clock import Clock
from tq.errors import StoreRefused
from tq.settings import SentinelAddress, sentinels_in, without_password
from tq.store.commands import TellingRedis, name_script
from tq.store.keys import DATA_VERSION, Keys
from tq.store.refusals import NEWER_DATA, explained
from tq.store.transport import Transport

# A call that has not been answered in this time never will be: the longest script takes milliseconds.
PATIENCE = timedelta(seconds=15)
CONNECT_TIMEOUT_S = 5.0
SENTINEL_TIMEOUT_S = 1.0  # while one does not answer, the next is asked
# Here, and not when a process starts: a later version may come while this one still runs.
_FENCE = f"""do
  local version = redis.call('GET', K.data_version())
  if version and tonumber(version) > {DATA_VERSION} then return redis.error_reply('{NEWER_DATA} '..version) end
end
"""
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)

Argument = str | int | float | bytes


class Connection:
    """A client of one Redis, in one namespace. `round_trips` counts how often it was asked."""

    def __init__(
        self,
        url: str,
        *,
        keys: Keys,
        clock: Clock,
        transport: Transport,
        log_commands: bool = False,
        patience: timedelta = PATIENCE,
    ) -> None:
        self.url = url
        self.keys = keys
        self.clock = clock
        self._transport = transport
        self.log_commands = log_commands
        self._scripts: dict[str, Any] = {}
        self._is_looked_at = False
        self.round_trips = 0
        self.client = open_client(url, decode_responses=True, patience=patience, log_commands=log_commands)

    def script(self, name: str, *arguments: Argument) -> Any:
        """What the script answers; its first argument is always the present, or 0 for Redis' own.

        Raises:
            StoreUnavailable: if Redis cannot be reached, or does not take it now.
            StoreRefused: if it will not take it, or holds what this program must not touch.
        """
        self._look()
        return self._run(name, *arguments)

    def _run(self, name: str, *arguments: Argument) -> Any:
        script = self._registered(name)
        self.round_trips += 1
        with self.errors():
            return script(keys=[self.keys.prefix], args=[self.clock.override_ms, *arguments])

    def scripts(self, steps: Sequence[tuple[str, Sequence[Argument]]]) -> list[Any]:
        """What several scripts answer, one after the other, in one round trip.

        Raises:
            StoreUnavailable, StoreRefused: as `script` does, if one of them was not carried out; others may
                have been.
        """
        self._look()
        scripts = [self._registered(name) for name, _ in steps]
        self.round_trips += 1
        with self.errors(), self.client.pipeline(transaction=False) as pipe:
            for script, (_, arguments) in zip(scripts, steps, strict=True):
                pipe.execute_command(
                    "EVALSHA", script.sha, 1, self.keys.prefix, self.clock.override_ms, *arguments
                )
            answers = pipe.execute(raise_on_error=False)
            for place, (name, arguments) in enumerate(steps):
                if isinstance(answers[place], redis.exceptions.NoScriptError):
                    answers[place] = self._run(name, *arguments)
                elif isinstance(answers[place], redis.RedisError):
                    raise answers[place]
            return answers

    def call(self, command: str, *arguments: Argument) -> Any:
        """What one Redis command answers.

        Raises:
            StoreUnavailable, StoreRefused: as `script` does.
        """
        self._look()
        self.round_trips += 1
        with self.errors():
            return self.client.execute_command(command, *arguments)

    def _registered(self, name: str) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = name_script(self.client.register_script(self.source(name)), name)
        return script

    def calls(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """What several commands answer, in one round trip."""
        self._look()
        self.round_trips += 1
        with self.errors(), self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers = pipe.execute(raise_on_error=False)  # the client's own error would tell the arguments
            for answer in answers:
                if isinstance(answer, redis.RedisError):
                    raise answer
            return answers

    def source(self, name: str) -> str:
        """The whole text of a script, as it is sent."""
        text = _whole(name)
        head = self.keys.lua(_FENCE + text) + _FENCE
        if "enqueue(" in text or "queued(" in text:
            head += self._transport.enqueue_lua
        if "job_in(" in text:
            head += self._transport.fetch_lua
        if "holds(" in text:
            head += self._transport.holds_lua
        if "workers(" in text:
            head += self._transport.workers_lua
        if "acknowledge(" in text:
            head += self._transport.acknowledge_lua
        if "take_back(" in text:
            head += self._transport.take_back_lua
        if "first_of(" in text:
            head += self._transport.backlog_lua
        return head + text

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the client's errors into ours, with the address and a remedy."""
        try:
            yield
        except redis.RedisError as error:
            raise explained(error, self.url) from error

    def _look(self) -> None:
        """Sees, before this program does anything there, whether it may.

        Raises:
            StoreError: if it may not, or that cannot be seen.
        """
        if self._is_looked_at:
            return
        fixed = self.keys.fixed()
        strange = self._run("look", DATA_VERSION, *[text for key in fixed.items() for text in key])
        if strange:
            key, found = strange
            place = without_password(self.url)
            raise StoreRefused(
                f"Redis at {place} holds a {found} as {key}, where TaskQueue keeps a {fixed[key]}; "
                "if another program writes there, set TQ_NAMESPACE"
            )
        self._is_looked_at = True

    def close(self) -> None:
        """Ends all connections."""
        self.client.close()


def open_client(
    url: str,
    *,
    decode_responses: bool,
    retries: int = 1,
    patience: timedelta = PATIENCE,
    log_commands: bool = False,
) -> redis.Redis:
    """A client that gives up on a silent Redis, and connects when it is first used.

    Where the URL names Sentinels it asks them for the primary whenever it connects, so that it finds the
    new one after a failover. Where commands are logged, each is, with its time.
    """
    kind = TellingRedis if log_commands else redis.Redis
    options = {
        "decode_responses": decode_responses,
        "socket_timeout": patience.total_seconds(),
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, patience.total_seconds()),
        "health_check_interval": 30,
        # One more try, for a connection that Redis or a proxy has closed while it was idle; scripts
        # are fenced, so a repetition does no harm. Whoever can wait longer does so on its own.
        "retry": Retry(NoBackoff(), retries),
        # Who has become a replica is left: its name may lead to the new primary by now.
        "retry_on_error": [redis.ReadOnlyError],
        "command_packer": _Packer(),
        # A question that only managed Redis understands, asked on every connection.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    sentinels = sentinels_in(url)
    return kind.from_url(url, **options) if sentinels is None else _of_primary(sentinels, kind, options)


class _Packer:
    """Makes bytes of a command. The client's own looks at each argument for kinds that are never sent here."""

    def pack(self, command: str | bytes, *arguments: Argument) -> list[bytes]:
        """The command, whose name may be of several words, in chunks."""
        words = (command.encode() if isinstance(command, str) else command).split()
        try:
            return [hiredis.pack_command((*words, *arguments))]  # type: ignore[arg-type] # its stub means one argument
        except TypeError as error:
            raise redis.DataError(str(error)) from error


def _of_primary(address: SentinelAddress, kind: type[redis.Redis], options: Mapping[str, Any]) -> redis.Redis:
    to_server = parse_url(address.server_url)
    # Names of options that concern TLS, as the client has them; certificates are the same for both.
    tls = {"ssl": "connection_class" in to_server}
    tls |= {name: value for name, value in to_server.items() if name.startswith("ssl_")}
    to_server.pop("connection_class", None)
    sentinel = Sentinel(
        address.sentinels,
        sentinel_kwargs={
            **tls,
            "username": address.username,
            "password": address.password,
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "maint_notifications_config": options["maint_notifications_config"],
        },
    )
    return cast("redis.Redis", sentinel.master_for(address.service, kind, **{**options, **to_server, **tls}))


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
