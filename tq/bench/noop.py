"""What a task of Python code does in `tq bench run`: nothing."""

from tq.models import Job


def do_nothing(_job: Job) -> None:
    """Succeeds."""
