"""Task types that are declared in Python."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tq.errors import InvalidDefinition
from tq.executors import load_executor
from tq.models import ExecutionResult, Interval, Job, Missed, RateBand, TaskType
from tq.registry import Registry, declared, task
from tq.testing.builders import make_job

EVERY_HOUR = Interval.hourly()


def send_digest(job: Job) -> None:
    """A plain function that can carry out a task."""


async def send_report(job: Job) -> None:
    """An async function that can carry out a task."""


class SmsExecutor:
    """A class that can carry out a task."""

    def execute(self, job: Job) -> ExecutionResult:
        """Says yes."""
        return ExecutionResult.success(body=job.user_id)


def declared_task(task_id: str) -> TaskType:
    """The declared task type of that id."""
    return Registry.of(declaration.task for declaration in declared().values()).get(task_id)


def problem_with(declare: Callable[[], object]) -> str:
    """The message of a declaration in this file, with the place cut down to the file's name."""
    with pytest.raises(InvalidDefinition) as raised:
        declare()
    place, separator, problem = str(raised.value).partition(": ")
    assert place.rpartition(":")[0] == __file__
    assert place.rpartition(":")[2].isdecimal()
    return f"here{separator}{problem}"


@pytest.mark.parametrize("decorated", [send_digest, send_report, SmsExecutor])
def test_what_is_decorated_stays_what_it_was(decorated: Callable[[Job], object]) -> None:
    returned = task("digest", interval=EVERY_HOUR)(decorated)

    assert returned is decorated


@pytest.mark.parametrize("decorated", [send_digest, send_report, SmsExecutor])
def test_a_worker_finds_what_was_decorated_by_its_name(decorated: Callable[[Job], object]) -> None:
    task("digest", interval=EVERY_HOUR)(decorated)

    path = declared_task("digest").executor
    assert path == f"tests.registry.test_python_tasks:{decorated.__name__}"
    assert load_executor(path).execute(make_job()).error is None


def test_options_mean_what_they_mean_in_the_file() -> None:
    task(
        "digest",
        interval={"type": "daily", "at_time": "9:30"},
        name="Digest",
        window="50%",
        timeout="5m",
        retries=2,
        retry_delay=timedelta(seconds=1),
        rate_limit={"base": "50/s", "min": 25, "max": 100},
        concurrency=3,
        priority="high",
        missed="skip",
        config={"endpoint": "https://example.com"},
    )(send_digest)

    digest = declared_task("digest")
    assert digest.interval == Interval.daily(at="09:30")
    assert (digest.title, str(digest.window), digest.retries) == ("Digest", "50%", 2)
    assert (digest.timeout, digest.retry_delay) == (timedelta(minutes=5), timedelta(seconds=1))
    assert (digest.rate_limit, digest.concurrency) == (RateBand(base=50, min=25, max=100), 3)
    assert digest.missed is Missed.SKIP


def test_what_is_left_out_has_the_default_of_the_file() -> None:
    task("digest", interval=EVERY_HOUR)(send_digest)

    expected = TaskType(
        id="digest", interval=EVERY_HOUR, executor="tests.registry.test_python_tasks:send_digest"
    )
    assert declared_task("digest") == expected


def test_an_executor_that_is_named_takes_the_place_of_what_is_decorated() -> None:
    task("digest", interval=EVERY_HOUR, executor="myapp.executors:SmsExecutor")(send_digest)

    assert declared_task("digest").executor == "myapp.executors:SmsExecutor"


def test_a_declaration_knows_its_place() -> None:
    task("digest", interval=EVERY_HOUR)(send_digest)

    (declaration,) = declared().values()
    assert declaration.place.file == Path(__file__)
    line = Path(__file__).read_text().splitlines()[declaration.place.line - 1]
    assert line == '    task("digest", interval=EVERY_HOUR)(send_digest)'


def test_what_declared_returns_is_a_copy() -> None:
    task("digest", interval=EVERY_HOUR)(send_digest)

    declared().clear()

    assert list(declared()) == ["digest"]


def test_an_id_that_two_functions_declare_names_both_places() -> None:
    task("digest", interval=EVERY_HOUR)(send_digest)
    first = declared_task("digest")
    (declaration,) = declared().values()

    problem = problem_with(lambda: task("digest", interval=EVERY_HOUR)(send_report))

    assert problem == (
        f"here: digest: id: is declared twice, first at {declaration.place}; give one of them another id"
    )
    assert declared_task("digest") == first


def test_the_same_function_again_replaces_its_declaration() -> None:
    task("digest", interval=EVERY_HOUR)(send_digest)

    task("digest", interval=EVERY_HOUR, retries=7)(send_digest)

    assert declared_task("digest").retries == 7


def test_a_bad_option_is_told_with_the_place_of_the_declaration() -> None:
    problem = problem_with(lambda: task("digest", interval={"type": "hourly", "value": 0})(send_digest))

    assert problem == "here: digest: interval.value: 0 is too small; write at least 1"


def test_all_bad_options_are_told_at_once() -> None:
    problem = problem_with(
        lambda: task("digest", interval=EVERY_HOUR, retries=-1, timeout="soon")(send_digest)
    )

    assert [line.partition("digest: ")[2] for line in problem.splitlines()] == [
        "timeout: 'soon' is not a duration; write 30s, 5m, 1h30m, 2d, or a number of seconds",
        "retries: -1 is too small; write at least 0",
    ]


@pytest.mark.parametrize(
    "config",
    [
        {"endpoint": "https://example.com", "headers": {"X-Pin": 31415926}},
        {"endpoint": "https://example.com", "headers": {"X-Pin: 31415926"}},
        {"endpoint": "https://ada:31415926@example.com/a b"},
    ],
)
def test_no_secret_of_a_call_stands_in_a_problem(config: dict[str, object]) -> None:
    problem = problem_with(lambda: task("digest", interval=EVERY_HOUR, config=config)(send_digest))

    assert problem.startswith("here: digest: config.")
    assert "31415926" not in problem


def test_a_bad_id_is_told_with_the_rule() -> None:
    problem = problem_with(lambda: task("../etc/passwd", interval=EVERY_HOUR)(send_digest))

    assert problem.startswith(
        "here: @task: id: '../etc/passwd' cannot be an id; write 1 to 100 letters, digits"
    )


def test_a_function_within_a_function_is_refused_because_no_worker_finds_it() -> None:
    def inner(job: Job) -> None: ...

    problem = problem_with(lambda: task("digest", interval=EVERY_HOUR)(inner))

    assert problem.startswith(
        "here: digest: executor: tests.registry.test_python_tasks:test_a_function_within"
    )
    assert problem.endswith("cannot be found by a worker; give it a name at the top level of a module")


def test_a_class_without_execute_is_refused() -> None:
    problem = problem_with(lambda: task("digest", interval=EVERY_HOUR)(Path))  # type: ignore[type-var]  # the case

    assert problem == (
        "here: digest: executor: class Path has no method execute; "
        "write one that takes a job and returns an ExecutionResult"
    )
    assert declared() == {}
