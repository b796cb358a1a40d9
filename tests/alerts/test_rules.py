"""Every alert fires when its condition has lasted, comes once however many processes are scraped, and stops."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.metrics import SERIES
from tests.alerts.promtool import needs_promtool, promtool, series_in
from tq.alerts import rules
from tq.doctor.judgement import CHECKS

# What a series is worth in each minute; None where there is none.
Course = Callable[[int], float | None]

RULES = [rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
BEGIN = 10  # minutes; until then all is well
INSTANCES = ("web-1:8080", "web-2:8080")


def steady(value: float) -> Course:
    return lambda _minute: value


def each_minute(value: float) -> Course:
    return lambda minute: value * minute


WELL: dict[str, Course] = {
    "up": steady(1),
    'tq_build_info{version="1"}': steady(1),
    "tq_scheduler_last_tick_timestamp_seconds": each_minute(60),
    'tq_processes{component="worker"}': steady(2),
    'tq_processes{component="scheduler"}': steady(1),
    "tq_jobs_unaccounted": steady(0),
    "tq_runs_overdue": steady(0),
    'tq_jobs_total{task="digest",trigger="schedule",outcome="success"}': each_minute(100),
    'tq_jobs_total{task="digest",trigger="schedule",outcome="failed"}': each_minute(0.5),
    'tq_error_ratio{task="digest"}': steady(0.02),
    'tq_error_ratio{task="*"}': steady(0.02),
    'tq_breaker_open{task="digest"}': steady(0),
    'tq_ratelimit_limit{task="digest"}': steady(100),
    'tq_ratelimit_effective{task="digest"}': steady(60),
    'tq_ratelimit_waiting{task="digest"}': steady(5),
    'tq_paused{scope="task",task="digest"}': steady(0),
    'tq_paused{scope="everything",task=""}': steady(0),
    'tq_queue_size{queue="normal",state="waiting"}': steady(50),
    'tq_queue_size{queue="normal",state="dead"}': steady(2),
    'tq_queue_latency_seconds{queue="normal"}': steady(0.2),
    "tq_agenda_lag_seconds": steady(0),
    "tq_redis_used_memory_bytes": steady(3e9),
    "tq_redis_max_memory_bytes": steady(8e9),
}


@dataclass(frozen=True)
class Case:
    """Trouble from minute 10 on, for so many minutes: series that are other than WELL meanwhile.

    The alert must not fire at minute 10 + `quiet`, must at 10 + `fires`, and must not any more `stopped` minutes after
    the end. `along` are those that fire with it.
    """

    alert: str
    severity: str
    trouble: Mapping[str, Course]
    quiet: int
    fires: int
    lasts: int
    stopped: int = 2
    along: Mapping[str, str] = field(default_factory=dict)  # alerts that come with it


def since_begin(per_minute: float) -> Course:
    return lambda minute: per_minute * (minute - BEGIN)


CASES = [
    Case("TaskQueueNotScraped", "warning", {"up": steady(0)}, quiet=4, fires=6, lasts=10),
    Case(
        "TaskQueueMetricsAbsent", "critical", {'tq_build_info{version="1"}': lambda _m: None},
        quiet=8, fires=12, lasts=20,
    ),
    Case(
        "TaskQueueSchedulerSilent", "critical", {"tq_scheduler_last_tick_timestamp_seconds": steady(60.0 * (BEGIN - 1))},
        quiet=2, fires=5, lasts=10,
    ),
    Case(
        "TaskQueueSchedulerSilent", "critical", {"tq_scheduler_last_tick_timestamp_seconds": steady(0)},
        quiet=0, fires=3, lasts=10,
    ),
    Case("TaskQueueNoWorker", "critical", {'tq_processes{component="worker"}': steady(0)}, quiet=1, fires=3, lasts=10),
    Case("TaskQueueRedisMemory", "warning", {"tq_redis_used_memory_bytes": steady(6.1e9)}, quiet=14, fires=16, lasts=30),
    Case(
        "TaskQueueRedisMemory", "critical", {"tq_redis_used_memory_bytes": steady(7.3e9)},
        quiet=1, fires=3, lasts=10,
    ),
    Case("TaskQueueJobsUnaccounted", "critical", {"tq_jobs_unaccounted": steady(3)}, quiet=1, fires=3, lasts=10),
    Case("TaskQueueRunOverdue", "warning", {"tq_runs_overdue": steady(1)}, quiet=4, fires=6, lasts=10),
    Case("TaskQueueErrorRatio", "warning", {'tq_error_ratio{task="digest"}': steady(0.2)}, quiet=9, fires=11, lasts=20),
    Case(
        "TaskQueueErrorRatio", "critical", {'tq_error_ratio{task="digest"}': steady(0.6)}, quiet=9, fires=11, lasts=20,
        along={"TaskQueueErrorRatio": "warning"},
    ),
    Case(
        "TaskQueueFailuresGrowing", "warning",
        {'tq_jobs_total{task="digest",trigger="schedule",outcome="failed"}': lambda minute: 0.5 * BEGIN + 10 * (minute - BEGIN)},
        quiet=3, fires=12, lasts=20, stopped=35,
    ),
    # The single calls that find out when it is over fail, and are no trouble of their own.
    Case(
        "TaskQueueBreakerOpen", "warning",
        {'tq_breaker_open{task="digest"}': steady(1), 'tq_error_ratio{task="digest"}': steady(1)},
        quiet=4, fires=15, lasts=20,
    ),
    Case("TaskQueueLimiterAtFloor", "warning", {'tq_ratelimit_effective{task="digest"}': steady(1)}, quiet=9, fires=11, lasts=20),
    Case("TaskQueueLimiterSaturated", "warning", {'tq_ratelimit_effective{task="digest"}': steady(100)}, quiet=59, fires=61, lasts=70),
    Case("TaskQueuePaused", "info", {'tq_paused{scope="task",task="digest"}': steady(1)}, quiet=719, fires=721, lasts=730),
    Case("TaskQueueQueueStands", "warning", {'tq_queue_latency_seconds{queue="normal"}': steady(90)}, quiet=1, fires=3, lasts=10),
    Case(
        "TaskQueueQueueStands", "critical", {'tq_queue_latency_seconds{queue="normal"}': steady(400)}, quiet=1, fires=3, lasts=10,
        along={"TaskQueueQueueStands": "warning"},
    ),
    Case("TaskQueueAgendaLags", "warning", {"tq_agenda_lag_seconds": steady(20)}, quiet=4, fires=6, lasts=10),
    Case("TaskQueueAgendaLags", "critical", {"tq_agenda_lag_seconds": steady(90)}, quiet=1, fires=3, lasts=10),
    Case(
        "TaskQueueDeadLetters", "warning", {'tq_queue_size{queue="normal",state="dead"}': steady(3)},
        quiet=-1, fires=2, lasts=200, stopped=-120,
    ),
]  # fmt: skip
QUIET = {
    "a task that nobody waits for is at the lowest rate": {
        'tq_ratelimit_effective{task="digest"}': steady(1),
        'tq_ratelimit_waiting{task="digest"}': steady(0),
    },
    "a task is held while jobs wait": {'tq_ratelimit_effective{task="digest"}': steady(0)},
    "a limit so small that the lowest rate is a usual one": {
        'tq_ratelimit_limit{task="digest"}': steady(0.3),
        'tq_ratelimit_effective{task="digest"}': steady(0.2),
    },
    "Redis without a maximum": {
        "tq_redis_used_memory_bytes": steady(9e12),
        "tq_redis_max_memory_bytes": steady(0),
    },
    "a few jobs that fail of few": {
        'tq_jobs_total{task="digest",trigger="schedule",outcome="success"}': steady(0),
        'tq_jobs_total{task="digest",trigger="schedule",outcome="failed"}': lambda minute: minute // 5,
    },
    "trouble that comes and goes": {
        "tq_jobs_unaccounted": lambda minute: minute % 2,
        "tq_agenda_lag_seconds": lambda minute: 70 * (minute % 2),
        'tq_queue_latency_seconds{queue="normal"}': lambda minute: 400 * (minute % 2),
        'tq_error_ratio{task="digest"}': lambda minute: minute % 2,
    },
}


def series(trouble: Mapping[str, Course], *, until: int, end: int) -> list[dict[str, str]]:
    """The series of two processes: well until minute 10, in trouble until `until`, then well again."""
    found = []
    for name, well in WELL.items():
        course = trouble.get(name, well)
        values = [course(minute) if BEGIN <= minute < until else well(minute) for minute in range(end + 1)]
        metric, _, labels = name.rstrip("}").partition("{")
        for instance in INSTANCES:
            spelt = ",".join(filter(None, [labels, f'job="taskqueue",instance="{instance}"']))
            text = " ".join("_" if value is None else f"{value:g}" for value in values)
            found.append({"series": f"{metric}{{{spelt}}}", "values": text})
    return found


def fired(minute: int, alerts: list[tuple[str, str, int]]) -> dict[str, Any]:
    """That exactly these alerts fire then, each so many times."""
    return {
        "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [
            {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": times}
            for name, severity, times in alerts
        ],
    }


def check(folder: Path, found: list[dict[str, str]], **tests: list[dict[str, Any]]) -> None:
    (folder / "rules.yaml").write_text(rules())
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": found, **tests}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    answer = promtool("test", "rules", folder / "test.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@needs_promtool
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules())

    answer = promtool("check", "rules", tmp_path / "rules.yaml")

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{len(RULES)} rules found" in answer.stdout


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{case.severity}")
def test_an_alert_fires_once_when_its_condition_has_lasted_and_stops_when_it_is_over(
    case: Case, tmp_path: Path
) -> None:
    until = BEGIN + case.lasts
    end = until + case.stopped
    times = len(INSTANCES) if case.alert == "TaskQueueNotScraped" else 1
    firing = [(case.alert, case.severity, times), *((*other, 1) for other in case.along.items())]

    found = series(case.trouble, until=until, end=max(end, until + 2))

    check(
        tmp_path,
        found,
        promql_expr_test=[
            fired(BEGIN - 1, []), fired(BEGIN + case.quiet, []), fired(BEGIN + case.fires, firing), fired(end, []),
        ],
    )  # fmt: skip


@needs_promtool
@pytest.mark.parametrize("trouble", QUIET.values(), ids=list(QUIET))
def test_what_is_no_trouble_or_does_not_last_wakes_nobody(trouble: dict[str, Course], tmp_path: Path) -> None:
    found = series(trouble, until=22, end=40)

    check(tmp_path, found, promql_expr_test=[fired(minute, []) for minute in range(41)])


@needs_promtool
def test_what_an_alert_says_is_filled_in(tmp_path: Path) -> None:
    [rule] = [rule for rule in ALERTS if rule["alert"] == "TaskQueueSchedulerSilent"]
    stood = {"tq_scheduler_last_tick_timestamp_seconds": steady(60.0 * (BEGIN - 1))}
    told = rule["annotations"]["description"]
    filled = re.sub(r"\{\{ if .*\{\{ end \}\}", "The last tick was 6m 0s ago.", told)

    check(
        tmp_path,
        series(stood, until=30, end=40),
        alert_rule_test=[
            {
                "eval_time": f"{BEGIN + 5}m",
                "alertname": rule["alert"],
                "exp_alerts": [
                    {
                        "exp_labels": {**rule["labels"], "job": "taskqueue"},
                        "exp_annotations": {**rule["annotations"], "description": filled},
                    }
                ],
            }
        ],
    )


def test_every_alert_has_a_case() -> None:
    assert {(case.alert, case.severity) for case in CASES} == {
        (rule["alert"], rule["labels"]["severity"]) for rule in ALERTS
    }


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_says_what_it_means_and_where_to_look(rule: dict[str, Any]) -> None:
    told = rule["annotations"]

    assert rule["labels"].keys() == {"severity", "component"}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert told["summary"]
    assert len(told["description"].split()) >= 15
    assert told.get("check", "redis") in {found.id for found in CHECKS}


def names_in_rules() -> Iterator[tuple[str, set[str]]]:
    for rule in RULES:
        yield from series_in(rule["expr"])


def test_every_series_in_the_rules_exists_with_its_labels() -> None:
    for name, labels in names_in_rules():
        assert name in SERIES
        assert labels <= SERIES[name]


def test_every_recorded_series_is_used() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = {name for rule in ALERTS for name in re.findall(r"\w+:\w+:\w+", rule["expr"])}

    assert recorded == used
