"""Ports of this machine for servers that tests start."""

import socket

from tq.redis_server import HOST


def free_port() -> int:
    """A port at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
