"""What the system tells about itself, with nothing secret in it."""

from tq.redaction import redact, register_secret
from tq.telemetry.logs import configure_logs, set_work

__all__ = ["configure_logs", "redact", "register_secret", "set_work"]
