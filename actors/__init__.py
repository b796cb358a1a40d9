"""Who sends what to whom: `periodiq actors` is the clock, `dramatiq actors` are the workers.

    periodiq ─▶ tick ─▶ distribute ─▶ execute ─▶ endpoint

Importing this package makes the broker with its middleware and declares the actors. It connects to
nothing and reads no task definitions; that happens when the first message needs it.
"""

import sys

import dramatiq

from actors.assembly import assemble
from actors.encoding import MessageEncoder
from actors.transport import make_transport
from tq.runtime import Runtime
from tq.settings import load_settings
from tq.telemetry import configure_logs

__all__ = ["assemble", "broker", "make_transport", "runtime"]

settings = load_settings()
_is_scheduler = any("periodiq" in part for part in sys.orig_argv)
configure_logs(settings, component="scheduler" if _is_scheduler else "worker")
runtime = Runtime(settings, make_transport(settings))
dramatiq.set_encoder(MessageEncoder())
broker = assemble(runtime)
dramatiq.set_broker(broker)
