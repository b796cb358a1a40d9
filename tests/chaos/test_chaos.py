"""A short round, in which everything that can break does so once; `make chaos` runs long ones."""

import sys
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.conduct import live
from tests.chaos.evidence import Plan
from tests.chaos.mutants import copied
from tests.chaos.schedule import DRAWS, make_schedule
from tests.chaos.workload import Workload

SEED = 1
SHORT_S = 18.0


def test_the_same_seed_breaks_the_same_things_at_the_same_moments() -> None:
    assert make_schedule(7, seconds=60) == make_schedule(7, seconds=60)
    assert make_schedule(7, seconds=60) != make_schedule(8, seconds=60)


def test_a_short_schedule_has_every_kind_of_fault() -> None:
    faults = make_schedule(SEED, seconds=SHORT_S, every_kind_once=True)

    assert {fault.kind for fault in faults} == set(DRAWS)
    assert all(fault.at_s + fault.lasts_s <= SHORT_S for fault in faults)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.timeout(240)
def test_nobody_is_missed_whatever_breaks(tmp_path: Path) -> None:
    plan = Plan(
        seed=SEED,
        faults=make_schedule(SEED, seconds=SHORT_S, every_kind_once=True),
        workload=Workload.of(3000),
        seconds=SHORT_S,
        package=copied(tmp_path / "package"),
    )

    findings = audit(live(plan, tmp_path))

    assert findings.figures.ended > 0
    assert not findings.figures.missed(), "\n".join([*findings.wrong, *map(str, plan.faults)])
