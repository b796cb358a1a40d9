"""The ids of runs and jobs: recognisable by receivers, so they never change between releases."""

import re
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tq.models import RunId, TaskId, UserId, job_id_of, manual_run_id, scheduled_run_id
from tq.models.ids import ID_PATTERN, job_ids_of

NINE = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
IDS = st.from_regex(re.compile(ID_PATTERN, re.ASCII), fullmatch=True)


def test_ids_are_what_they_have_always_been() -> None:
    run_id = scheduled_run_id(TaskId("email_digest"), NINE)

    assert run_id == "email_digest~20261124T090000Z"
    assert manual_run_id(TaskId("email_digest"), "order-7") == "email_digest~me9b52cd6ff54f2f1"
    assert job_id_of(run_id, UserId("ada")) == "job_03e6a9b8291978e0d91dabc0b569e15b"


@given(
    tasks=st.tuples(IDS, IDS),
    users=st.tuples(IDS, IDS),
    hours=st.tuples(st.integers(0, 23), st.integers(0, 23)),
)
def test_each_user_has_another_job_in_each_run(
    tasks: tuple[str, str], users: tuple[str, str], hours: tuple[int, int]
) -> None:
    wholes = [(task, hour, user) for task, hour, user in zip(tasks, hours, users, strict=True)] + [
        (tasks[0], hours[1], users[0]),
        (tasks[1], hours[0], users[0]),
        (tasks[0], hours[0], users[1]),
    ]

    job_ids = {
        job_id_of(scheduled_run_id(TaskId(task), NINE.replace(hour=hour)), UserId(user))
        for task, hour, user in wholes
    }

    assert len(job_ids) == len(set(wholes))


@given(run=IDS, user=IDS)
def test_a_jobs_id_can_stand_in_a_header_and_before_a_dot(run: str, user: str) -> None:
    assert re.fullmatch(r"job_[0-9a-f]{32}", job_id_of(RunId(run), UserId(user)))


@given(run=IDS, users=st.lists(IDS, max_size=5))
def test_many_jobs_have_the_ids_that_each_has_alone(run: str, users: list[str]) -> None:
    run_id, user_ids = RunId(run), [UserId(user) for user in users]

    job_ids = job_ids_of(run_id, user_ids)

    assert job_ids == [job_id_of(run_id, user_id) for user_id in user_ids]


def test_requests_of_different_keys_are_different_runs() -> None:
    assert manual_run_id(TaskId("email_digest"), "a") != manual_run_id(TaskId("email_digest"), "b")
