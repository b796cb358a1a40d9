"""Redis fails in the middle of a run, and has lost its last second when it is back.

With `appendfsync everysec` that is what a machine that fails takes with it: cursors, messages, ends of
jobs, and calls that were made meanwhile. What is missing is found and made up; the audit is by what the
endpoint has seen.

    python -m tests.end_to_end.lost_second

lives through it with 50,000 users, prints a JSON line, and ends with code 1 if any bar was missed.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.breaker import LOST_S, AppendOnlyFile
from tests.end_to_end.flow_track import LOOK_EVERY_S, Report, Track, let_pass
from tq.models import Run
from tq.testing import Call, Calls

# An end is stored a little after the endpoint has answered; on a busy machine that is long.
STORED_WITHIN_S = 2.0


class Failure(NamedTuple):
    """When Redis was killed, and when it was back; and how many ends of jobs it had lost by then."""

    killed: float
    back: float
    ends_lost: int


def lost_second(
    folder: Path, *, users: int = 50_000, rate_limit: float = 2000, lost_at: Sequence[float] = (0.3, 0.7)
) -> Report:
    """Each time that such a share of the users has been served, Redis fails and loses its last second."""
    report = Report("lost_second")
    with Track.laid(folder, rate_limit=rate_limit) as track:
        append_only = AppendOnlyFile(folder / "redis" / "appendonlydir")
        # What is written into a new file meanwhile would not be cut off with the old one.
        track.runtime.store.connection.call("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
        track.start_workers()
        run = track.begin_run("digest", users=users)
        failures = []
        for share in lost_at:
            while len(track.downstream.calls.served) < share * users:
                let_pass(LOOK_EVERY_S, looking=append_only.look)
            failures.append(_fail(track, append_only, run))
        counts = track.until_ended(run).counts
        calls = track.downstream.calls
    report.at_least("ends lost each time", min(failure.ends_lost for failure in failures), 1)
    report.at_least("users served", len({call.user for call in calls.served}), users)
    report.at_least("succeeded", counts.success, users)
    report.at_most("expected", counts.expected, users)
    report.at_most("unaccounted", counts.unaccounted, 0)
    report.at_most("called again though the end was kept", _called_in_vain(calls, failures), 0)
    report.note("calls", len(calls))
    return report


def _fail(track: Track, append_only: AppendOnlyFile, run: Run) -> Failure:
    kept = track.runtime.store.runs.get(run.id).counts.success
    killed = time.monotonic()
    track.redis.kill()
    append_only.lose_from(time.time() - LOST_S)
    track.redis.start()
    back = track.runtime.store.runs.get(run.id).counts.success
    return Failure(killed, time.monotonic(), kept - back)


def _called_in_vain(calls: Calls, failures: Sequence[Failure]) -> int:
    """How many calls were made for users who had been served, when no failure can have lost that."""
    served: dict[str, list[Call]] = defaultdict(list)
    in_vain = 0
    for call in calls:
        before = served[call.user]
        in_vain += any(not _may_be_lost(one, failures) for one in before)
        if call.status == 200:
            before.append(call)
    return in_vain


def _may_be_lost(call: Call, failures: Sequence[Failure]) -> bool:
    ended = call.ended or call.begun
    return any(
        failure.killed - LOST_S - STORED_WITHIN_S < ended < failure.back + STORED_WITHIN_S
        for failure in failures
    )


def main() -> int:
    """Lives through it at full length."""
    with tempfile.TemporaryDirectory() as folder:
        report = lost_second(Path(folder))
    sys.stdout.write(f"{report.to_json()}\n")
    return int(bool(report.missed()))


if __name__ == "__main__":
    sys.exit(main())
