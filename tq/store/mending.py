"""Finding what has stalled, and setting it going again: lost messages, runs that nobody follows, jobs that are over."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from tq.clock import duration_ms, from_ms
from tq.models import Envelope, Priority, Run, RunId, UserId
from tq.models.ids import job_ids_of, message_id_of
from tq.store.connection import Argument, Connection, chunks
from tq.store.transport import Transport

# One script looks at so many jobs: about 3 ms of Redis' time.
SWEPT_AT_A_TIME = 500
RESTORED_AT_A_TIME = 200


@dataclass(frozen=True)
class Sweep:
    """What a look at some open jobs has found; `adrift` are those that stand nowhere on the agenda."""

    cursor: str
    ended: int
    adrift: list[tuple[UserId, str]]


class Mending:
    """For whichever process holds the lease."""

    def __init__(
        self, connection: Connection, transport: Transport, *, result_history: int, result_ttl: timedelta
    ) -> None:
        self._redis = connection
        self._keys = connection.keys
        self._transport = transport
        self._retention = (result_history, int(result_ttl.total_seconds()))

    def is_mine(self, process: str, *, lasts: timedelta) -> bool:
        """Whether this process is the one that looks, now and for a while."""
        return bool(self._redis.script("mender", process, duration_ms(lasts)))

    def running(self) -> list[RunId]:
        """The runs of all tasks that have not ended."""
        return [RunId(run_id) for run_id in self._redis.call("SMEMBERS", self._keys("running"))]

    def follow(self, run_id: RunId) -> bool:
        """Has a run distributed on if nothing on the agenda calls for it; tells whether that was so."""
        message = self._transport.distribution_message(run_id)
        return bool(self._redis.script("follow", run_id, message.queue, message.id, message.body))

    def sweep(self, run_id: RunId, cursor: str, *, grace: timedelta) -> Sweep:
        """Ends some open jobs of a run that are over, and finds those that stand nowhere on the agenda."""
        reached, ended, *adrift = self._redis.script(
            "sweep", *self._retention, run_id, cursor, SWEPT_AT_A_TIME, duration_ms(grace)
        )
        pairs = zip(adrift[::2], adrift[1::2], strict=True)
        return Sweep(str(reached), int(ended), [(UserId(user), state) for user, state in pairs])

    def restore(self, run: Run, adrift: Sequence[tuple[UserId, str]], priority: Priority) -> int:
        """Gives those of these jobs a message that have none in any queue; returns how many."""
        restored = 0
        for some in chunks(adrift, RESTORED_AT_A_TIME):
            arguments: list[Argument] = []
            # Hardly ever one is missing: no message is made before that is known.
            for place in self._redis.script("missing", priority.value, *_message_ids(run.id, some)):
                user_id, state = some[int(place)]
                message = self._transport.job_message(_envelope(run, user_id, state), priority)
                arguments += [run.id, user_id, state, message.queue, message.id, message.body]
            if arguments:
                restored += int(self._redis.script("restore", *arguments))
        return restored


def _message_ids(run_id: RunId, jobs: Sequence[tuple[UserId, str]]) -> list[str]:
    job_ids = job_ids_of(run_id, [user_id for user_id, _ in jobs])
    return [
        message_id_of(job_id, int(state.partition("|")[0]))
        for job_id, (_, state) in zip(job_ids, jobs, strict=True)
    ]


def _envelope(run: Run, user_id: UserId, state: str) -> Envelope:
    attempt, spent, share, after, parameters = state.split("|", 4)
    return Envelope(
        task_id=run.task_id,
        user_id=user_id,
        run_id=run.id,
        kind=run.kind,
        definition=run.definition,
        scheduled_at=run.nominal_at,
        execute_after=from_ms(int(after)),
        share=int(share),
        attempt=int(attempt),
        spent=int(spent),
        parameters=parameters,
    )
