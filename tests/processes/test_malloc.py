"""Threads share the C library's heaps; what an operator has ordered goes before."""

import os
import platform
import subprocess
import sys

import pytest

from tq.malloc import HEAPS

# Has many threads allocate at once what Python leaves to the C library, and counts the heaps beside the first one:
# each begins at a multiple of 64 MB.
COUNT = """
import sys, threading
{first}
met = threading.Barrier(25)
kept = []
def allocate():
    kept.append([bytearray(2000) for _ in range(50)])
    met.wait()
threads = [threading.Thread(target=allocate) for _ in range(24)]
for thread in threads: thread.start()
met.wait()
for thread in threads: thread.join()
starts = [line.split("-")[0] for line in open("/proc/self/maps") if " rw-p " in line and line.split()[4] == "0"]
print(sum(int(start, 16) % (64 << 20) == 0 for start in starts))
"""
SHARED = "from tq.malloc import share_heaps; share_heaps()"
BOOTED = """
from types import SimpleNamespace
from middleware.upkeep import Upkeep
store = SimpleNamespace(heartbeats=None)
runtime = SimpleNamespace(settings=SimpleNamespace(health_file=None), facts={}, executors=None, definitions=None, store=store)
Upkeep(runtime).before_worker_boot(None, None)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def heaps(first: str, **environment: str) -> int:
    """How many there are, beside the first, in a process that does something first."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.replace("{first}", first)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


@pytest.mark.parametrize("first", [SHARED, BOOTED], ids=["asked for", "in a worker"])
def test_many_threads_share_a_few_heaps(first: str) -> None:
    assert heaps("") > HEAPS
    assert heaps(first) < HEAPS  # the first counts, too


def test_what_the_environment_says_goes_before() -> None:
    assert heaps(SHARED, MALLOC_ARENA_MAX="5") == 4
