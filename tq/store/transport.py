"""How messages travel, as far as the store must know.

Jobs are put into their queue in the same script that notes them in the ledger, so the store
writes messages itself. What a message looks like and where a queue keeps it is the broker's
business; whoever owns the broker supplies it as a Transport.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tq.models import Batch, Envelope, Priority, RunId


@dataclass(frozen=True)
class QueuedMessage:
    """A message ready to be put into its queue. The same id names the same message."""

    queue: str
    id: str
    body: bytes


@dataclass(frozen=True)
class QueuedMessages:
    """Messages ready to be put into one queue: their ids, and the body of each."""

    queue: str
    ids: Sequence[str]
    bodies: Sequence[bytes]


class Transport(Protocol):
    """What the store needs to put messages into queues by itself, and to see how they stand."""

    @property
    def queues(self) -> Sequence[str]:
        """The names of all queues."""
        ...

    @property
    def queue_keys(self) -> Sequence[str]:
        """The keys in which messages wait."""
        ...

    @property
    def backlog_lua(self) -> str:
        """Lua that defines `first_of(queue)` and `backlog(queue)`.

        The one gives the id of the message that is next there, or ''; the other how many messages wait,
        and how many have been put away because nobody could work them.
        """
        ...

    @property
    def enqueue_lua(self) -> str:
        """Lua that defines `enqueue(queue, id, body, …)` and `queued(queue, id)`.

        `enqueue` takes up to 500 messages of one queue at a time, an id and a body each; `queued` tells whether a message of that id is waiting or being worked on.
        """
        ...

    @property
    def fetch_lua(self) -> str:
        """Lua that defines `fetch(process, queue, most, waiter, least, busy_with)` and `job_in(body)`.

        `fetch` hands a process messages, and returns their ids and bodies; `job_in` says of one whose job it
        has carried out: task, user, run, share and attempt, all of them texts; or nil if it is no such message.
        """
        ...

    @property
    def holds_lua(self) -> str:
        """Lua that defines `holds(holder, queue, ids)`.

        It tells, by id, which of these messages of one queue a process has fetched and has still.
        """
        ...

    @property
    def workers_lua(self) -> str:
        """Lua that defines `workers()`: the processes that fetch messages, by the names under which they hold them."""
        ...

    @property
    def acknowledge_lua(self) -> str:
        """Lua that defines `acknowledge(holder, queue, ids)`: a process is done with messages that it has fetched.

        For those of them that it does not hold any more, nothing changes.
        """
        ...

    @property
    def take_back_lua(self) -> str:
        """Lua that defines `take_back(holder, queue, id, body)`.

        It takes a message from the process that has fetched it and gives its body; or false if that
        process does not hold it any more, and then changes nothing. Where the broker does not note
        who has fetched what, it gives the body that it was given.
        """
        ...

    def job_message(self, envelope: Envelope, priority: Priority) -> QueuedMessage:
        """The message that has a job carried out."""
        ...

    def job_messages(self, batch: Batch, priority: Priority) -> QueuedMessages:
        """The messages that have the jobs of a batch carried out, in the order of its users."""
        ...

    def distribution_message(self, run_id: RunId, *, cause: str = "") -> QueuedMessage:
        """The message that has a run distributed further; `cause` names the recorded span that asks for it."""
        ...
