"""When a finding is told: whatever is found, and whichever messages arrive, by the rule alone."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tq.alerts.alert import (
    JOINED_AFTER,
    LAST_RETRY,
    LOOK_EVERY,
    REMINDED_AFTER,
    Alert,
    Kind,
    delivery_id_of,
    follow,
    id_of,
    message_of,
    written,
)
from tq.doctor import Finding, Status
from tq.testing.clock import utc

NOW = utc("2026-11-24T09:45")
statuses = st.sampled_from(list(Status))


def finding(status: Status, subjects: Iterable[str] = ()) -> Finding:
    return Finding(
        "ticks", status, f"found {status}", "ticks matter", "start tq scheduler", tuple(sorted(subjects))
    )


def begun(status: Status = Status.PROBLEM) -> Alert:
    alert = follow(None, finding(status), NOW, least=Status.WARNING)
    assert alert is not None
    return alert


@given(
    looks=st.lists(st.tuples(statuses, st.booleans()), max_size=60),
    least=st.sampled_from([Status.WARNING, Status.PROBLEM]),
)
def test_who_gets_messages_knows_how_it_stands(looks: list[tuple[Status, bool]], least: Status) -> None:
    """With three good looks and a receiver that answers, whatever was told as firing is told as over."""
    alert, now = None, NOW
    open_ids: set[str] = set()
    calm = [(Status.OK, True)] * (2 + int(LAST_RETRY / LOOK_EVERY))
    for status, arrives in [*looks, *calm]:
        now += LOOK_EVERY
        alert = follow(alert, finding(status), now, least=least)
        # It stands in Redis in between.
        alert = alert and Alert.from_json(alert.to_json())
        if alert is None or (kind := alert.due(now)) is None:
            continue
        alert = alert.claimed(kind, now)
        # A message whose answer is lost may have arrived or not; here it has.
        if kind is Kind.FIRING:
            open_ids.add(id_of(alert, "ns"))
        else:
            assert open_ids == {id_of(alert, "ns")}
            if arrives:
                open_ids.clear()
        if arrives:
            alert = alert.delivered(kind, now)

    assert alert is None
    assert open_ids == set()


@given(looks=st.lists(statuses, max_size=40))
def test_nothing_is_told_of_what_lasts_for_one_look(looks: list[Status]) -> None:
    alert, now = None, NOW
    for status in looks:
        for seen in (status, Status.OK):
            now += LOOK_EVERY
            alert = follow(alert, finding(seen), now, least=Status.WARNING)
            assert alert is None or alert.due(now) is None


TASKS = "abcdefg"


@given(
    times=st.lists(
        st.tuples(st.sets(st.sampled_from(TASKS), min_size=1), st.integers(1, 50)), min_size=2, max_size=8
    )
)
def test_whoever_has_trouble_for_two_looks_is_told_of_within_minutes_and_nobody_twice(
    times: list[tuple[set[str], int]],
) -> None:
    alert, now = None, NOW
    since: dict[str, datetime] = {}  # when trouble was first seen, of those who have it
    told: set[str] = set()  # of those
    told_at: list[datetime] = []
    for troubled in [troubled for troubled, looks in times for _ in range(looks)]:
        now += LOOK_EVERY
        since = {task: since.get(task, now) for task in troubled}
        told &= troubled
        alert = follow(alert, finding(Status.WARNING, troubled), now, least=Status.WARNING)
        assert alert is not None
        alert = Alert.from_json(alert.to_json())
        if (kind := alert.due(now)) is not None:
            message = message_of(alert, kind, now, host="here", namespace="ns")
            assert not told_at or {task for task in message.subjects if task not in told}
            told, told_at = set(message.subjects), [*told_at, now]
            alert = alert.claimed(kind, now).delivered(kind, now)
        untold_since = [since[task] for task in troubled - told]
        if untold_since and told_at:
            # Nobody waits for longer than until messages may come again, and one look more.
            assert now < max(min(untold_since), told_at[-1]) + JOINED_AFTER + LOOK_EVERY
    pauses = [later - earlier for earlier, later in pairwise(told_at)]
    assert all(pause >= JOINED_AFTER for pause in pauses)


def test_hundreds_of_tasks_in_trouble_are_one_message_that_stays_small() -> None:
    alert = begun().claimed(Kind.FIRING, NOW).delivered(Kind.FIRING, NOW)
    many = finding(Status.PROBLEM, [f"task-{number:03}" for number in range(300)])
    for _ in range(2):
        alert = follow(alert, many, NOW, least=Status.WARNING)
    assert alert is not None

    message = message_of(alert, Kind.FIRING, NOW, host="here", namespace="ns")

    assert len(message.subjects) == 100
    assert "now also task-000, task-001, task-002, task-003, task-004 and 95 more: ticks" in message.text


def test_a_message_that_fails_is_sent_again_ever_more_rarely_until_every_five_minutes() -> None:
    alert, now, waits = begun(), NOW + LOOK_EVERY, []
    for _ in range(8):
        alert = alert.claimed(Kind.FIRING, now)
        assert alert.retry_at is not None
        waits.append((alert.retry_at - now).total_seconds())
        assert alert.due(alert.retry_at - timedelta(seconds=1)) is None
        now = alert.retry_at
        assert alert.due(now) is Kind.FIRING

    assert waits == [15, 30, 60, 120, 240, 300, 300, 300]


def test_attempts_at_one_message_share_an_id_and_the_next_message_has_another() -> None:
    alert = begun().claimed(Kind.FIRING, NOW)
    again = alert.claimed(Kind.FIRING, NOW + LOOK_EVERY)
    told = again.delivered(Kind.FIRING, NOW + LOOK_EVERY)
    assert told is not None

    ids = [delivery_id_of(each, Kind.FIRING, "ns") for each in (alert, again, told)]

    assert ids[0] == ids[1] != ids[2]
    assert told.due(NOW + LOOK_EVERY + REMINDED_AFTER) is Kind.FIRING


def test_trouble_that_comes_back_after_its_end_may_have_been_told_is_told_anew() -> None:
    told = begun().claimed(Kind.FIRING, NOW).delivered(Kind.FIRING, NOW)
    well = follow(told, finding(Status.OK), NOW + LOOK_EVERY, least=Status.WARNING)
    assert well is not None
    unanswered = well.claimed(Kind.RESOLVED, NOW + 2 * LOOK_EVERY)

    back = follow(unanswered, finding(Status.PROBLEM), NOW + 4 * LOOK_EVERY, least=Status.WARNING)

    assert back is not None
    assert back.due(NOW + 4 * LOOK_EVERY) is Kind.FIRING


def test_what_is_secret_in_a_finding_is_told_to_nobody() -> None:
    leaky = Finding(
        "redis", Status.PROBLEM, "redis://:open-sesame@host/0 is away", "", "set password=open-sesame"
    )
    alert = follow(None, leaky, NOW, least=Status.PROBLEM)
    assert alert is not None

    message = written(message_of(alert, Kind.FIRING, NOW, host="app-1", namespace="ns"))

    assert "open-sesame" not in str(message)
