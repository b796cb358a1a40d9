"""What there is to do: several task types, and who has them enabled."""

from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Any

import orjson

from tq.models import Interval, TaskId, UserId
from tq.store.preferences import Enable

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo")
MANUAL = (TaskId("bulk"), TaskId("once"))
SPREAD, PROMPT, ZONED, EDITED = (TaskId(name) for name in ("spread", "prompt", "zoned", "edited"))
SCHEDULED = (SPREAD, PROMPT, ZONED, EDITED)
EVERY_TASK = (*MANUAL, *SCHEDULED)
# Users of `spread` with an interval of their own: every other minute.
OWN_EVERY = 10
OWN_MINUTES = 2
# Nothing expires but what is told to: whoever expires here was forgotten for an hour.
PATIENT: dict[str, Any] = {"overlap": "allow", "max_lateness": "1h"}
TIMEOUT = "3s"
DEFINITIONS: dict[TaskId, dict[str, Any]] = {
    MANUAL[0]: {"interval": {"type": "monthly", "day": 1}, "retries": 3},
    MANUAL[1]: {"interval": {"type": "monthly", "day": 1}, "retries": 0},
    SPREAD: {
        "interval": {"type": "minutely", "value": 1},
        "window": "30s",
        "priority": "low",
        "retries": 5,
        **PATIENT,
    },
    PROMPT: {
        "interval": {"type": "minutely", "value": 1},
        "window": "0s",
        "priority": "high",
        "retries": 0,
        **PATIENT,
    },
    ZONED: {
        "interval": {"type": "minutely", "value": 1, "timezone": "user"},
        "window": "10s",
        "retries": 3,
        **PATIENT,
    },
    # As it is by default: the next run cuts this one, and a job expires after a minute.
    EDITED: {"interval": {"type": "minutely", "value": 1}, "window": "20s", "retries": 3},
}


@dataclass(frozen=True)
class Workload:
    """How many users there are, and how many manual runs beside what falls due by itself."""

    users: int
    manual_runs: int

    @classmethod
    def of(cls, jobs: int) -> "Workload":
        """About so many jobs in a round."""
        users = max(40, jobs // 10)
        scheduled = 3 * users  # one and a half minutes of those who fall due each minute
        return cls(users, max(2, round((jobs - scheduled) / users)))

    def enrolments(self, random: Random) -> list[Enable]:
        """Who has what enabled at first."""
        enrolments = []
        zones = cycle(ZONES)
        for number in range(self.users):
            user, zone = UserId(f"user-{number:05}"), next(zones)
            own = Interval.minutely(OWN_MINUTES) if number % OWN_EVERY == 0 else None
            for task in EVERY_TASK:
                # All have the manual tasks and `spread`, half of them each of the others.
                if task in (*MANUAL, SPREAD) or random.random() < 0.5:
                    interval = own if task == SPREAD else None
                    enrolments.append(Enable(user, task, timezone=zone, interval=interval))
        return enrolments


def tasks_file(url: str, *, edited_every: int) -> str:
    """The definitions, for an endpoint."""
    tasks = []
    for task, definition in DEFINITIONS.items():
        tasks.append(
            {
                "id": task,
                "timeout": TIMEOUT,
                "retry_delay": "1s",
                "window": "0s",
                "config": {"endpoint": f"{url}/{task}", "headers": {"X-Process": "${CHAOS_PROCESS}"}},
                **definition,
            }
        )
        if task == EDITED:
            tasks[-1]["interval"] = {"type": "minutely", "value": edited_every}
    return orjson.dumps({"tasks": tasks}).decode()
