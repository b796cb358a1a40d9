"""What figures were measured on, and what processes have used of it, as Linux tells in /proc.

A worker process of Dramatiq's command is a child of that command, so what is started is counted with
whatever it has started in turn: its process group.
"""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import redis

from tq.clock import iso
from tq.errors import TaskQueueError

PACKAGES = ("taskqueue", "dramatiq", "redis", "hiredis", "httpx", "pycurl", "orjson")
KB_IN_MB = 1024
_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the command's name, which may hold blanks itself.
_STATE, _GROUP, _USER_TICKS, _SYSTEM_TICKS = 0, 2, 11, 12
# Fields of the first line of /proc/stat: what processors have worked, in ticks, and what they could not.
_WORKED, _STOLEN = (1, 2, 3, 6, 7), 8  # user, nice, system, irq, softirq; steal
_ENDED = "Z"  # and its parent does not know yet


def check_machine() -> None:
    """Returns where benches can run.

    Raises:
        TaskQueueError: this is not Linux.
    """
    if sys.platform != "linux":
        raise TaskQueueError(
            f"this bench reads from /proc what processes have used, and {platform.system()} has none; run it on Linux"
        )


def describe_machine(client: "redis.Redis") -> dict[str, object]:
    """What the figures depend on: processor, memory, system, and the versions of what was measured."""
    server = client.info("server")
    return {
        "measured_at": iso(datetime.now(UTC).replace(microsecond=0)),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) // KB_IN_MB,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": f"{server.get('server_name', 'redis')} {server.get('valkey_version') or server['redis_version']}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


@dataclass(frozen=True, slots=True)
class Cpus:
    """What all processors have worked so far, and for how long something waited because the host was serving others; in ticks."""

    worked: int
    stolen: int

    def stolen_since(self, before: "Cpus") -> float:
        """Which part of the CPU time that was wanted the host has given to others; 0 on a machine of one's own."""
        wanted = (self.worked - before.worked) + (self.stolen - before.stolen)
        return (self.stolen - before.stolen) / wanted if wanted else 0.0


def cpus() -> Cpus:
    """What the processors of this machine have done so far."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return Cpus(sum(int(fields[place]) for place in _WORKED), int(fields[_STOLEN]))


@dataclass(frozen=True, slots=True)
class Use:
    """What process groups have used: CPU seconds so far, and of their largest process the memory, now and at most."""

    cpu_s: float
    rss_mb: float
    peak_rss_mb: float
    open_files: int


def use_of(groups: Sequence[int]) -> Use:
    """What the processes of these groups have used so far, of those that live."""
    members = [pid for group in groups for pid in members_of(group)]
    memory = [_memory_mb(pid) for pid in members]
    return Use(
        cpu_s=sum(_cpu_s(pid) for pid in members),
        rss_mb=max((now for now, _ in memory), default=0.0),
        peak_rss_mb=max((most for _, most in memory), default=0.0),
        open_files=max((_open_files(pid) for pid in members), default=0),
    )


def members_of(group: int) -> list[int]:
    """The processes of a group that live."""
    return [pid for pid, fields in _all_stats() if int(fields[_GROUP]) == group and fields[_STATE] != _ENDED]


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            yield int(entry.name), fields


def _stat(pid: int) -> list[str]:
    """The fields of a process after its name; none if it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / _TICKS if fields else 0.0


def _memory_mb(pid: int) -> tuple[float, float]:
    """The resident memory of a process, now and at most."""
    path = f"/proc/{pid}/status"
    now, most = (_first(path, name) or "0 kB" for name in ("VmRSS", "VmHWM"))
    return int(now.split()[0]) / KB_IN_MB, int(most.split()[0]) / KB_IN_MB


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - their number only
    except OSError:
        return 0


def _first(path: str, name: str) -> str | None:
    """What the first line of that name says in a file of lines `name: value`."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
