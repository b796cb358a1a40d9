"""Who is told when something is not well: rules and a dashboard for those who have Prometheus and Grafana,
and a webhook and a dead man's switch for everybody.

    look ─▶ findings of tq.doctor ─▶ alerts, kept in Redis ─▶ a message, once

`rules.yaml` and `dashboard.json` are for other programs, and are read here only to be printed.
"""

from importlib.resources import files

from tq.alerts.watch import Watch
from tq.alerts.webhook import Answer, send_test

__all__ = ["Answer", "Watch", "dashboard", "rules", "send_test"]


def rules() -> str:
    """Prometheus' alerting rules, as YAML."""
    return (files("tq.alerts") / "rules.yaml").read_text(encoding="utf-8")


def dashboard() -> str:
    """A dashboard for Grafana, as JSON."""
    return (files("tq.alerts") / "dashboard.json").read_text(encoding="utf-8")
