"""The words of the system as frozen, validated values. No I/O and no clock."""

from tq.models.durations import Duration, format_duration, parse_duration
from tq.models.ids import JobId, RunId, TaskId, UserId, job_id_of, manual_run_id, scheduled_run_id
from tq.models.interval import FixedTime, Interval, IntervalType
from tq.models.jobs import SUSPECTS, Batch, Envelope, Job
from tq.models.permissions import Permission, Verdict
from tq.models.preferences import MAX_PARAMETERS_BYTES, TaskSettings, UserPreference
from tq.models.rates import Rate, RateBand, Strategy, format_rate, parse_rate
from tq.models.results import ErrorDetail, ExecutionResult, JobResult, JobStatus, Outcome
from tq.models.runs import Run, RunCounts, RunKind, RunStatus, Share
from tq.models.tasks import Missed, Overlap, Priority, TaskConfig, TaskType, Window

__all__ = [
    "MAX_PARAMETERS_BYTES",
    "SUSPECTS",
    "Batch",
    "Duration",
    "Envelope",
    "ErrorDetail",
    "ExecutionResult",
    "FixedTime",
    "Interval",
    "IntervalType",
    "Job",
    "JobId",
    "JobResult",
    "JobStatus",
    "Missed",
    "Outcome",
    "Overlap",
    "Permission",
    "Priority",
    "Rate",
    "RateBand",
    "Run",
    "RunCounts",
    "RunId",
    "RunKind",
    "RunStatus",
    "Share",
    "Strategy",
    "TaskConfig",
    "TaskId",
    "TaskSettings",
    "TaskType",
    "UserId",
    "UserPreference",
    "Verdict",
    "Window",
    "format_duration",
    "format_rate",
    "job_id_of",
    "manual_run_id",
    "parse_duration",
    "parse_rate",
    "scheduled_run_id",
]
