"""The metrics that there are, with their labels."""

HISTOGRAMS: dict[str, frozenset[str]] = {
    name: frozenset(labels.split())
    for name, labels in {
        "tq_attempt_duration_seconds": "task",
        "tq_job_lateness_seconds": "task",
        "tq_job_delay_seconds": "task",
        "tq_ratelimit_wait_seconds": "task",
        "tq_scheduler_tick_duration_seconds": "",
    }.items()
}
PLAIN: dict[str, frozenset[str]] = {
    name: frozenset(labels.split())
    for name, labels in {
        "tq_jobs_expected_total": "task trigger",
        "tq_jobs_total": "task trigger outcome",
        "tq_jobs_skipped_total": "task reason",
        "tq_jobs_retried_total": "task trigger",
        "tq_runs_total": "task trigger",
        "tq_occurrences_missed_total": "task",
        "tq_jobs_recovered_total": "reason",
        "tq_attempts_total": "task status_class decision",
        "tq_scheduler_ticks_total": "",
        "tq_scheduler_last_tick_timestamp_seconds": "",
        "tq_processes": "component",
        "tq_queue_size": "queue state",
        "tq_queue_latency_seconds": "queue",
        "tq_agenda_size": "",
        "tq_agenda_lag_seconds": "",
        "tq_runs_running": "",
        "tq_jobs_open": "task",
        "tq_jobs_unaccounted": "",
        "tq_runs_overdue": "",
        "tq_failures": "task",
        "tq_ratelimit_limit": "task",
        "tq_ratelimit_effective": "task",
        "tq_ratelimit_waiting": "task",
        "tq_calls_in_progress": "task",
        "tq_breaker_open": "task",
        "tq_ratelimit_held": "task",
        "tq_error_ratio": "task",
        "tq_paused": "scope task",
        "tq_redis_memory_bytes": "structure",
        "tq_redis_used_memory_bytes": "",
        "tq_redis_max_memory_bytes": "",
        "tq_build_info": "version",
        "tq_tzdata_info": "version",
    }.items()
}
# As they stand in queries.
SERIES = PLAIN | {
    f"{name}_{part}": labels | ({"le"} if part == "bucket" else set())
    for name, labels in HISTOGRAMS.items()
    for part in ("bucket", "sum", "count")
}
