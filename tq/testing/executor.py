"""An executor that remembers, and answers what a test wants."""

from collections.abc import Callable

from tq.models import ExecutionResult, Job, TaskType, UserId


class FakeExecutor:
    """Carries out every task by remembering the job and answering with `answer`."""

    def __init__(self, answer: Callable[[Job], ExecutionResult] | None = None) -> None:
        self.jobs: list[Job] = []
        self._answer = answer or (lambda _job: ExecutionResult.success())

    def execute(self, job: Job) -> ExecutionResult:
        """Remembers the job, and answers."""
        self.jobs.append(job)
        return self._answer(job)

    def for_task(self, _task: TaskType) -> "FakeExecutor":
        """Itself, whichever task is asked for."""
        return self

    @property
    def users(self) -> list[UserId]:
        """For whom something was carried out, in order."""
        return [job.user_id for job in self.jobs]
