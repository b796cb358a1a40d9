"""The endpoint that bears so much and no more: what it makes of calls, and what it tells of them."""

import re
import socket
import time
from collections import Counter
from datetime import timedelta

import httpx
import pytest

from tests.waiting import eventually
from tq.errors import InvalidInput
from tq.testing import Behaviour, Call, Calls, Downstream, Quota, State
from tq.testing.downstream import Answer, Host

AT_ONCE = timedelta(0)
NOW = 1000.0
REQUEST = b"POST /digest HTTP/1.1\r\nX-Task-Type: digest\r\nX-User-ID: ada\r\nX-Attempt: 2\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n"


def statuses(host: Host, *, per_second: float, begin: float, seconds: float) -> Counter[int | None]:
    """How calls are answered that arrive so fast for so long."""
    answers = (
        host.answer("digest", begin + number / per_second) for number in range(round(seconds * per_second))
    )
    return Counter(answer.status if answer else None for answer in answers)


def made_at(*instants: float) -> Calls:
    return Calls(Call("digest", "ada", 1, begun) for begun in instants)


def lasting(*spans: tuple[float, float | None]) -> Calls:
    return Calls(Call("digest", "ada", 1, begun, ended) for begun, ended in spans)


def connection_to(downstream: Downstream) -> socket.socket:
    url = httpx.URL(downstream.url)
    return socket.create_connection((url.host, url.port or 0), timeout=20)


def send(downstream: Downstream, stream: bytes) -> bytes:
    """Everything that is answered to the stream until the connection is closed."""
    with connection_to(downstream) as connection:
        connection.sendall(stream)
        return connection.makefile("rb").read()


# --- What it makes of calls ------------------------------------------------------------------------


def test_a_call_takes_its_own_time_and_that_of_those_before_it() -> None:
    host = Host(Behaviour(capacity=10, takes=timedelta(milliseconds=20)), NOW)

    answers = [host.answer("digest", NOW) for _ in range(5)] + [host.answer("digest", NOW + 0.25)]

    assert [answer and (answer.status, round(answer.after, 6)) for answer in answers] == [
        (200, 0.12),
        (200, 0.22),
        (200, 0.32),
        (200, 0.42),
        (200, 0.52),
        (200, 0.37),
    ]


def test_what_would_wait_for_longer_than_the_queue_allows_is_refused_at_once() -> None:
    host = Host(Behaviour(capacity=10, queue=timedelta(milliseconds=500)), NOW)

    answers = [host.answer("digest", NOW) for _ in range(7)]

    assert [answer and answer.status for answer in answers] == [200] * 5 + [503] * 2
    assert answers[-1] == Answer(503, after=0, retry_after=None)


@pytest.mark.parametrize("capacity", [0.5, 20, 100])
def test_calls_at_the_capacity_are_all_served_and_at_thrice_of_it_a_third(capacity: float) -> None:
    host = Host(Behaviour(capacity=capacity), NOW)

    within = statuses(host, per_second=capacity, begin=NOW, seconds=200)
    beyond = statuses(host, per_second=3 * capacity, begin=NOW + 300, seconds=200)

    assert within == {200: 200 * capacity}
    assert beyond[200] == pytest.approx(200 * capacity, abs=max(2, capacity))
    assert beyond[200] + beyond[503] == 600 * capacity


def test_a_host_of_any_capacity_serves_all_at_once() -> None:
    host = Host(Behaviour(takes=timedelta(milliseconds=5)), NOW)

    answers = {host.answer("digest", NOW) for _ in range(1000)}

    assert answers == {Answer(200, 0.005)}


def test_a_capacity_holds_from_when_it_is_put_into_force() -> None:
    host = Host(Behaviour(capacity=100), NOW)
    before = statuses(host, per_second=100, begin=NOW, seconds=10)

    host.behave(Behaviour(capacity=20), NOW + 10)

    assert before == {200: 1000}
    assert statuses(host, per_second=100, begin=NOW + 10, seconds=10)[200] == pytest.approx(200, abs=15)


def test_what_was_worked_off_before_a_change_waits_no_more() -> None:
    host = Host(Behaviour(capacity=10, takes=AT_ONCE, queue=timedelta(seconds=2)), NOW)
    for _ in range(10):
        host.answer("digest", NOW)

    host.behave(Behaviour(capacity=1, takes=AT_ONCE, queue=timedelta(minutes=1)), NOW + 0.5)

    answer = host.answer("digest", NOW + 0.5)
    assert answer
    assert answer.after == pytest.approx(6)


def test_a_long_queue_makes_answers_slow_before_any_is_refused() -> None:
    host = Host(Behaviour(capacity=10, takes=AT_ONCE, queue=timedelta(seconds=5)), NOW)

    answers = [host.answer("digest", NOW + second / 100) for second in range(100)]

    waits = [answer.after for answer in answers if answer and answer.status == 200]
    assert waits[0] == pytest.approx(0.1)
    assert 4.5 < max(waits) <= 5


def test_a_quota_is_full_again_when_its_next_stretch_begins() -> None:
    host = Host(Behaviour(takes=AT_ONCE, quota=Quota(2, per=timedelta(seconds=10))), NOW)

    answers = [host.answer("digest", NOW + second) for second in (0, 1, 2, 9.5, 10, 11, 12)]

    ok = Answer(200)
    assert answers == [ok, ok, Answer(429, 0, 8), Answer(429, 0, 1), ok, ok, Answer(429, 0, 8)]


def test_a_closed_host_tells_for_how_long_it_still_is() -> None:
    host = Host(Behaviour(takes=AT_ONCE), NOW)

    host.behave(Behaviour(takes=AT_ONCE, closed_for=timedelta(seconds=20)), NOW + 5)

    answers = [host.answer("digest", NOW + second) for second in (5, 5.2, 24.9, 25)]
    assert answers == [Answer(429, 0, 20), Answer(429, 0, 20), Answer(429, 0, 1), Answer(200)]


def test_a_task_can_have_answers_of_its_own() -> None:
    host = Host(Behaviour(statuses={"bad": 500}), NOW)

    assert [host.answer(task, NOW) for task in ("bad", "digest")] == [Answer(500, 0.02), Answer(200, 0.02)]


@pytest.mark.parametrize("state", [State.HANGING, State.DOWN])
def test_who_hangs_or_is_down_answers_nothing(state: State) -> None:
    assert Host(Behaviour(state=state), NOW).answer("digest", NOW) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 0}, "capacity is 0; write more than 0, or state=State.DOWN"),
        ({"quota": Quota(-1, timedelta(seconds=1))}, "at least 0 calls per more than 0 seconds"),
        ({"quota": Quota(1, timedelta(0))}, "at least 0 calls per more than 0 seconds"),
    ],
)
def test_a_behaviour_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Behaviour(**wrong)  # type: ignore[arg-type] # wrong on purpose


# --- What it tells of calls ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "peak"),
    [
        (made_at(), 0),
        (made_at(5), 1),
        (made_at(0, 0.5, 0.75), 3),
        (made_at(0, 1, 2, 3), 1),  # a second later is another second
        (made_at(0, 0.5, 1, 1.5, 2), 2),
        (made_at(0.5, 1.0, 1.25, 1.375, 1.75, 9), 4),  # across the change from one full second to the next
    ],
)
def test_the_peak_is_the_most_calls_in_any_second(calls: Calls, peak: int) -> None:
    assert calls.peak_per_second() == peak


@pytest.mark.parametrize(
    ("calls", "most"),
    [
        (lasting(), 0),
        (lasting((0, 1), (1, 2), (2, 3)), 1),
        (lasting((0, 3), (1, 2), (1.5, 4), (2.5, 4)), 3),
        (lasting((0, None), (5, 6), (7, None)), 2),  # what has not ended is under way
    ],
)
def test_at_once_are_calls_that_were_under_way_together(calls: Calls, most: int) -> None:
    assert calls.most_at_once() == most


def test_calls_are_told_apart_by_time_task_and_answer() -> None:
    calls = Calls(
        [
            Call("digest", "ada", 1, 1.0, 1.1, 200),
            Call("sync", "bob", 1, 2.0, 2.1, 429),
            Call("digest", "cem", 2, 3.0, 3.1, 503),
            Call("digest", "dot", 1, 4.0, 4.1, 500),
            Call("digest", "eve", 1, 5.0),
        ]
    )

    assert [call.user for call in calls.between(2, 4)] == ["bob", "cem"]
    assert [call.user for call in calls.of("sync")] == ["bob"]
    assert [call.user for call in calls.served] == ["ada"]
    assert [call.user for call in calls.refused] == ["bob", "cem"]
    assert len(calls.between(1, 3).of("digest").served) == 1


# --- As a server -----------------------------------------------------------------------------------


def test_a_call_is_recorded_with_who_what_and_when() -> None:
    began = time.monotonic()
    with Downstream() as downstream:
        send(downstream, REQUEST + LAST)

        first, last = downstream.calls

    assert first[:3] == ("digest", "ada", 2)
    assert last[:3] == ("", "", 1)
    assert (first.status, last.status) == (200, 200)
    assert began <= first.begun < (first.ended or 0) <= last.begun <= time.monotonic()
    assert (first.ended or 0) - first.begun >= 0.02


def test_requests_on_one_connection_are_answered_one_after_the_other() -> None:
    with Downstream(Behaviour(takes=timedelta(milliseconds=1))) as downstream:
        answers = send(downstream, REQUEST * 20 + LAST)

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == len(downstream.calls) == 21
    assert downstream.calls.most_at_once() == 1


def test_what_is_no_request_is_refused_and_is_no_call() -> None:
    with Downstream() as downstream:
        refused = send(downstream, b"hello\r\n\r\n")
        answered = send(downstream, LAST)

    assert refused.startswith(b"HTTP/1.1 400 ")
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert len(downstream.calls) == 1


def test_more_than_it_bears_is_refused_and_the_rest_is_served() -> None:
    with Downstream(Behaviour(capacity=10)) as downstream:
        callers = [connection_to(downstream) for _ in range(12)]
        for caller in callers:
            caller.sendall(LAST)
        answers = [caller.makefile("rb").read() for caller in callers]
        for caller in callers:
            caller.close()

    served = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200 ")]
    assert len(downstream.calls.served) == len(served) >= 5
    assert len(downstream.calls.refused) == 12 - len(served) > 0
    assert downstream.calls.served.most_at_once() == 5


def test_a_refusal_says_when_to_come_back() -> None:
    with Downstream(Behaviour(closed_for=timedelta(seconds=20))) as downstream:
        answer = send(downstream, LAST)

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 20\r\n" in answer


def test_who_is_down_ends_connections_refuses_new_ones_and_comes_back_at_the_same_place() -> None:
    with Downstream() as downstream, connection_to(downstream) as kept:
        kept.sendall(REQUEST)
        assert kept.recv(1000).endswith(b"\r\n\r\nnull")

        downstream.behave(Behaviour(state=State.DOWN))

        with pytest.raises(ConnectionRefusedError):
            connection_to(downstream)
        assert kept.recv(1000) == b""
        downstream.behave(Behaviour())
        assert send(downstream, LAST).startswith(b"HTTP/1.1 200 ")


def test_who_is_down_from_the_beginning_refuses_the_first_caller() -> None:
    with (
        Downstream(Behaviour(state=State.DOWN)) as downstream,
        pytest.raises(ConnectionRefusedError),
    ):
        connection_to(downstream)


def test_a_call_that_hangs_is_under_way_until_its_caller_leaves() -> None:
    with Downstream(Behaviour(state=State.HANGING)) as downstream:
        caller = connection_to(downstream)
        caller.sendall(REQUEST)
        eventually(lambda: len(downstream.calls) == 1)
        assert downstream.calls[0].ended is None

        caller.close()

        eventually(lambda: downstream.calls[0].status == 499)


def test_the_work_on_a_call_goes_on_when_its_caller_has_left() -> None:
    with Downstream(Behaviour(takes=timedelta(milliseconds=300))) as downstream:
        caller = connection_to(downstream)
        caller.sendall(REQUEST)
        eventually(lambda: len(downstream.calls) == 1)

        caller.close()

        eventually(lambda: downstream.calls[0].ended is not None)
        [call] = downstream.calls
        assert call.status == 499
        assert (call.ended or 0) - call.begun >= 0.3


def test_a_behaviour_can_be_put_into_force_later() -> None:
    with Downstream(Behaviour(takes=AT_ONCE)) as downstream:
        begun = time.monotonic()
        downstream.behave(Behaviour(takes=AT_ONCE, statuses={"": 500}), after=timedelta(milliseconds=200))
        downstream.behave(Behaviour(), after=timedelta(hours=1))

        eventually(lambda: send(downstream, LAST).startswith(b"HTTP/1.1 500 "))

        assert time.monotonic() - begun >= 0.2
