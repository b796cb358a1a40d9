"""The command `tq`. Importing the modules below gives the app its commands, in the order of `tq --help`."""

from tq.cli import dev, services, tasks, users, runs, settings  # noqa: F401, I001 - imported for their commands
from tq.cli.app import main

__all__ = ["main"]
