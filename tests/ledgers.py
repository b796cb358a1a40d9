"""What the ledgers of runs come to, to be held against what is counted for all time."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tq.models import JobStatus, Run
from tq.store.totals import Total

Counts = Counter[str]


def summed(runs: Iterable[Run]) -> Counts:
    """All that the ledgers have counted, by `task|kind|what`, with the reason of what was skipped."""
    counts: Counts = Counter()
    for run in runs:
        place, ledger = f"{run.task_id}|{run.kind}", run.counts
        counts[f"{place}|runs"] += 1
        counts[f"{place}|expected"] += ledger.expected
        counts[f"{place}|retries"] += ledger.retries
        for status in JobStatus:
            counts[f"{place}|{status}"] += getattr(ledger, status)
        for reason, jobs in ledger.skipped_by_reason.items():
            counts[f"{place}|skipped:{reason}"] += jobs
    return +counts


def counted(totals: Mapping[Total, int]) -> Counts:
    """The same, as it is counted for all time."""
    return +Counter(
        {
            f"{total.task}|{total.kind}|{total.what}{':' * bool(total.reason)}{total.reason}": count
            for total, count in totals.items()
        }
    )
