"""Every metric: its name, its meaning, and its labels, each of which has few values.

Names follow Prometheus' conventions: base units, `_total` for what only grows. No label ever names a user, a run
or an address. 300 tasks that are scheduled and asked for have at most 30,000 series.
"""

from dataclasses import dataclass
from typing import Literal

from tq.telemetry.observations import BOUNDS, DELAY, DURATION, LATENESS, TICK, WAIT

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True, eq=False)  # there is one of each, and many lookups
class Family:
    """One metric. `bounds` are a histogram's upper bounds, in seconds; `unit` is as UCUM spells it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = "1"
    bounds: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str, unit: str = "1") -> Family:
    return Family(name, "gauge", text, labels, unit)


def _histogram(name: str, text: str, metric: str, *labels: str) -> Family:
    return Family(name, "histogram", text, labels, "s", BOUNDS[metric])


# What became of jobs, counted in the same step as the ledger
JOBS_EXPECTED = _counter("tq_jobs_expected_total", "Jobs that runs have come to owe.", "task", "trigger")
JOBS = _counter("tq_jobs_total", "Jobs that have ended, by how.", "task", "trigger", "outcome")
JOBS_SKIPPED = _counter("tq_jobs_skipped_total", "Jobs that were skipped, by why.", "task", "reason")
JOBS_RETRIED = _counter("tq_jobs_retried_total", "Further attempts that were ordered.", "task")
RUNS = _counter("tq_runs_total", "Runs that were claimed.", "task", "trigger")
MISSED = _counter(
    "tq_occurrences_missed_total",
    "Occurrences that were missed, beyond those of which runs tell that they were skipped.",
    "task",
)
RECOVERED = _counter(
    "tq_jobs_recovered_total", "What was found stalled or lost, and set going again.", "reason"
)
# What processes have seen
ATTEMPTS = _counter(
    "tq_attempts_total",
    "Attempts, by the answer and what followed: done, retry, or dead where none follows.",
    *("task", "status_class", "decision"),
)
ATTEMPT_DURATION = _histogram(
    "tq_attempt_duration_seconds", "How long attempts took, the call included.", DURATION, "task"
)
LATENESS_OF_JOBS = _histogram(
    "tq_job_lateness_seconds", "From a job's slot to the begin of its first attempt.", LATENESS, "task"
)
DELAY_OF_JOBS = _histogram(
    "tq_job_delay_seconds", "From the instant at which a task fell due to a job's success.", DELAY, "task"
)
WAITS = _histogram(
    "tq_ratelimit_wait_seconds", "For how long fetched jobs waited until they might begin.", WAIT, "task"
)
TICKS = _counter("tq_scheduler_ticks_total", "Ticks that were carried out.")
TICK_DURATION = _histogram("tq_scheduler_tick_duration_seconds", "How long ticks took.", TICK)
# The clock, and who lives
LAST_TICK = _gauge(
    "tq_scheduler_last_tick_timestamp_seconds", "When a tick was last carried out; 0 if never.", unit="s"
)
PROCESSES = _gauge("tq_processes", "Processes that have shown themselves lately.", "component")
# What waits
QUEUE_SIZE = _gauge(
    "tq_queue_size", "Messages that wait in a queue, and those put away as dead.", "queue", "state"
)
QUEUE_LATENCY = _gauge(
    "tq_queue_latency_seconds", "For how long the first message has been first.", "queue", unit="s"
)
AGENDA_SIZE = _gauge("tq_agenda_size", "What is due later: retries, jobs put off, next slots of runs.")
AGENDA_LAG = _gauge("tq_agenda_lag_seconds", "By how much the first entry is overdue.", unit="s")
RUNS_RUNNING = _gauge("tq_runs_running", "Runs under way.")
RUNS_OVERDUE = _gauge("tq_runs_overdue", "Runs under way whose deadline is past.")
JOBS_OPEN = _gauge("tq_jobs_open", "Jobs that were sent and have not ended.", "task")
JOBS_UNACCOUNTED = _gauge(
    "tq_jobs_unaccounted", "Jobs that are in no state that there may be: 0, or an alarm."
)
FAILURES = _gauge("tq_failures", "Failed jobs that are kept in full.", "task")
# How fast calls are made
LIMIT = _gauge("tq_ratelimit_limit", "The most calls per second that are allowed.", "task", unit="1/s")
EFFECTIVE = _gauge("tq_ratelimit_effective", "The calls per second that may begin now.", "task", unit="1/s")
WAITING = _gauge("tq_ratelimit_waiting", "Fetched jobs that wait until they may begin.", "task")
CALLS = _gauge("tq_calls_in_progress", "Calls under way.", "task")
BREAKER = _gauge("tq_breaker_open", "1 while single calls at most ask whether an outage is over.", "task")
HELD = _gauge("tq_ratelimit_held", "1 while nobody calls because the endpoint asked for a wait.", "task")
ERROR_RATIO = _gauge("tq_error_ratio", "The share of the last minute's calls that went wrong.", "task")
PAUSED = _gauge("tq_paused", "1 while operators have paused it.", "scope", "task")
# Redis, and what runs
MEMORY = _gauge(
    "tq_redis_memory_bytes", "Memory in Redis by what it holds, estimated.", "structure", unit="By"
)
USED_MEMORY = _gauge("tq_redis_used_memory_bytes", "Memory that Redis uses.", unit="By")
MAX_MEMORY = _gauge("tq_redis_max_memory_bytes", "Memory that Redis may use; 0 for any.", unit="By")
BUILD = _gauge("tq_build_info", "The version that tells this.", "version")
TZDATA = _gauge("tq_tzdata_info", "The version of the time zones that it reckons with.", "version")

FAMILIES: tuple[Family, ...] = tuple(found for found in list(globals().values()) if isinstance(found, Family))
