"""Users whom operators have paused: all that a user has enabled, or one task of a user.

Jobs that are open when the pause begins end at once as skipped(paused), and so does the user's part
of whatever comes to it while the pause lasts. A single user cannot wait, as a run of a paused task
does: its distribution passes each member once. So nothing is made up for when the pause is over.

A pause is known under the user, so it outlasts changes of zone and interval, and being disabled and
enabled again; it goes with the user. What has an end is forgotten by whoever meets it afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from tq.errors import InvalidInput
from tq.models import TaskId, UserId
from tq.store.connection import Connection, texts
from tq.store.orders import Pause, end_is_past, pause_of, pause_order
from tq.store.preferences import no_such_user


@dataclass(frozen=True, slots=True)
class PausesOfUser:
    """What of a user is paused: everything, single tasks, or both, each for itself."""

    everything: Pause | None
    tasks: Mapping[TaskId, Pause]


class UserPauses:
    """Pauses users, and tells who is paused. Without a task, all that the user has is meant."""

    def __init__(self, connection: Connection, *, result_history: int, result_ttl: timedelta) -> None:
        self._redis = connection
        self._retention = (result_history, int(result_ttl.total_seconds()))

    def pause(
        self,
        user_id: UserId,
        task_id: TaskId | None = None,
        *,
        reason: str = "",
        by: str = "",
        until: datetime | None = None,
    ) -> None:
        """Has no call for a user begin; what is paused already stays so, with this reason and end.

        Raises:
            UserNotFound: if nothing was ever set for that user.
            InvalidInput: if the user never had the task, or the end is past by Redis' time.
        """
        match self._order(user_id, task_id, orjson.dumps(pause_order(reason, by, until))):
            case "unknown":
                raise no_such_user(user_id)
            case "lacking":
                raise InvalidInput(
                    f"user {user_id!r} never had {task_id!r} enabled or disabled; see tq users show {user_id}"
                )
            case "past" if until is not None:
                raise end_is_past(until)

    def resume(self, user_id: UserId, task_id: TaskId | None = None) -> bool:
        """Ends a pause; False if there was none. Of a user's task, only its own pause is meant."""
        return self._order(user_id, task_id, b"") == "done"

    def of(self, user_id: UserId) -> PausesOfUser:
        """What of a user is paused."""
        answer = texts(self._redis.script("pauses_of", user_id))
        found = {
            task: pause_of(orjson.loads(pause)) for task, pause in zip(answer[::2], answer[1::2], strict=True)
        }
        everything = found.pop("", None)
        return PausesOfUser(everything, {TaskId(task): pause for task, pause in found.items()})

    def _order(self, user_id: UserId, task_id: TaskId | None, order: bytes) -> str:
        return str(self._redis.script("pause_user", *self._retention, user_id, task_id or "", order))
