"""The demo endpoint: how it behaves, and what it remembers."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tq.child_process import start_child
from tq.dev.endpoint import Behaviour, Call, DemoEndpoint, Tally
from tq.errors import InvalidInput

from . import eventually

PROMPT = replace(Behaviour.perfect(), fastest=timedelta(0), slowest=timedelta(0))
NEVER_DONE = replace(Behaviour.perfect(), fastest=timedelta(minutes=10), slowest=timedelta(minutes=10))

POST = b"POST /digest HTTP/1.1\r\nContent-Length: 2\r\nX-User-ID: ada\r\n\r\n{}"
GET = b"GET /sync HTTP/1.1\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n"


def send(endpoint: DemoEndpoint, stream: bytes) -> bytes:
    """Everything that is answered to the stream until the endpoint closes the connection."""
    with connection_to(endpoint) as connection:
        connection.sendall(stream)
        return connection.makefile("rb").read()


def connection_to(endpoint: DemoEndpoint) -> socket.socket:
    url = httpx.URL(endpoint.url)
    return socket.create_connection((url.host, url.port or 0), timeout=20)


def call(client: httpx.Client, *, key: str = "job_1", attempt: int = 1, user: str = "ada") -> httpx.Response:
    headers = {"Idempotency-Key": f'"{key}"', "X-Attempt": str(attempt), "X-User-ID": user}
    return client.post("/digest", json={"job_id": key}, headers=headers)


def stats_of(endpoint: DemoEndpoint) -> dict[str, object]:
    stats: dict[str, object] = httpx.get(f"{endpoint.url}/stats").json()
    return stats


@pytest.fixture
def endpoint() -> Iterator[DemoEndpoint]:
    with DemoEndpoint(behaviour=PROMPT, seed=1) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: DemoEndpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url) as client:
        yield client


# --- How it behaves --------------------------------------------------------------------------------


def statuses(behaviour: Behaviour, *, seed: int = 1, attempt: int = 1) -> list[int]:
    """What 20,000 jobs of 20,000 users get at one attempt."""
    return [
        behaviour.answer(seed=seed, key=f"job_{number}", attempt=attempt, user=f"user_{number}").status
        for number in range(20_000)
    ]


def test_the_same_seed_gives_the_same_answers_and_another_seed_others() -> None:
    first = statuses(Behaviour(), seed=1)

    assert statuses(Behaviour(), seed=1) == first
    assert statuses(Behaviour(), seed=2) != first


def test_the_answers_of_a_seed_are_the_same_in_every_process_and_release() -> None:
    troubled = {number: status for number, status in enumerate(statuses(Behaviour())[:100]) if status != 200}

    assert troubled == {3: 500, 15: 500, 42: 500, 46: 500, 93: 503}


def test_each_kind_of_trouble_comes_as_often_as_it_should() -> None:
    at_first = Counter(statuses(Behaviour()))

    shares = {status: count / 20_000 for status, count in at_first.items()}

    assert shares == pytest.approx({200: 0.9445, 422: 0.01, 500: 0.045, 503: 0.0005}, abs=0.002)


def test_what_was_flaky_or_busy_at_first_succeeds_later_and_what_is_final_stays() -> None:
    at_first, later = statuses(Behaviour()), statuses(Behaviour(), attempt=2)

    then = {
        now: Counter(after for before, after in zip(at_first, later, strict=True) if before == now)
        for now in (200, 422, 500, 503)
    }

    assert set(then[200]) == {200}
    assert set(then[422]) == {422}
    assert set(then[500]) == {200, 500}  # flaky jobs, and broken users
    assert set(then[503]) == {200}


def test_a_broken_or_rejected_user_is_so_for_every_job() -> None:
    behaviour = Behaviour(flaky=0, busy=0)

    by_user = {
        user: {
            behaviour.answer(seed=1, key=f"{job}_{user}", attempt=1, user=f"user_{user}").status
            for job in range(5)
        }
        for user in range(2000)
    }

    assert all(len(answers) == 1 for answers in by_user.values())
    assert {200, 422, 500} == set().union(*by_user.values())


def test_a_usual_answer_takes_from_fastest_to_slowest_and_a_slow_one_300_to_800_ms() -> None:
    behaviour = Behaviour()

    times = [
        behaviour.answer(seed=1, key=f"job_{number}", attempt=1, user="ada").after / timedelta(milliseconds=1)
        for number in range(20_000)
    ]
    slow = [time for time in times if time > 50]

    assert min(times) == pytest.approx(5, abs=1)
    assert 300 <= min(slow) <= max(slow) <= 800
    assert len(slow) / len(times) == pytest.approx(0.03, abs=0.005)


def test_perfect_means_that_all_is_answered_well() -> None:
    assert set(statuses(Behaviour.perfect())) == {200}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slow": 1.5}, "slow is 1.5; write a share from 0 to 1"),
        ({"busy": -0.1}, "busy is -0.1"),
        ({"fastest": timedelta(seconds=2)}, "fastest is 2s and slowest 50ms"),
        ({"limit_per_second": 0}, "limit_per_second is 0; write at least 1"),
    ],
)
def test_a_behaviour_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Behaviour(**wrong)


def test_a_busy_answer_says_when_to_come_back() -> None:
    behaviour = replace(PROMPT, busy=1)

    with DemoEndpoint(behaviour=behaviour, seed=1) as endpoint, httpx.Client(base_url=endpoint.url) as client:
        first, second = call(client, attempt=1), call(client, attempt=2)

    assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
    assert second.status_code == 200


def test_calls_beyond_the_limit_are_told_to_come_back() -> None:
    behaviour = replace(PROMPT, limit_per_second=2)

    with DemoEndpoint(behaviour=behaviour, seed=1) as endpoint:
        answers = send(endpoint, GET * 10 + LAST)

    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert answers.count(b"HTTP/1.1 429 ") == answers.count(b"Retry-After: 1\r\n") == 9


# --- What it remembers -----------------------------------------------------------------------------


def test_calls_are_summed_up(endpoint: DemoEndpoint, client: httpx.Client) -> None:
    for key in ("job_1", "job_2"):
        call(client, key=key)

    assert stats_of(endpoint) == {
        "calls": 2,
        "successes": 2,
        "duplicates": 0,
        "distinct_jobs": 2,
        "jobs_succeeded": 2,
        "by_status": {"200": 2},
        "max_concurrent": 1,
    }


def test_only_a_call_for_a_job_that_was_done_is_a_duplicate() -> None:
    tally = Tally()

    for key, status in [
        ("a", 500),
        ("a", 200),
        ("a", 200),
        ("a", 500),
        ("b", 503),
        ("b", 204),
        ("", 200),
        ("", 200),
    ]:
        tally.begin()
        tally.end(Call("digest", key, "ada", 1, 0.0), status)

    sums = tally.stats()
    assert (sums["calls"], sums["successes"], sums["duplicates"]) == (8, 5, 2)
    assert (sums["distinct_jobs"], sums["jobs_succeeded"]) == (2, 2)


def test_a_tally_that_is_full_forgets_no_job_and_takes_no_more() -> None:
    tally = Tally(max_jobs=2, kept_calls=3)

    for key in ("a", "b", "c", "c", "a"):
        tally.begin()
        tally.end(Call("digest", key, "ada", 1, 0.0), 200)

    sums = tally.stats()
    assert (sums["distinct_jobs"], sums["duplicates"], sums["calls"]) == (2, 1, 5)
    assert [call["sequence"] for call in tally.calls_after(0)] == [3, 4, 5]
    assert [call["sequence"] for call in tally.calls_after(4)] == [5]
    assert tally.calls_after(5) == tally.calls_after(99) == []


def test_a_call_is_recorded_with_who_what_and_when(client: httpx.Client) -> None:
    began = time.time()
    call(client, key="job_1", attempt=3, user="ada")
    call(client, key="job_2", attempt=1, user="bob")

    recorded = client.get("/calls", params={"after": 1}).json()

    started, ended = recorded[0].pop("started"), recorded[0].pop("ended")
    assert recorded == [
        {"sequence": 2, "task": "digest", "key": "job_2", "user": "bob", "attempt": 1, "status": 200}
    ]
    assert began <= started <= ended <= time.time()
    assert [call["attempt"] for call in client.get("/calls").json()] == [3, 1]


def test_a_number_that_is_none_is_refused(client: httpx.Client) -> None:
    refused = client.get("/calls", params={"after": "yesterday"})

    assert refused.status_code == 400
    assert "sequence" in refused.json()["error"]


def test_what_is_asked_about_the_tally_is_no_task(endpoint: DemoEndpoint, client: httpx.Client) -> None:
    refused = [client.post("/stats"), client.delete("/calls"), client.get("/reset")]

    assert [response.status_code for response in refused] == [405, 405, 405]
    assert stats_of(endpoint)["calls"] == 0


def test_a_reset_forgets_everything(endpoint: DemoEndpoint, client: httpx.Client) -> None:
    call(client)

    client.post("/reset")

    assert stats_of(endpoint) == Tally().stats()
    assert client.get("/calls").json() == []


def test_calls_side_by_side_are_counted_and_those_whose_caller_left_are_no_successes() -> None:
    with DemoEndpoint(behaviour=NEVER_DONE, seed=1) as endpoint:
        callers = [connection_to(endpoint) for _ in range(5)]
        for caller in callers:
            caller.sendall(POST)
        assert eventually(lambda: stats_of(endpoint)["max_concurrent"] == 5)

        for caller in callers:
            caller.close()
        assert eventually(lambda: stats_of(endpoint)["calls"] == 5)
        sums = stats_of(endpoint)

    assert sums["by_status"] == {"499": 5}
    assert (sums["max_concurrent"], sums["successes"]) == (5, 0)


def test_a_call_under_way_at_a_reset_is_not_in_the_new_tally() -> None:
    with DemoEndpoint(behaviour=NEVER_DONE, seed=1) as endpoint:
        with connection_to(endpoint) as caller:
            caller.sendall(POST)
            assert eventually(lambda: stats_of(endpoint)["max_concurrent"] == 1)
            httpx.post(f"{endpoint.url}/reset")
        sums = stats_of(endpoint)

    assert sums == Tally().stats()


# --- As a process of its own -----------------------------------------------------------------------


def test_it_announces_its_port_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    announced = tmp_path / "endpoint.json"
    command = [sys.executable, "-m", "tq.dev.endpoint", "--rejected", "1", "--slowest", "5ms"]
    process = start_child([*command, "--announce", str(announced)])

    assert eventually(announced.exists)
    place = json.loads(announced.read_bytes())
    answer = httpx.post(f"http://127.0.0.1:{place['port']}/digest")
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=20)

    assert place["pid"] == process.pid
    assert answer.status_code == 422
    assert code == 0


def test_a_rate_that_cannot_be_is_wrong_usage() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "tq.dev.endpoint", "--slow", "2"], capture_output=True, text=True
    )

    assert refused.returncode == 2
    assert "slow is 2.0; write a share from 0 to 1" in refused.stderr


def test_a_port_that_is_taken_is_told(endpoint: DemoEndpoint) -> None:
    port = endpoint.url.rpartition(":")[2]

    refused = subprocess.run(
        [sys.executable, "-m", "tq.dev.endpoint", "--port", port], capture_output=True, text=True
    )

    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
