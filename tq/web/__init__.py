"""What the system tells and takes over HTTP: one app, and a router for each concern.

    request ─▶ requests (its id, its line in the log, what goes wrong) ─▶ access (whose it is) ─▶ a router

Probes and people get what stands in Redis: no process that works is asked, and none waits.
"""

from tq.web.app import make_app

__all__ = ["make_app"]
