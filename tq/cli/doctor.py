"""`tq doctor`: is the system well, and if not, what to change."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from tq.cli.app import app, open_runtime
from tq.cli.output import AsJson, print_json, print_table, say

if TYPE_CHECKING:
    from tq.doctor import Finding


@app.command("doctor")
def look_at_everything(as_json: AsJson = False) -> None:
    """Look whether all is well, and say what to change and why.

    Ends with 0 if there is no problem, warnings or not; with 1 if there is one. Changes nothing.
    """
    from tq.doctor import Status, examine

    with closing(open_runtime()) as runtime:
        findings = examine(runtime)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.status is Status.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _print(findings: Sequence["Finding"]) -> None:
    print_table(
        ("check", "status", "found"),
        [(finding.id, finding.status.value, finding.found) for finding in findings],
    )
    for finding in findings:
        if finding.remedy:
            say("")
            say(f"{finding.status.value}: {finding.id}: {finding.found}")
            say(f"  why it matters: {finding.why}")
            say(f"  what to do: {finding.remedy}")
