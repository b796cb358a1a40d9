"""`tq bench tick`: how long the clock takes to find what has fallen due and to claim it, for 300 tasks.

Every task falls due hourly, for users who live in as many time zones as there are to be cohorts: zones that
ticks tell apart, and that all fall due in the same minute. Time is frozen and moved on, so that a tick is
measured whenever it is wanted. Beside the time that a busy tick takes stands what of it its own process spends
on the CPU; the rest is Redis'. The longest script is the one that kept others from Redis for longest.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from time import monotonic, process_time
from zoneinfo import available_timezones

from tq.bench.machine import describe_machine
from tq.bench.measures import Figures, over_repetitions
from tq.bench.workbench import Workbench, workbench
from tq.clock import to_ms
from tq.errors import InvalidInput
from tq.models import TaskId, UserId
from tq.pipeline import tick
from tq.runtime import Runtime
from tq.store.preferences import Change, Enable

BEGIN = datetime(2026, 11, 24, 9, 50, tzinfo=UTC)  # any day will do
MINUTE = timedelta(minutes=1)
TO_THE_HOUR = timedelta(minutes=9)
QUIET_TICKS = 21
MILLISECONDS = 1000
# Scripts that take longer than this, in us, are noted by Redis; shorter ones are of no interest.
NOTED_FROM_US = 200
MOST_NOTED = 100_000


@dataclass(frozen=True)
class Timetable:
    """So many tasks, and of each so many cohorts that fall due together."""

    tasks: int = 300
    cohorts: tuple[int, ...] = (40, 400)


class FrozenClock:
    """Stands still until it is moved; Redis' scripts take it for the present, too."""

    def __init__(self) -> None:
        self.instant = BEGIN

    def now(self) -> datetime:
        """The instant at which it stands."""
        return self.instant

    @property
    def override_ms(self) -> float:
        """The same in milliseconds."""
        return to_ms(self.instant)


def bench_tick(
    timetable: Timetable, *, repeat: int, on_step: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """The medians over so many repetitions.

    Raises:
        InvalidInput: more cohorts are asked for than there are time zones.
        TaskQueueError: Redis cannot be started.
    """
    zones = _zones(max(timetable.cohorts))
    with workbench() as bench:
        bench.declare([_task(number) for number in range(timetable.tasks)])
        note_slow_scripts(bench)
        repetitions = []
        for _ in range(repeat):
            figures: dict[str, float] = {}
            for cohorts in timetable.cohorts:
                figures |= _measured(bench, timetable.tasks, zones[:cohorts])
                on_step()
            repetitions.append(figures)
        return {
            **over_repetitions(repetitions),
            "tasks": timetable.tasks,
            "repeat": repeat,
            "machine": describe_machine(bench.client),
        }


def _zones(count: int) -> list[str]:
    known = sorted(available_timezones())
    if count > len(known):
        raise InvalidInput(
            f"--cohorts: {count} are more than the {len(known)} time zones that are known here"
        )
    return known[:count]


def _task(number: int) -> dict[str, object]:
    return {
        "id": f"task-{number}",
        "interval": {"type": "hourly", "timezone": "user"},
        "config": {"endpoint": "http://127.0.0.1:1/never-called"},
    }


def _measured(bench: Workbench, tasks: int, zones: Sequence[str]) -> Figures:
    bench.client.flushall()
    clock = FrozenClock()
    with closing(bench.open_runtime(clock=clock)) as runtime:
        tick(runtime)  # publishes the definitions
        _populate(runtime, tasks, zones)
        tick(runtime)
        bench.client.slowlog_reset()
        quiet = median(_timed(runtime, clock, after=MINUTE / QUIET_TICKS) for _ in range(QUIET_TICKS))
        cpu_s = process_time()
        busy = _timed(runtime, clock, after=TO_THE_HOUR)
        cpu_s = process_time() - cpu_s
        unclaimed = bench.client.zcount(f"{bench.settings.namespace}:due", "-inf", to_ms(clock.instant))
    cohorts = len(zones)
    return {
        f"nothing_due_of_{cohorts}_cohorts_ms": quiet,
        f"all_of_{cohorts}_cohorts_due_ms": busy,
        f"all_of_{cohorts}_cohorts_cpu_ms": cpu_s * MILLISECONDS,
        f"all_of_{cohorts}_cohorts_longest_script_ms": longest_script_us(bench) / 1000,
        f"all_of_{cohorts}_cohorts_unclaimed": int(unclaimed),
    }


def _populate(runtime: Runtime, tasks: int, zones: Sequence[str]) -> None:
    """A user in each zone for each task."""
    for zone in zones:
        changes: list[Change] = [
            Enable(UserId(f"{number}@{zone}"), TaskId(f"task-{number}"), timezone=zone)
            for number in range(tasks)
        ]
        runtime.store.preferences.apply(changes)


def _timed(runtime: Runtime, clock: FrozenClock, *, after: timedelta) -> float:
    """How many ms a tick takes that comes so long after the last one."""
    clock.instant += after
    started_at = monotonic()
    tick(runtime)
    return (monotonic() - started_at) * MILLISECONDS


def note_slow_scripts(bench: Workbench) -> None:
    """Has Redis note what takes long, from now on."""
    bench.client.config_set("slowlog-log-slower-than", NOTED_FROM_US)
    bench.client.config_set("slowlog-max-len", MOST_NOTED)


def longest_script_us(bench: Workbench) -> int:
    """Of all scripts, and commands, since the log was reset; 0 if none took long enough to be noted."""
    noted = bench.client.slowlog_get(MOST_NOTED)
    return max((entry["duration"] for entry in noted), default=0)
