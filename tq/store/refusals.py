"""What it means when Redis does not do what it was asked to: whether waiting helps, and what to do.

While a state lasts that will pass, nothing is dropped: whoever works waits and asks again.
"""

from collections.abc import Mapping
from typing import NamedTuple

import redis
from redis.sentinel import MasterNotFoundError

from tq.errors import StoreError, StoreRefused, StoreUnavailable
from tq.settings import without_password

NEWER_DATA = "NEWERDATA"


class _Meaning(NamedTuple):
    kind: type[StoreError]
    says: str


def _passing(says: str) -> _Meaning:
    return _Meaning(StoreUnavailable, says)


def _lasting(says: str) -> _Meaning:
    return _Meaning(StoreRefused, says)


_LOGIN = _lasting("refused the login; check user and password in TQ_REDIS_URL")
_RIGHTS = _lasting("does not allow that to the user in TQ_REDIS_URL; see README for what it needs")
_CLUSTER = _lasting(
    "is a node of a cluster; TaskQueue needs all keys in one place: set TQ_REDIS_URL to a Redis without cluster mode"
)
# By the word with which Redis begins its answer.
_BY_WORD: Mapping[str, _Meaning] = {
    "OOM": _passing("is full (maxmemory) and takes nothing new; raise its maxmemory, or make room in it"),
    "READONLY": _passing("is a read-only replica; promote it, or set TQ_REDIS_URL to the primary"),
    "MASTERDOWN": _passing("is a replica without its primary; start that, or set TQ_REDIS_URL to it"),
    "MISCONF": _passing(
        "is unable to persist to disk and takes nothing new; see its log, and whether the disk is full"
    ),
    "NOREPLICAS": _passing(
        "has fewer replicas in reach than min-replicas-to-write and takes nothing new; start them, or lower that"
    ),
    "LOADING": _passing("is still loading its data; try again in a moment"),
    "BUSY": _passing("is busy with a slow script; wait for its end, or see SCRIPT KILL"),
    "NOSCRIPT": _passing("has just been told to forget scripts; try again"),
    "NOAUTH": _LOGIN,
    "WRONGPASS": _LOGIN,
    "NOPERM": _RIGHTS,
    "WRONGTYPE": _lasting(
        "holds a key of another kind than TaskQueue's; if another program writes there, set TQ_NAMESPACE"
    ),
    **dict.fromkeys(("CLUSTERDOWN", "MOVED", "ASK", "CROSSSLOT", "CLUSTER"), _CLUSTER),
    NEWER_DATA: _lasting(
        "holds data that a later version of TaskQueue has written; run that version, or set another TQ_NAMESPACE"
    ),
}
# By a part of the answer, where it begins with no such word.
_BY_PART: Mapping[str, _Meaning] = {
    "DB index is out of range": _lasting(
        "has no database of that number; end TQ_REDIS_URL with a lower one, such as /0, or raise its `databases`"
    ),
    "SELECT is not allowed in cluster mode": _CLUSTER,
    "non local key": _CLUSTER,
    "max number of clients": _passing("has as many clients as it takes; raise its maxclients"),
    "user executing the script can't": _RIGHTS,
    "ACL failure in script": _RIGHTS,
    "Script killed": _passing("was told to end the script; try again"),
}


def explained(error: redis.RedisError, url: str = "") -> StoreError:
    """The client's error as one of ours, with a remedy, and with the address where that is known."""
    kind, says = _meaning_of(error)
    return kind(f"Redis at {without_password(url)} {says}" if url else f"Redis {says}")


def _meaning_of(error: redis.RedisError) -> _Meaning:
    text = str(error)
    known = _BY_WORD.get(error.status_code or text.partition(" ")[0])
    known = known or next((meaning for part, meaning in _BY_PART.items() if part in text), None)
    if known:
        return known
    match error:
        case redis.AuthenticationError():
            return _LOGIN
        case MasterNotFoundError():
            return _passing("has no primary that a Sentinel there knows; start it, or check TQ_REDIS_URL")
        case redis.TimeoutError():
            return _passing("did not answer in time; see whether it is overloaded or stopped")
        case redis.ConnectionError():
            return _passing("cannot be reached; start it, or set TQ_REDIS_URL")
        case _:
            return _lasting(f"refused: {text}")
