"""`python -m tests.chaos`: rounds of chaos, and the figures as JSON in the last line."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import orjson
from loguru import logger

from tests.chaos.audit import Figures, Findings, audit
from tests.chaos.conduct import live
from tests.chaos.evidence import SECONDS, SETTLE_S, Evidence, Plan
from tests.chaos.mutants import MUTANTS, copied
from tests.chaos.processes import kill_all_below
from tests.chaos.schedule import Kind, make_schedule
from tests.chaos.workload import Workload

INTERRUPTED = 130


def main(words: list[str]) -> int:
    """Lives through the rounds that are asked for; 0 if every bar was kept."""
    options = _options().parse_args(words)
    logger.remove()  # what we do ourselves is told by the report
    total = Figures()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, lambda *_: _break_off(Path(place)))
        package = copied(Path(place) / "package", options.mutant)
        for number in range(options.rounds):
            seed = options.seed + number
            plan = Plan(
                seed=seed,
                faults=make_schedule(seed, seconds=options.seconds, without=options.without),
                workload=Workload.of(options.jobs),
                seconds=options.seconds,
                settle_s=options.settle,
                package=package,
            )
            total.add(_round(plan, Path(place) / f"round-{seed}", options.keep).figures)
    missed = total.missed()
    for line in missed.values():
        _say(f"MISSED: {line}")
    _say(orjson.dumps(asdict(total)).decode())
    return int(bool(missed))


def _break_off(place: Path) -> NoReturn:
    """Ends all that was started, and this process, wherever it is.

    An exception would have to find its way out, past whatever may swallow it, and past processes that are
    asked to end while Redis, their network or they themselves stand still.
    """
    kill_all_below(os.getpid())
    shutil.rmtree(place, ignore_errors=True)
    os._exit(INTERRUPTED)


def _round(plan: Plan, folder: Path, keep: Path | None) -> Findings:
    folder.mkdir()
    began = time.monotonic()
    evidence = live(plan, folder)
    findings = audit(evidence)
    figures = findings.figures
    _say(
        f"seed {plan.seed}: {time.monotonic() - began:.0f} s, {figures.faults} faults, expected {figures.expected}, "
        f"ended {figures.ended} ({_counted(findings)}), {len(evidence.calls)} calls, repeated {figures.repeated}, "
        f"excused {figures.excused}, lost {figures.lost}, called after end {figures.called_after_end}, "
        f"duplicates {figures.duplicate_runs}, mended {sum(one.times for one in evidence.mends)} "
        f"({figures.mended} of them without a loss), recovery {figures.max_recovery_s} s"
    )
    for note in evidence.notes:
        _say(f"  note: {note}")
    if figures.missed():
        _tell(evidence, findings)
        if keep is not None:
            shutil.copytree(folder / "logs", keep / f"seed-{plan.seed}", dirs_exist_ok=True)
    shutil.rmtree(folder)
    return findings


def _tell(evidence: Evidence, findings: Findings) -> None:
    for line in findings.wrong:
        _say(f"  {line}")
    for line in findings.excuses[:10]:
        _say(f"  {line}")
    for one in evidence.happened:
        ended = f"{one.ended - evidence.began:.1f} s" if one.ended else "never"
        _say(f"  fault {one.fault}; begun {one.begun - evidence.began:.1f} s, ended {ended}")


def _counted(findings: Findings) -> str:
    return ", ".join(f"{number} {status}" for status, number in findings.statuses.items() if number)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first round; each further one has the next"
    )
    parser.add_argument("--jobs", type=int, default=20_000, help="about so many a round")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long things break in a round")
    parser.add_argument(
        "--settle", type=float, default=SETTLE_S, help="seconds after which a round is audited as it is"
    )
    parser.add_argument(
        "--without",
        type=Kind,
        choices=list(Kind),
        action="append",
        default=[],
        metavar="FAULT",
        help=f"leave this out; may be given several times: {', '.join(Kind)}",
    )
    parser.add_argument(
        "--mutant",
        choices=sorted(MUTANTS),
        metavar="FAULT",
        help=f"one of {', '.join(MUTANTS)}: with this fault put into a copy of the system",
    )
    parser.add_argument("--keep", type=Path, help="a folder for the logs of rounds that missed a bar")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
