"""The audit can fail: with a fault put into the system, it says so.

Whether each fault is caught takes minutes, so CI only sees whether it still fits the code. All of them:

    CHAOS_MUTANTS=all .venv/bin/pytest tests/chaos/test_mutants.py --timeout 1800
"""

import os
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.conduct import live
from tests.chaos.evidence import SECONDS, Plan
from tests.chaos.mutants import MUTANTS, copied
from tests.chaos.schedule import make_schedule
from tests.chaos.workload import Workload

# A fault that takes more rounds than this to be seen might as well not be looked for.
MOST_ROUNDS = 5
SEED = 1


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_fault_fits_the_code(mutant: str, tmp_path: Path) -> None:
    package = copied(tmp_path / "package", mutant)

    for file in package.rglob("*.py"):
        compile(file.read_text(), file, "exec")


@pytest.mark.skipif(os.environ.get("CHAOS_MUTANTS") != "all", reason="takes minutes: set CHAOS_MUTANTS=all")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_fault_is_caught(mutant: str, tmp_path: Path) -> None:
    package = copied(tmp_path / "package", mutant)

    missed: list[str] = []
    for seed in range(SEED, SEED + MOST_ROUNDS):
        folder = tmp_path / f"round-{seed}"
        folder.mkdir()
        plan = Plan(
            seed=seed,
            faults=make_schedule(seed, seconds=SECONDS),
            workload=Workload.of(20_000),
            package=package,
        )
        missed = audit(live(plan, folder)).figures.missed()
        if missed:
            break

    assert missed
