"""Real conditions in a real Redis, told to a real receiver by two processes: once, and once when they are over."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import orjson
import pytest

from tests.alerts.conftest import TASKS, System
from tests.alerts.receiver import SECRET_PATH, Receiver
from tests.ports import free_port
from tests.waiting import eventually
from tq.alerts import Watch, send_test
from tq.alerts.alert import JOINED_AFTER, LAST_RETRY, LOOK_EVERY, REMINDED_AFTER
from tq.alerts.watch import WATCH_LASTS
from tq.clock import to_ms
from tq.limits import EVERY_TASK, Limit, limit_everything
from tq.models import RunId, Strategy, TaskId
from tq.redis_server import RedisServer
from tq.store.limits import Ask, Report, Request

DIGEST = TaskId("digest")
MakeSystem = Callable[..., System]


# --- What is told ------------------------------------------------------------------------------------------


def stop_ticks(system: System) -> None:
    system.ticks = False
    system.command("HSET", "@heartbeat", "tick", 1_000_000_000_000)


def tick_again(system: System) -> None:
    system.ticks = True


def kill_all(system: System) -> None:
    system.lives = False
    system.command("DEL", "@beats")


def live_again(system: System) -> None:
    system.lives = True


def put_a_message_away(system: System) -> None:
    system.command("ZADD", f"{system.settings.namespace}:queue:normal.XQ", 1, "some message")


def forget_dead_letters(system: System) -> None:
    system.command("DEL", f"{system.settings.namespace}:queue:normal.XQ")


def a_run(system: System, **fields: int) -> RunId:
    """A run under way that has an hour left, as far as anybody looks at it."""
    run = RunId("digest~1")
    key = system.runtime.store.keys("run", run)
    found = {"deadline_at": to_ms(system.clock.now()) + 3_600_000, "expected": 0, **fields}
    for name, value in found.items():
        system.command("HSET", key, name, value)
    system.command("SADD", "@running", run)
    return run


def lose_jobs(system: System) -> None:
    a_run(system, expected=3)


def find_them(system: System) -> None:
    a_run(system, expected=0)


def pause(system: System) -> None:
    system.runtime.store.orders.pause(DIGEST, reason="they move house")


def resume(system: System) -> None:
    system.runtime.store.orders.resume(DIGEST)


def open_the_breaker(system: System) -> None:
    """Has a process report that for four seconds no call has reached the endpoint."""
    limit = Limit(Strategy.ADAPTIVE, floor=1, base=50, ceiling=100)
    everything = limit_everything(system.settings)
    limits = system.runtime.store.limits
    for failures in (0, 50):
        reports = [Report(epoch=1, probe=False, overload=failures)] if failures else []
        ask = Ask(DIGEST, limit, slots=1, weight=4, waiting=1, in_use=0, reports=reports)
        limits.exchange(Request("worker:1", everything, slots=1, tasks=[ask]))
        system.clock.advance(timedelta(seconds=4))
    assert limits.standings({EVERY_TASK: everything, DIGEST: limit})[DIGEST].state != "closed"


def close_the_breaker(system: System) -> None:
    system.command("DEL", f"{system.settings.namespace}:limit:{DIGEST}")


def have_something_overdue(system: System) -> None:
    system.command("ZADD", "@agenda", to_ms(system.clock.now()) - 600_000, "d|some~run")


def release_it(system: System) -> None:
    system.command("DEL", "@agenda")


def break_the_file(system: System) -> None:
    system.settings.tasks_file.write_text(TASKS.replace("config", "confog"))


def mend_the_file(system: System) -> None:
    system.settings.tasks_file.write_text(TASKS)


@dataclass(frozen=True)
class Condition:
    """Something that is wrong: how it comes about, how it is mended, and how it is told."""

    check: str
    severity: str
    told: str
    cause: Callable[[System], None]
    mend: Callable[[System], None]


CONDITIONS = [
    Condition("ticks", "problem", "the last tick was", stop_ticks, tick_again),
    Condition("dead_letters", "warning", "put away: normal 1", put_a_message_away, forget_dead_letters),
    Condition("unaccounted", "problem", ": 3 of 3", lose_jobs, find_them),
    Condition("limits", "warning", "digest: paused", pause, resume),
    Condition("limits", "warning", "digest: breaker", open_the_breaker, close_the_breaker),
    Condition("agenda", "problem", "1 of 1 entry overdue", have_something_overdue, release_it),
    Condition("tasks_file", "problem", "confog", break_the_file, mend_the_file),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.told)
def test_a_condition_is_told_once_by_two_processes_and_once_when_it_is_over(
    system: System, receiver: Receiver, condition: Condition
) -> None:
    system.look(3)
    assert receiver.told == []

    condition.cause(system)
    system.look(1)
    assert receiver.told == []  # it may be over at the next look
    system.look(10)

    assert receiver.told == [(condition.check, "firing")]
    firing = receiver.calls[0].document
    assert firing["severity"] == condition.severity
    assert condition.told in firing["summary"]
    assert firing["remedy"]
    assert firing["until"] is None

    condition.mend(system)
    system.look(1)
    assert len(receiver.calls) == 1
    system.look(10)

    assert receiver.told == [(condition.check, "firing"), (condition.check, "resolved")]
    resolved = receiver.calls[1].document
    assert (resolved["id"], resolved["since"]) == (firing["id"], firing["since"])
    assert resolved["until"] > resolved["since"]


def test_several_conditions_are_told_each_by_itself(system: System, receiver: Receiver) -> None:
    system.look(1)
    kill_all(system)
    stop_ticks(system)
    system.look(4)

    assert sorted(receiver.told) == [("schedulers", "firing"), ("ticks", "firing"), ("workers", "firing")]
    assert len({call.document["id"] for call in receiver.calls}) == 3

    live_again(system)
    tick_again(system)
    system.look(4)

    resolved = sorted(check for check, status in receiver.told if status == "resolved")
    assert resolved == ["schedulers", "ticks", "workers"]


def test_what_a_receiver_gets(system: System, receiver: Receiver) -> None:
    pause(system)
    system.look(2)

    [call] = receiver.calls
    assert (call.method, call.path) == ("POST", SECRET_PATH)
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["webhook-id"] == f"{call.document['id']}-firing-1"
    assert int(call.headers["webhook-timestamp"]) == int(system.clock.now().timestamp())
    assert list(call.document) == [
        *("id", "status", "severity", "check", "summary", "why", "remedy", "subjects", "since", "until"),
        *("host", "namespace", "text"),
    ]
    assert call.document["subjects"] == ["digest"]
    assert call.document["namespace"] == system.settings.namespace
    assert call.document["since"] == "2026-11-24T09:45:15Z"
    for part in ("summary", "why", "remedy"):
        assert call.document[part] in call.document["text"]


def test_what_does_not_last_for_two_looks_is_never_told(system: System, receiver: Receiver) -> None:
    for _ in range(5):
        pause(system)
        system.look(1)
        resume(system)
        system.look(1)

    assert receiver.calls == []


def test_looks_of_two_processes_at_the_same_instant_count_once(system: System, receiver: Receiver) -> None:
    pause(system)
    system.look(1)
    for watch in system.watches * 3:
        watch.look()

    assert receiver.calls == []


def test_an_end_that_does_not_last_is_not_told(system: System, receiver: Receiver) -> None:
    pause(system)
    system.look(3)
    for _ in range(4):
        resume(system)
        system.look(1)
        pause(system)
        system.look(1)

    assert receiver.told == [("limits", "firing")]


def test_what_lasts_is_told_again_every_four_hours(system: System, receiver: Receiver) -> None:
    pause(system)
    system.look(2)
    system.look(1, every=REMINDED_AFTER - LOOK_EVERY)
    assert len(receiver.calls) == 1

    system.look(1)
    system.look(1, every=REMINDED_AFTER)

    assert receiver.told == [("limits", "firing")] * 3
    assert len({call.document["id"] for call in receiver.calls}) == 1
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 3
    assert "still a warning, for 4h" in receiver.calls[1].document["text"]


def test_trouble_of_one_more_task_is_told_within_minutes_and_once(system: System, receiver: Receiver) -> None:
    system.settings.tasks_file.write_text(TASKS + TASKS.partition("tasks:\n")[2].replace("digest", "sync"))
    open_the_breaker(system)
    system.look(2)
    assert receiver.told == [("limits", "firing")]

    system.runtime.store.orders.pause(TaskId("sync"))
    system.look(int(JOINED_AFTER / LOOK_EVERY) + 4)

    assert receiver.told == [("limits", "firing")] * 2
    first, second = (call.document for call in receiver.calls)
    assert first["id"] == second["id"]
    assert (first["subjects"], second["subjects"]) == (["digest"], ["digest", "sync"])
    assert "now also sync: limits: digest: breaker" in second["text"]
    system.look(20)
    assert len(receiver.calls) == 2

    close_the_breaker(system)
    system.look(20)
    assert len(receiver.calls) == 2  # there is still something the matter
    system.runtime.store.orders.resume(TaskId("sync"))
    system.look(3)
    assert receiver.told[2:] == [("limits", "resolved")]


def test_a_warning_that_becomes_a_problem_is_told_again(system: System, receiver: Receiver) -> None:
    run = a_run(system, deadline_at=to_ms(system.clock.now()))
    system.look(6)
    assert [(call.document["check"], call.document["severity"]) for call in receiver.calls] == [
        ("deadlines", "warning")
    ]

    system.look(1, every=timedelta(minutes=15))
    system.look(3)

    assert [call.document["severity"] for call in receiver.calls] == ["warning", "problem"]
    assert len({call.document["id"] for call in receiver.calls}) == 1
    assert run in receiver.calls[1].document["summary"]


def test_warnings_are_told_only_where_that_is_asked_for(make_system: MakeSystem, receiver: Receiver) -> None:
    system = make_system(alert_webhook=receiver.url)
    pause(system)
    put_a_message_away(system)
    system.look(4)
    assert receiver.calls == []

    stop_ticks(system)
    system.look(3)

    assert receiver.told == [("ticks", "firing")]


# --- Whatever happens to who tells, and who is told ------------------------------------------------------------


def test_another_process_goes_on_when_one_is_lost_and_tells_nothing_twice(
    system: System, receiver: Receiver
) -> None:
    pause(system)
    system.look(3, who=(0,))
    assert receiver.told == [("limits", "firing")]

    system.look(1, who=(1,))
    resume(system)
    system.look(int(WATCH_LASTS / LOOK_EVERY) + 2, who=(1,))

    assert receiver.told == [("limits", "firing"), ("limits", "resolved")]


def test_a_restart_tells_nothing_twice(system: System, receiver: Receiver) -> None:
    pause(system)
    system.look(3)

    system.watches = [Watch(runtime) for runtime in system.runtimes]
    system.look(6)

    assert receiver.told == [("limits", "firing")]


def test_an_alert_whose_sender_is_lost_before_the_answer_is_sent_again_under_the_same_id(
    system: System, receiver: Receiver
) -> None:
    class Lost(BaseException):
        """The process ends here."""

    caller = system.watches[0]._caller
    tell = caller.tell

    def tell_and_die(*args: object, **names: object) -> object:
        tell(*args, **names)  # type: ignore[arg-type] # passed on as they are
        raise Lost

    caller.tell = tell_and_die  # type: ignore[method-assign,assignment] # the process is to be lost in between
    pause(system)
    system.look(1)
    with pytest.raises(Lost):
        system.look(1, who=(0,))
    assert len(receiver.calls) == 1

    system.look(int(WATCH_LASTS / LOOK_EVERY) + 3, who=(1,))

    first, second = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.document["id"] == second.document["id"]


@pytest.mark.parametrize("status", [500, 404, 429])
def test_a_message_that_is_not_taken_is_sent_again_less_and_less_often_until_it_is(
    system: System, receiver: Receiver, log: io.StringIO, status: int
) -> None:
    receiver.answer = lambda _call: (status, {})
    pause(system)
    system.look(120)  # half an hour
    tried = len(receiver.calls)
    assert 8 <= tried <= 12
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1

    receiver.answer = lambda _call: (200, {})
    system.look(int(LAST_RETRY / LOOK_EVERY) + 1)
    resume(system)
    system.look(10)

    assert receiver.told[tried:] == [("limits", "firing"), ("limits", "resolved")]
    lines = [orjson.loads(line) for line in log.getvalue().splitlines()]
    told = [line for line in lines if line["message"] in ("not delivered, trying again", "delivered again")]
    # Each of the two processes says so once, and that it is over where it was the one that had tried.
    assert [line["level"] for line in told].count("WARNING") in (1, 2)
    assert "INFO" in [line["level"] for line in told]
    assert f"127.0.0.1 answered {status}" in told[0]["reason"]
    assert SECRET_PATH not in log.getvalue()


def test_a_receiver_that_is_away_gets_it_when_it_is_back(make_system: MakeSystem, log: io.StringIO) -> None:
    port = free_port()
    system = make_system(alert_webhook=f"http://127.0.0.1:{port}{SECRET_PATH}", alert_level="warning")
    pause(system)
    system.look(4)
    assert "refused the connection" in log.getvalue()

    with Receiver(port) as receiver:
        system.look(int(LAST_RETRY / LOOK_EVERY) + 1)
        assert receiver.told == [("limits", "firing")]
    assert SECRET_PATH not in log.getvalue()


def test_who_cannot_reach_the_receiver_lets_another_process_tell(system: System, receiver: Receiver) -> None:
    cut_off, other = system.watches
    cut_off._webhook = f"http://127.0.0.1:{free_port()}/"
    pause(system)
    system.look(4)

    assert receiver.told == [("limits", "firing")]
    assert other._troubles == {}


def test_trouble_that_was_over_before_its_receiver_was_reached_is_told_as_over(
    system: System, receiver: Receiver
) -> None:
    receiver.answer = lambda _call: (503, {})
    pause(system)
    system.look(4)
    resume(system)
    system.look(2)
    receiver.answer = lambda _call: (204, {})
    tried = len(receiver.calls)

    system.look(int(LAST_RETRY / LOOK_EVERY) + 1)

    assert receiver.told[tried:] == [("limits", "resolved")]


def test_a_message_that_is_never_taken_keeps_no_other_back(system: System, receiver: Receiver) -> None:
    receiver.answer = lambda call: (400 if call.document["check"] == "limits" else 204, {})
    pause(system)
    system.look(3)
    stop_ticks(system)
    system.look(8)

    assert ("ticks", "firing") in receiver.told
    assert receiver.told.count(("ticks", "firing")) == 1


def test_redirects_are_not_followed(system: System, receiver: Receiver, heart: Receiver) -> None:
    receiver.answer = lambda _call: (302, {"Location": heart.url})
    pause(system)
    system.look(3)

    assert receiver.calls
    assert heart.calls == []


# --- Redis away --------------------------------------------------------------------------------------------------


def test_a_redis_that_is_away_is_told_by_each_process_and_so_is_its_return(
    system: System, receiver: Receiver, redis_server: RedisServer
) -> None:
    system.look(2)
    redis_server.stop()
    try:
        for _ in range(4):
            system.clock.advance(LOOK_EVERY)
            for watch in system.watches:
                watch.look()
        assert receiver.told == [("redis", "firing")] * 2
        assert "cannot be reached" in receiver.calls[0].document["summary"]
    finally:
        redis_server.start()
    system.look(4)

    assert [each for each in receiver.told if each[0] == "redis"][2:] == [("redis", "resolved")] * 2


# --- The dead man's switch -----------------------------------------------------------------------------------------


def test_the_dead_mans_switch_is_called_about_once_a_minute_by_one_of_them(
    make_system: MakeSystem, heart: Receiver
) -> None:
    system = make_system(heartbeat_url=heart.url)
    system.look(40)  # ten minutes

    assert 10 <= len(heart.calls) <= 11
    assert {call.method for call in heart.calls} == {"GET"}


@pytest.mark.parametrize(
    ("cause", "mend"), [(stop_ticks, tick_again), (lose_jobs, find_them)], ids=["no tick", "unaccounted"]
)
def test_it_is_not_called_without_ticks_or_while_anybody_is_unaccounted(
    make_system: MakeSystem,
    heart: Receiver,
    cause: Callable[[System], None],
    mend: Callable[[System], None],
) -> None:
    system = make_system(heartbeat_url=heart.url)
    system.look(2)
    before = len(heart.calls)
    cause(system)
    system.look(20)
    assert len(heart.calls) == before

    mend(system)
    system.look(2)

    assert len(heart.calls) == before + 1


def test_other_trouble_does_not_keep_it_from_being_called(make_system: MakeSystem, heart: Receiver) -> None:
    system = make_system(heartbeat_url=heart.url)
    pause(system)
    put_a_message_away(system)
    system.look(12)

    assert len(heart.calls) >= 3


def test_a_call_of_it_that_fails_is_told_once_and_so_is_its_end(
    make_system: MakeSystem, heart: Receiver, log: io.StringIO
) -> None:
    system = make_system(heartbeat_url=heart.url)
    heart.answer = lambda _call: (500, {})
    system.look(10, who=(0,))
    assert len(heart.calls) == 5  # after each failure another process may have a look
    heart.answer = lambda _call: (200, {})
    system.look(10, who=(0,))

    lines = [orjson.loads(line) for line in log.getvalue().splitlines()]
    told = [(line["level"], line["message"]) for line in lines if line.get("to") == "TQ_HEARTBEAT_URL"]
    assert told == [("WARNING", "not delivered, trying again"), ("INFO", "delivered again")]
    assert SECRET_PATH not in log.getvalue()


# --- The thread ----------------------------------------------------------------------------------------------------


def test_the_thread_looks_by_itself_and_ends_when_it_is_told_to(
    make_system: MakeSystem, receiver: Receiver, heart: Receiver
) -> None:
    system = make_system(alert_webhook=receiver.url, heartbeat_url=heart.url)
    system.show()
    [watch, _] = system.watches

    watch.start()
    eventually(lambda: len(heart.calls) == 1)
    watch.stop()

    assert watch._thread is not None
    assert not watch._thread.is_alive()
    assert system.runtime.store.alerts.take("another", lasts=LOOK_EVERY) is not None


def test_where_nobody_is_to_be_told_there_is_no_thread(make_system: MakeSystem) -> None:
    [watch, _] = make_system().watches

    watch.start()
    watch.stop()

    assert watch._thread is None


def test_a_test_alert_is_told_as_such(receiver: Receiver, system: System) -> None:
    answer = send_test(receiver.url, namespace="acme", now=system.clock.now())

    assert answer.is_taken
    assert answer.told == "127.0.0.1 answered 204 No Content"
    [call] = receiver.calls
    assert (call.document["check"], call.document["namespace"]) == ("test", "acme")
