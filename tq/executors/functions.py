"""A function as an executor: what its return value means, and where an `async def` runs.

An exception passes through: whoever runs executors records it, in one place for all of them.
"""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta

from tq.clock import Stopwatch
from tq.models import ExecutionResult, Job, Outcome, format_duration


class FunctionExecutor:
    """Runs a plain or an `async def` function with the job.

    The function may return an ExecutionResult; any other return value means success. The task's
    timeout ends an `async def` at its next `await`. A plain function cannot be stopped from
    outside: it bounds its own calls, by `job.task.timeout`.
    """

    def __init__(self, function: Callable[[Job], object]) -> None:
        self._function = function

    def execute(self, job: Job, /) -> ExecutionResult:
        """What the function said of the job.

        Raises whatever the function raises.
        """
        watch = Stopwatch()
        answer = self._function(job)
        if answer is not None and inspect.isawaitable(answer):
            return _kept_loop.runner.run(_bounded(answer, job.task.timeout, watch))
        return _as_result(answer, watch)


async def _bounded(answer: Awaitable[object], timeout: timedelta, watch: Stopwatch) -> ExecutionResult:
    try:
        async with asyncio.timeout(timeout.total_seconds()) as limit:
            return _as_result(await answer, watch)
    except TimeoutError:
        if not limit.expired():  # a TimeoutError of the function's own, from a call it made
            raise
    return ExecutionResult.retry("TIMEOUT", f"the function took longer than {format_duration(timeout)}")


def _as_result(answer: object, watch: Stopwatch) -> ExecutionResult:
    if isinstance(answer, ExecutionResult):
        return answer
    return ExecutionResult(outcome=Outcome.SUCCESS, duration=watch.elapsed)


class _KeptLoop(threading.local):
    """An event loop per thread, kept from job to job.

    What a function keeps open (an HTTP client, a connection pool) belongs to the loop that it was
    opened on, and would break at the second job if every job had a loop of its own.
    """

    def __init__(self) -> None:
        self.runner = asyncio.Runner()


_kept_loop = _KeptLoop()
