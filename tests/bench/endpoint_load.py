"""How much the endpoint of benches can take: one caller with many connections, as fast as it goes.

    python -m tests.bench.endpoint_load

Each connection has one request under way, as a worker's has, with the head and body that a worker sends.
"""

import select
import socket
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from tq.bench.endpoint import ANSWER
from tq.bench.workbench import started_endpoint

LASTS_S = 3.0
BODY = b'{"job_id": "%b", "parameters": {}}' % (b"x" * 300)
JOB = b"y" * 36
HEAD = (
    b"POST /bench HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: taskqueue/0.1.0\r\nAccept: */*\r\n"
    b'Content-Type: application/json\r\nIdempotency-Key: "%b"\r\nwebhook-id: %b\r\nX-Job-ID: %b\r\n'
    b"X-User-ID: %b\r\nX-Task-Type: bench\r\nX-Attempt: 1\r\nContent-Length: %d\r\n\r\n"
) % (JOB, JOB, JOB, JOB, len(BODY))
REQUEST = HEAD + BODY


def load(connections: int) -> str:
    """What the endpoint does for so many callers at a time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started_endpoint(Path(folder), delay=timedelta(0)) as endpoint,
    ):
        host, port = endpoint.url.removeprefix("http://").split(":")
        callers = [socket.create_connection((host, int(port))) for _ in range(connections)]
        before, started_at = endpoint.processes.use.cpu_s, time.monotonic()
        answered = _call(callers)
        took_s = time.monotonic() - started_at
        cpu_s = endpoint.processes.use.cpu_s - before
        for caller in callers:
            caller.close()
    return f"{connections} at a time: {answered / took_s:,.0f} answers a second, {cpu_s / answered * 1e6:.1f} us of CPU each"


def _call(callers: Sequence[socket.socket]) -> int:
    ready = select.epoll()
    by_number = {caller.fileno(): caller for caller in callers}
    for caller in callers:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready.register(caller.fileno(), select.EPOLLIN)
        caller.sendall(REQUEST)
    answered, until = 0, time.monotonic() + LASTS_S
    while time.monotonic() < until:
        for number, _ in ready.poll(1):
            got = len(by_number[number].recv(65536)) // len(ANSWER)
            by_number[number].sendall(REQUEST * got)
            answered += got
    return answered


if __name__ == "__main__":
    for each in (1, 16, 64, 512):
        print(load(each))
