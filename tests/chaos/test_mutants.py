"""The audit can fail: with a fault put into the system, it says so, by the bar that is there for it.

Whether each fault is caught takes minutes, so CI only sees whether it still fits the code. All of them:

    CHAOS_MUTANTS=all .venv/bin/pytest tests/chaos/test_mutants.py --timeout 1800
"""

import os
import subprocess
import sys
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

    # A name that is not there any more would break everything, and the fault itself would not be looked for.
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "F821",
        str(package),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(os.environ.get("CHAOS_MUTANTS") != "all", reason="takes minutes: set CHAOS_MUTANTS=all")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_fault_is_caught(mutant: str, tmp_path: Path) -> None:
    package = copied(tmp_path / "package", mutant)

    missed: set[str] = set()
    for seed in range(SEED, SEED + MOST_ROUNDS):
        folder = tmp_path / f"round-{seed}"
        folder.mkdir()
        plan = Plan(
            seed=seed,
            faults=make_schedule(seed, seconds=SECONDS),
            workload=Workload.of(20_000),
            package=package,
        )
        missed = audit(live(plan, folder)).figures.missed().keys() & MUTANTS[mutant].noticed_by
        if missed:
            break

    assert missed
