"""Is the system well? What is observed, what that means, and what to change.

    observe ─▶ Observation ─▶ judge ─▶ findings

Whoever tells of findings (a command, a probe, an alert) knows neither where they come from nor why.
"""

from tq.doctor.judgement import Finding, Status, judge, judge_readiness, unreachable
from tq.doctor.observation import Observation, glance, observe
from tq.errors import StoreError
from tq.runtime import Runtime

__all__ = [
    "Finding",
    "Observation",
    "Status",
    "examine",
    "glance",
    "judge",
    "judge_readiness",
    "observe",
    "unreachable",
]


def examine(runtime: Runtime) -> list[Finding]:
    """What is found, a finding per check; a single one if Redis does not do what is asked of it."""
    try:
        return judge(observe(runtime))
    except StoreError as error:
        return [unreachable(str(error))]
