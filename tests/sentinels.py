"""A Sentinel that watches one primary."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import eventually
from tq.child_process import kill_group, start_child
from tq.redis_server import HOST, find_server

SERVICE = "orders"
SENTINEL_PASSWORD = "s3cr3t-of-sentinel"


@contextmanager
def sentinel(folder: Path, primary_port: int, password: str, config: Sequence[str]) -> Iterator[None]:
    """Watches the primary at a port of this machine, by that configuration, until it is left."""
    file, log = folder / "sentinel.conf", folder / "sentinel.log"
    lines = [
        f"bind {HOST}",
        f"dir {folder}",
        f"requirepass {SENTINEL_PASSWORD}",
        f"sentinel monitor {SERVICE} {HOST} {primary_port} 1",
        f"sentinel auth-pass {SERVICE} {password}",
        *config,
    ]
    file.write_text("\n".join([*lines, ""]))
    with log.open("ab") as output:
        process = start_child([str(find_server()), str(file), "--sentinel"], output=output)
    try:
        eventually(lambda: "+monitor master" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        kill_group(process)
        process.wait()
