"""The command `tq`. Importing the modules below gives the app its commands, in the order of `tq --help`."""

# isort: off
import tq.cli.dev
import tq.cli.services
import tq.cli.web
import tq.cli.tasks
import tq.cli.limits
import tq.cli.users
import tq.cli.runs
import tq.cli.doctor
import tq.cli.metrics
import tq.cli.alerts
import tq.cli.debug
import tq.cli.bench
import tq.cli.bench_load
import tq.cli.settings  # noqa: F401 - like those above, imported for its commands

# isort: on
from tq.cli.app import main

__all__ = ["main"]
