"""A line for every command that is sent to Redis, with its time; for DEBUG_REDIS.

It names the command, the script and the first key, and nothing else: all other arguments may hold what
users have given, and messages. A client that tells nothing is not slower for it, as it is of another class.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from loguru import logger
from redis.client import Pipeline, PubSub
from redis.commands.core import Script

from tq.clock import MILLISECOND, Stopwatch

# Of all others the second word is no key, or need not be one.
_KEYED = frozenset(
    {"DEL", "EXISTS", "EXPIRE", "GET", "INCR", "SET", "TTL", "TYPE", "PUBLISH", "SUBSCRIBE"}
    | {"HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN", "HMGET", "HSCAN", "HSET", "HVALS"}
    | {"LLEN", "LRANGE", "SADD", "SCARD", "SISMEMBER", "SMEMBERS", "SREM", "STRLEN"}
    | {"ZADD", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREVRANGE", "ZSCAN", "ZSCORE"}
)
_BY_SHA = frozenset({"EVALSHA", "EVALSHA_RO"})


class _Name(NamedTuple):
    """What a script is called, and whether its first argument says which of several things it does."""

    name: str
    has_actions: bool


_scripts: dict[str, _Name] = {}


def name_script(script: Script, name: str, *, has_actions: bool = False) -> Script:
    """Has a script told by its name; returns it."""
    _scripts[script.sha] = _Name(name, has_actions)
    return script


class TellingRedis(redis.Redis):
    """A client that tells of every command."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command and tells of it."""
        with _told(_fields(args)):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # the client leaves it untyped

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline that tells of what was sent through it, as one."""
        return _TellingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def pubsub(self, **options: Any) -> PubSub:
        """Likewise what is sent to subscribe; what then comes is no command."""
        return _TellingPubSub(self.connection_pool, **options)


class _TellingPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        sent = Counter(" ".join(_names(args)) for args, _ in self.command_stack)
        with _told({"command": "pipeline", "commands": dict(sent)}):
            return super().execute(raise_on_error)


class _TellingPubSub(PubSub):
    def execute_command(self, *args: Any) -> None:
        with _told(_fields(args)):
            super().execute_command(*args)  # type: ignore[no-untyped-call] # likewise


@contextmanager
def _told(fields: dict[str, Any]) -> Iterator[None]:
    watch = Stopwatch()
    try:
        yield
    except redis.RedisError as error:
        fields["error"] = type(error).__name__
        raise
    finally:
        logger.debug("redis command", **fields, duration_ms=round(watch.elapsed / MILLISECOND, 3))


def _fields(args: Sequence[Any]) -> dict[str, Any]:
    command, *script = _names(args)
    fields = {"command": command}
    if script:
        fields["script"] = script[0]
    if command in _BY_SHA and len(args) > 3:
        fields["key"] = _text(args[3])
    elif command in _KEYED and len(args) > 1:
        fields["key"] = _text(args[1])
    return fields


def _names(args: Sequence[Any]) -> list[str]:
    """The command, and the script that it runs."""
    command = _text(args[0]).upper()
    if command not in _BY_SHA:
        return [command]
    found = _scripts.get(_text(args[1]))
    if found is None:
        return [command, "unknown"]
    first = 3 + int(args[2])
    return [command, f"{found.name} {_text(args[first])}" if found.has_actions else found.name]


def _text(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)
