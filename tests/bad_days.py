"""Redis put into each of its bad states that pass, and back."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.waiting import eventually

NOBODY = ("127.0.0.1", 1)  # where nobody listens: a primary that is lost
BALLAST = 16_000  # keys
State = Callable[[redis.Redis], AbstractContextManager[None]]


def administrator(url: str) -> redis.Redis:
    """A client that changes Redis' state, and is told at once how that went."""
    return redis.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0))


@contextmanager
def configured(admin: redis.Redis, **config: str) -> Iterator[None]:
    before = {name: setting(admin, name) for name in config}
    for name, value in config.items():
        admin.config_set(name.replace("_", "-"), value)
    try:
        yield
    finally:
        for name, value in before.items():
            admin.config_set(name.replace("_", "-"), value)


def setting(admin: redis.Redis, name: str) -> str:
    return str(admin.config_get(name.replace("_", "-"))[name.replace("_", "-")])


def full(admin: redis.Redis) -> AbstractContextManager[None]:
    return configured(admin, maxmemory="1")


def without_replicas(admin: redis.Redis) -> AbstractContextManager[None]:
    return configured(admin, min_replicas_to_write="1")


@contextmanager
def read_only(admin: redis.Redis) -> Iterator[None]:
    admin.replicaof(*NOBODY)
    try:
        yield
    finally:
        admin.replicaof("NO", "ONE")


@contextmanager
def without_its_primary(admin: redis.Redis) -> Iterator[None]:
    with configured(admin, replica_serve_stale_data="no"), read_only(admin):
        yield


@contextmanager
def unable_to_persist(admin: redis.Redis) -> Iterator[None]:
    snapshot = Path(setting(admin, "dir")) / setting(admin, "dbfilename")
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    with configured(admin, save="900 1"):
        admin.bgsave()
        try:
            eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
            yield
        finally:
            shutil.rmtree(snapshot)


@contextmanager
def busy(admin: redis.Redis) -> Iterator[None]:
    with configured(admin, busy_reply_threshold="10"), at_work(admin, "EVAL", "while true do end", "0"):
        try:
            eventually(lambda: _is_answered("BUSY", admin))
            yield
        finally:
            admin.script_kill()


@contextmanager
def loading(admin: redis.Redis) -> Iterator[None]:
    # In microseconds per key: with so many far longer than anybody takes to try all that is to be refused. It often
    # looks who has come meanwhile, and whoever leaves has it go on without a pause.
    admin.execute_command("DEBUG", "POPULATE", BALLAST, "ballast", 200)
    slowly = configured(admin, key_load_delay="1500", loading_process_events_interval_bytes="1024")
    with slowly, at_work(admin, "DEBUG", "RELOAD"):
        try:
            eventually(lambda: _is_answered("LOADING", admin))
            yield
        finally:
            admin.config_set("key-load-delay", "0")
    admin.unlink(*(f"ballast:{number}" for number in range(BALLAST)))


@contextmanager
def locked(admin: redis.Redis) -> Iterator[None]:
    """The password is another from now on, and nobody stays who came with the old one."""
    with configured(admin, requirepass="changed"):
        admin.execute_command("CLIENT", "KILL", "SKIPME", "yes")
        yield


@contextmanager
def at_work(admin: redis.Redis, *command: str) -> Iterator[None]:
    """Until the end of the block somebody else has Redis do something, which the block ends."""

    def work() -> None:
        with suppress(redis.ResponseError):
            admin.execute_command(*command)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _is_answered(word: str, admin: redis.Redis) -> bool:
    try:
        admin.ping()
    except redis.RedisError as error:
        return word in f"{error.status_code} {error}"
    return False
