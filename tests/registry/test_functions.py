"""Functions as executors."""

import asyncio
import threading
from datetime import timedelta

import pytest

from tq.executors import FunctionExecutor
from tq.models import ExecutionResult, Job, Outcome
from tq.testing.builders import make_job, make_task


class Refused(Exception):
    """An error of a function's own."""


@pytest.mark.parametrize("returned", [None, 0, False, "anything", {"ok": False}])
def test_a_return_value_of_its_own_means_success(returned: object) -> None:
    result = FunctionExecutor(lambda _: returned).execute(make_job())

    assert result.model_copy(update={"duration": timedelta(0)}) == ExecutionResult.success()


def test_a_result_is_passed_through() -> None:
    refusal = ExecutionResult.failed("NO_ADDRESS", "the user has no address")

    result = FunctionExecutor(lambda _: refusal).execute(make_job())

    assert result is refusal


def test_a_function_is_given_the_job() -> None:
    seen: list[Job] = []
    job = make_job("ada")

    FunctionExecutor(seen.append).execute(job)

    assert seen == [job]


def test_an_async_function_is_run_to_its_end() -> None:
    async def send(job: Job) -> ExecutionResult:
        await asyncio.sleep(0)
        return ExecutionResult.success(body=job.user_id)

    result = FunctionExecutor(send).execute(make_job("ada"))

    assert result.body == "ada"


def test_an_exception_passes_through_for_the_pipeline_to_record() -> None:
    def refuse(_: Job) -> None:
        raise Refused("no")

    async def refuse_later(_: Job) -> None:
        raise Refused("no")

    for function in (refuse, refuse_later):
        with pytest.raises(Refused):
            FunctionExecutor(function).execute(make_job())


def test_an_async_function_is_ended_by_the_tasks_timeout() -> None:
    ended: list[str] = []

    async def wait_for_ever(_: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    result = FunctionExecutor(wait_for_ever).execute(make_job(task=make_task(timeout="10ms")))

    assert result.outcome is Outcome.RETRY
    assert result.error is not None
    assert (result.error.code, result.error.message) == ("TIMEOUT", "the function took longer than 10ms")
    assert ended == ["cleaned up"]


def test_a_timeout_of_the_functions_own_is_an_exception_as_any_other() -> None:
    async def time_out(_: Job) -> None:
        raise TimeoutError("the mail server was silent")

    with pytest.raises(TimeoutError, match="the mail server was silent"):
        FunctionExecutor(time_out).execute(make_job())


def test_what_an_async_function_opened_is_still_usable_for_the_next_job() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def remember(_: Job) -> None:
        loops.append(asyncio.get_running_loop())

    FunctionExecutor(remember).execute(make_job("ada"))
    FunctionExecutor(remember).execute(make_job("bob"))

    assert loops[0] is loops[1]


def test_two_threads_have_an_event_loop_each() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def remember(_: Job) -> None:
        loops.append(asyncio.get_running_loop())

    executor = FunctionExecutor(remember)
    other = threading.Thread(target=executor.execute, args=[make_job("ada")])
    other.start()
    other.join()
    executor.execute(make_job("bob"))

    assert loops[0] is not loops[1]
