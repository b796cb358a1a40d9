"""When a finding is told of, and in which words.

Pure. An alert is of a check. It begins with the first look that finds trouble and ends when its end has been
told; what lasts for one look only is never told of, neither trouble nor its end, so that nothing flaps. Where
trouble comes to one more task, queue or run the alert is told again, those of a few minutes together: one
message for each would be hundreds where they share an endpoint. Before
a message is sent the alert is `claimed`, and once it has arrived `delivered`: whoever finds a claimed one
later sends it again, under the same id.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from tq.clock import iso, to_ms
from tq.doctor import Finding, Status
from tq.models import format_duration
from tq.models.base import Model
from tq.redaction import redact

LOOK_EVERY = timedelta(seconds=15)
# Two looks lie between this and its double apart, whoever takes them; a look may come a little early.
LASTING = timedelta(seconds=10)
REMINDED_AFTER = timedelta(hours=4)
JOINED_AFTER = timedelta(minutes=5)  # from one message to the next that tells of further ones
MOST_SUBJECTS = 100  # who has so many needs no further list
FIRST_RETRY, LAST_RETRY = timedelta(seconds=15), timedelta(minutes=5)
SHOWN = 5  # of further subjects, in text
_ORDER = [Status.OK, Status.WARNING, Status.PROBLEM]


class Kind(StrEnum):
    """What a message says."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Alert(Model):
    """Trouble with one check: how it is, and what its receiver knows of it.

    `told` is the severity that the receiver knows; `tries` counts attempts at the message that is under way.
    `subjects` are the tasks, queues or runs that it is about, by since when; of `known` the receiver knows.
    """

    # A later version may know more of it.
    model_config = ConfigDict(extra="ignore")

    check: str
    since: datetime
    severity: Status
    severity_since: datetime
    summary: str
    why: str
    remedy: str
    subjects: dict[str, datetime] = Field(default_factory=dict)
    known: tuple[str, ...] = ()
    well_since: datetime | None = None
    told: Status | None = None
    told_at: datetime | None = None
    ends: bool = False
    messages: int = 0
    tries: int = 0
    retry_at: datetime | None = None

    @property
    def was_tried(self) -> bool:
        """Whether its receiver may know of it."""
        return self.messages > 0 or self.tries > 0

    def due(self, now: datetime) -> Kind | None:
        """The message that is to be sent now, if there is one."""
        if self.retry_at is not None and now < self.retry_at:
            return None
        if self.well_since is not None:
            return Kind.RESOLVED if now - self.well_since >= LASTING else None
        if self.told is None or self.told_at is None:
            return Kind.FIRING if now - self.since >= LASTING else None
        if _ORDER.index(self.severity) > _ORDER.index(self.told):
            return Kind.FIRING if now - self.severity_since >= LASTING else None
        joined = any(now - self.subjects[subject] >= LASTING for subject in self.joining)
        return Kind.FIRING if now - self.told_at >= (JOINED_AFTER if joined else REMINDED_AFTER) else None

    @property
    def joining(self) -> list[str]:
        """Of what is the matter, that of which its receiver does not know."""
        return [subject for subject in self.subjects if subject not in self.known]

    def claimed(self, kind: Kind, now: datetime) -> "Alert":
        """As it is while a message is under way; if nothing is heard of that, it is sent again after a while."""
        backoff = min(FIRST_RETRY * 2 ** min(self.tries, 10), LAST_RETRY)
        return self.model_copy(
            update={"ends": kind is Kind.RESOLVED, "tries": self.tries + 1, "retry_at": now + backoff}
        )

    def delivered(self, kind: Kind, now: datetime) -> "Alert | None":
        """As it is when the message has arrived; nothing is left of it after the last one."""
        if kind is Kind.RESOLVED:
            return None
        return self.model_copy(
            update={
                "told": self.severity,
                "told_at": now,
                "known": tuple(self.subjects),
                "messages": self.messages + 1,
                "tries": 0,
                "retry_at": None,
            }
        )


def follow(alert: Alert | None, finding: Finding, now: datetime, *, least: Status) -> Alert | None:
    """The alert of a check after a look; None if there is nothing to tell of. `least` is what counts as trouble."""
    is_trouble = _ORDER.index(finding.status) >= _ORDER.index(least)
    seen = {"summary": redact(finding.found), "why": finding.why, "remedy": redact(finding.remedy)}
    if alert is None:
        return _begun(finding, now, seen) if is_trouble else None
    if not is_trouble:
        if not alert.was_tried:
            return None
        return alert.model_copy(update={**seen, "well_since": alert.well_since or now})
    subjects = {subject: alert.subjects.get(subject, now) for subject in finding.subjects[:MOST_SUBJECTS]}
    known = tuple(subject for subject in alert.known if subject in subjects)
    changed: dict[str, object] = {**seen, "well_since": None, "subjects": subjects, "known": known}
    if finding.status is not alert.severity:
        changed |= {"severity": finding.status, "severity_since": now}
    if alert.ends:
        # Its receiver may have been told that it is over, so it is told anew.
        changed |= {"ends": False, "told": None}
    return alert.model_copy(update=changed)


def _begun(finding: Finding, now: datetime, seen: dict[str, str]) -> Alert:
    subjects = dict.fromkeys(finding.subjects[:MOST_SUBJECTS], now)
    return Alert(
        check=finding.id, since=now, severity=finding.status, severity_since=now, subjects=subjects, **seen
    )


class Message(Model):
    """The body that is posted, and that receivers rely on."""

    id: str
    status: Kind
    severity: Literal["problem", "warning"]
    check: str
    summary: str
    why: str
    remedy: str
    subjects: tuple[str, ...]
    since: datetime
    until: datetime | None
    host: str
    namespace: str
    text: str


def message_of(alert: Alert, kind: Kind, now: datetime, *, host: str, namespace: str) -> Message:
    """What is told of an alert."""
    severity: Literal["problem", "warning"] = "problem" if alert.severity is Status.PROBLEM else "warning"
    until = alert.well_since if kind is Kind.RESOLVED else None
    lasted = format_duration(timedelta(seconds=round(((until or now) - alert.since).total_seconds())))
    if kind is Kind.RESOLVED:
        text = f"{namespace}: resolved: {alert.check}: {alert.summary} (was a {severity} for {lasted})"
    else:
        still = f"still a {severity}, for {lasted}" if alert.messages else severity
        if alert.messages and alert.joining:
            still += f", now also {_listed(alert.joining)}"
        text = f"{namespace}: {still}: {alert.check}: {alert.summary}\nWhy it matters: {alert.why}\nWhat to do: {alert.remedy}"
    return Message(
        id=id_of(alert, namespace),
        status=kind,
        severity=severity,
        check=alert.check,
        summary=alert.summary,
        why=alert.why,
        remedy=alert.remedy,
        subjects=tuple(alert.subjects),
        since=alert.since,
        until=until,
        host=host,
        namespace=namespace,
        text=text,
    )


def id_of(alert: Alert, namespace: str) -> str:
    """The same for every message of an alert."""
    return f"alert_{_hash(f'{namespace}|{alert.check}|{to_ms(alert.since)}')}"


def delivery_id_of(alert: Alert, kind: Kind, namespace: str) -> str:
    """The same for every attempt at one message of an alert."""
    return f"{id_of(alert, namespace)}-{kind.value}-{alert.messages + 1}"


def written(message: Message) -> dict[str, object]:
    """The message as JSON has it: every field, instants in UTC with a `Z`."""
    return {
        **message.model_dump(mode="python"),
        "status": message.status.value,
        "since": iso(message.since),
        "until": None if message.until is None else iso(message.until),
    }


def _listed(subjects: Sequence[str]) -> str:
    more = f" and {len(subjects) - SHOWN} more" if len(subjects) > SHOWN else ""
    return ", ".join(subjects[:SHOWN]) + more


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
