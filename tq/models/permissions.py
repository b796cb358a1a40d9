"""What the ledger says to an attempt that is about to be made."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """Whether an attempt may be made."""

    GO = "go"
    ENDED = "ended"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    ELSEWHERE = "elsewhere"


class Permission(NamedTuple):
    """The ledger's answer.

    `deadline_at` and `now`, when it was given, are by Redis' time; `asked` is when this process asked, in
    monotonic seconds.
    """

    verdict: Verdict
    deadline_at: datetime
    now: datetime
    asked: float
