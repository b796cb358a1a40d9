"""Flow control, as real worker processes and a real endpoint show it.

Each scenario lives through one kind of trouble, or one limit, and reports figures with the bars that
they have to keep. Times are in seconds, and by default long; the tests make them short.

    python -m tests.end_to_end.flow_scenarios NAME|all

prints a JSON line for each, and ends with code 1 if any bar was missed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.end_to_end.flow_track import PROCESSES, Report, Track, let_pass
from tests.waiting import eventually
from tq.models import RunCounts
from tq.testing import Behaviour, Calls, State

HEALTHY = ("healthy-1", "healthy-2", "healthy-3")
MOST_MESSAGES = 5000
MOST_SPENT = 200
IN_FORCE_AFTER = 2.0
# More than a scenario that is over before its run can serve, with a limiter or without.
MANY = 40_000
REACTION = 0.25


def step(
    folder: Path,
    *,
    high: float = 180.0,
    low: float = 120.0,
    rising: float = 30.0,
    falling: float = 30.0,
    used: float = 0.9,
    refused: float = 0.02,
) -> Report:
    """The capacity falls from 100 to 20 calls a second, and rises again."""
    report = Report("step")
    segments = [(100.0, high, rising), (20.0, low, falling), (100.0, high, rising)]
    with Track.laid(folder, rate_limit=150, behaviour=Behaviour(capacity=100)) as track:
        track.start_workers()
        track.begin_run("digest", users=int(1.1 * sum(capacity * lasts for capacity, lasts, _ in segments)))
        begin = end = _first_call(track)
        spans = []
        for capacity, lasts, settling in segments:
            track.downstream.behave(Behaviour(capacity=capacity))
            since, end = end + settling, let_pass(end + lasts - time.monotonic())
            spans.append((capacity, since, end))
        calls = track.downstream.calls
    for number, (capacity, since, until) in enumerate(spans, start=1):
        served = len(calls.between(since, until).served) / (until - since)
        report.at_least(f"used of {capacity:g}/s in segment {number}", served / capacity, used)
    whole = calls.between(begin, end)
    report.at_most("refused", len(whole.refused) / len(whole), refused)
    report.peak("calls in any second", calls, per_second=150)
    return report


def retry_after(folder: Path, *, before: float = 10.0, closed: int = 20, after: float = 10.0) -> Report:
    """The endpoint answers 429 and says when to come back."""
    report = Report("retry_after")
    with Track.laid(folder, rate_limit=150) as track:
        track.start_workers()
        track.begin_run("digest", users=MANY)
        _first_call(track)
        let_pass(before)
        track.downstream.behave(Behaviour(closed_for=timedelta(seconds=closed)))
        eventually(lambda: bool(track.downstream.calls.refused))
        told_at = track.downstream.calls.refused[0].ended or 0.0
        let_pass(closed + after)
        calls = track.downstream.calls
    report.at_most("too late calls", len(calls.between(told_at + REACTION, told_at + closed)), 0)
    report.note("calls answered 429", len(calls.refused))
    resumed = calls.between(told_at + closed, told_at + closed + after)
    report.at_least("calls served afterwards", len(resumed.served), after)
    report.peak("calls in any second", calls, per_second=150)
    return report


def bad_task(folder: Path, *, settling: float = 10.0, lasts: float = 60.0, kept: float = 0.95) -> Report:
    """One task's endpoint always fails, beside three healthy ones."""
    report = Report("bad_task")
    behaviour = Behaviour(capacity=120, statuses={"bad": 500})
    with Track.laid(folder, rate_limit=100, tasks=(*HEALTHY, "bad"), behaviour=behaviour) as track:
        track.start_workers()
        for task in HEALTHY:
            track.begin_run(task, users=int(100 * 2 * (settling + lasts) / len(HEALTHY)) + 100)
        _first_call(track, HEALTHY[-1])
        without = let_pass(settling + lasts)
        track.begin_run("bad", users=int(100 * (settling + lasts)))
        eventually(lambda: bool(track.downstream.calls.of("bad")))
        joined = time.monotonic()
        let_pass(lasts)
        calls = track.downstream.calls
    alone = len(calls.between(without - lasts, without).served) / lasts
    beside = len(calls.between(joined, joined + lasts).served) / lasts
    report.note("served per second without it", alone)
    report.note("served per second beside it", beside)
    report.note("calls of the bad task", len(calls.of("bad")))
    report.at_least("throughput kept", beside / alone, kept)
    least = min(len(calls.of(task).between(joined, joined + lasts).served) for task in HEALTHY)
    report.at_least("share of the slowest healthy task", least * len(HEALTHY) / lasts / alone, kept - 0.15)
    report.peak("calls in any second", calls, per_second=100)
    return report


def huge(
    folder: Path, *, users: int = 200_000, lasts: float = 60.0, paused: float = 20.0, lively: float = 100.0
) -> Report:
    """A run of very many users against 200 calls a second is fanned out, paused and resumed."""
    report = Report("huge")
    messages = []
    with Track.laid(folder, rate_limit=200) as track:
        track.start_workers()
        track.begin_run("digest", users=users)
        _first_call(track)
        let_pass(lasts, looking=lambda: messages.append(track.messages()))
        paused_at = track.order("tasks", "pause", "digest", "--reason", "maintenance")
        let_pass(paused, looking=lambda: messages.append(track.messages()))
        resuming_at = time.monotonic()
        resumed_at = track.order("tasks", "resume", "digest")
        let_pass(lasts, looking=lambda: messages.append(track.messages()))
        calls = track.downstream.calls
    report.at_most("messages queued or fetched", max(messages), MOST_MESSAGES)
    before = calls.between(paused_at - lasts, paused_at)
    report.at_least("calls per second before the pause", len(before) / lasts, lively)
    report.at_most("calls in the pause", len(calls.between(paused_at + IN_FORCE_AFTER, resuming_at)), 0)
    after = calls.between(resumed_at, resumed_at + lasts)
    report.at_least("calls per second after the pause", len(after) / lasts, lively)
    report.peak("calls in any second", calls, per_second=200)
    return report


def outage_refusing(folder: Path, *, before: float = 10.0, lasts: float = 180.0, users: int = 4000) -> Report:
    """Connections are refused for a while during a run."""
    return _outage(Report("outage_refusing"), folder, State.DOWN, before=before, lasts=lasts, users=users)


def outage_hanging(folder: Path, *, before: float = 10.0, lasts: float = 180.0, users: int = 4000) -> Report:
    """Calls are not answered for a while during a run."""
    return _outage(Report("outage_hanging"), folder, State.HANGING, before=before, lasts=lasts, users=users)


def _outage(report: Report, folder: Path, state: State, *, before: float, lasts: float, users: int) -> Report:
    with Track.laid(folder, rate_limit=100, timeout="2s") as track:
        track.start_workers()
        run = track.begin_run("digest", users=users)
        _first_call(track)
        let_pass(before)
        began = time.monotonic()
        track.downstream.behave(Behaviour(state=state))
        let_pass(lasts)
        track.downstream.behave(Behaviour())
        over = time.monotonic()
        counts = track.until_ended(run).counts
        calls = track.downstream.calls
    # Who was served at the n-th attempt had been called n - 1 times for nothing, whether that arrived or not.
    spent = sum(call.attempt - 1 for call in calls.served)
    afterwards = [call.begun for call in calls.served if call.begun >= over]
    report.note("served before it", len(calls.between(0, began).served))
    report.at_least("served after it", len(afterwards), 1)
    report.note("seconds until the next was served", min(afterwards, default=over) - over)
    report.at_most("calls spent", spent, MOST_SPENT)
    _report_complete(report, counts, calls, users=users)
    report.peak("calls in any second", calls, per_second=100)
    return report


def slow_limit(folder: Path, *, lasts: float = 60.0) -> Report:
    """A call every other second, over all processes."""
    report = Report("slow_limit")
    with Track.laid(folder, rate_limit=0.5) as track:
        track.start_workers()
        track.begin_run("digest", users=int(lasts))
        begin = _first_call(track)
        let_pass(lasts)
        calls = track.downstream.calls.between(begin, begin + lasts)
    report.at_most("calls", len(calls), 1.05 * 0.5 * lasts + 2)
    report.at_least("served", len(calls.served), 0.2 * lasts - 1)
    report.peak("calls in any second", calls, per_second=0.5)
    return report


def high_limit(folder: Path, *, users: int = 20_000) -> Report:
    """Ten thousand calls a second are allowed: more than the workers make here."""
    report = Report("high_limit")
    with Track.laid(folder, rate_limit=10_000) as track:
        track.start_workers()
        run = track.begin_run("digest", users=users)
        begin = _first_call(track)
        counts = track.until_ended(run).counts
        allowed = track.allowed("digest")
        calls = track.downstream.calls
    made = users / (calls[-1].begun - begin)
    report.note("calls per second", made)
    report.at_least("calls allowed for each that was made", allowed / made, 1)
    _report_complete(report, counts, calls, users=users)
    report.peak("calls in any second", calls, per_second=10_000)
    return report


def one_at_a_time(folder: Path, *, lasts: float = 30.0) -> Report:
    """A task with `concurrency: 1` is never called twice at once, not even when a worker is killed in mid-call."""
    report = Report("one_at_a_time")
    behaviour = Behaviour(takes=timedelta(milliseconds=500))
    with Track.laid(folder, rate_limit=100, behaviour=behaviour, concurrency=1) as track:
        track.start_workers()
        track.begin_run("digest", users=1000)
        begin = _first_call(track)
        let_pass(lasts)
        undisturbed = track.downstream.calls.between(begin, begin + lasts)
        killed = _kill_whoever_calls(track)
        eventually(lambda: len(track.downstream.calls.between(killed, killed + 1000).served) >= 3)
        calls = track.downstream.calls
    report.at_most("calls at once", calls.most_at_once(), 1)
    report.at_least("share of the time at work", len(undisturbed.served) * 0.5 / lasts, 0.7)
    report.at_least("calls that a kill cut off", sum(call.status == 499 for call in calls), 1)
    report.note("seconds until the next call", min(c.begun for c in calls if c.begun > killed) - killed)
    return report


def _kill_whoever_calls(track: Track) -> float:
    """Kills one worker after the other until a call was cut off; returns when that was."""
    for number in range(10 * PROCESSES):
        served = len(track.downstream.calls.served)
        track.until_served(served + 1)
        let_pass(0.2)  # into the middle of the next call
        killed = time.monotonic()
        track.kill_a_worker(number % PROCESSES)
        track.until_served(served + 2)
        if any(call.status == 499 for call in track.downstream.calls):
            return killed
    raise AssertionError("no call was cut off, however many workers were killed")


def two_tasks(folder: Path, *, settling: float = 10.0, lasts: float = 30.0, used: float = 0.9) -> Report:
    """Two tasks share the limit of all."""
    report = Report("two_tasks")
    with Track.laid(folder, rate_limit=60, tasks=("digest", "sync")) as track:
        track.start_workers()
        for task in ("digest", "sync"):
            track.enrol(task, users=MANY)
        for task in ("digest", "sync"):
            track.start_run(task)
        begin = max(_first_call(track, task) for task in ("digest", "sync")) + settling
        let_pass(settling + lasts)
        calls = track.downstream.calls
    together = calls.between(begin, begin + lasts)
    for task in ("digest", "sync"):
        report.at_least(f"share of {task}", len(together.of(task).served) / len(together.served), 0.35)
    report.at_least("served per second", len(together.served) / lasts, used * 60)
    report.peak("calls in any second", calls, per_second=60)
    return report


def orders(folder: Path, *, before: float = 10.0, lasts: float = 20.0) -> Report:
    """What an operator orders is in force within two seconds, and after a restart."""
    report = Report("orders")
    with Track.laid(folder, rate_limit=150) as track:
        track.start_workers()
        track.begin_run("digest", users=MANY)
        _first_call(track)
        let_pass(before)
        lowered = track.order("tasks", "limit", "digest", "20/s", "--pin") + IN_FORCE_AFTER
        restarting = let_pass(lasts)
        track.restart_workers()
        restarted = time.monotonic()
        raising = let_pass(lasts)
        raised = track.order("tasks", "limit", "digest", "80/s", "--pin") + IN_FORCE_AFTER
        end = let_pass(IN_FORCE_AFTER + lasts)
        calls = track.downstream.calls
    for name, per_second, begin, until in (
        ("lowered", 20, lowered, restarting),
        ("after a restart", 20, restarted, raising),
        ("raised", 80, raised, end),
    ):
        ordered = calls.between(begin, until)
        report.peak(f"calls in any second {name}", ordered, per_second=per_second)
        report.at_least(f"calls per second {name}", len(ordered) / (until - begin), 0.85 * per_second)
    report.peak("calls in any second", calls, per_second=150)
    return report


def redis_restart(folder: Path, *, users: int = 4000, before: float = 10.0, away: float = 5.0) -> Report:
    """Redis crashes in the middle of a run, and comes back."""
    report = Report("redis_restart")
    with Track.laid(folder, rate_limit=100) as track:
        track.start_workers()
        run = track.begin_run("digest", users=users)
        _first_call(track)
        let_pass(before)
        track.redis.kill()
        let_pass(away)
        track.redis.start()
        counts = track.until_ended(run).counts
        calls = track.downstream.calls
    _report_complete(report, counts, calls, users=users)
    report.peak("calls in any second", calls, per_second=100)
    return report


def _first_call(track: Track, task: str = "digest") -> float:
    """When the first call of a task came."""
    eventually(lambda: bool(track.downstream.calls.of(task)), why=track.commands.log_text()[-2000:])
    return track.downstream.calls.of(task)[0].begun


def _report_complete(report: Report, counts: RunCounts, calls: Calls, *, users: int) -> None:
    report.at_least("succeeded", counts.success, users)
    report.at_most("not succeeded", counts.expected - counts.success, 0)
    report.at_least("users served", len({call.user for call in calls.served}), users)


SCENARIOS: dict[str, Callable[[Path], Report]] = {
    scenario.__name__: scenario
    for scenario in (
        step,
        retry_after,
        bad_task,
        huge,
        outage_refusing,
        outage_hanging,
        slow_limit,
        high_limit,
        one_at_a_time,
        two_tasks,
        orders,
        redis_restart,
    )
}


def main(names: list[str]) -> int:
    """Lives through the scenarios at full length."""
    if not names or not {*names} <= {*SCENARIOS, "all"}:
        sys.stderr.write(f"name one or more of: all, {', '.join(SCENARIOS)}\n")
        return 2
    missed = 0
    for name in SCENARIOS if "all" in names else names:
        with tempfile.TemporaryDirectory() as folder:
            report = SCENARIOS[name](Path(folder))
        sys.stdout.write(f"{report.to_json()}\n")
        sys.stdout.flush()
        missed += bool(report.missed())
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
