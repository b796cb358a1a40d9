"""What carries a job out: the one method that an executor has."""

from typing import Protocol

from tq.models import ExecutionResult, Job


class Executor(Protocol):
    """Carries jobs out, from several threads at once."""

    def execute(self, job: Job, /) -> ExecutionResult:
        """What became of one attempt.

        An outcome that can be expected (an endpoint that is down) is a result; an exception is a
        mistake in the executor, and counts as an attempt that may be tried again.

        Raises:
            ExecutorUnavailable: if this process lacks what the job needs and another may have it.
        """
        ...
