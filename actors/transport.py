"""How messages travel: what the store writes into queues by itself, and what Dramatiq reads there.

With Redis, messages go where Dramatiq's own `enqueue` puts them. With the stub broker they go to
an outbox in Redis, which tests pump.
"""

import time
from importlib.resources import files

import orjson

from actors.encoding import DISTRIBUTE, job_bodies, job_body
from tq.models import SUSPECTS, Batch, Envelope, Priority, RunId
from tq.models.ids import job_ids_of
from tq.settings import Settings
from tq.store import QueuedMessage, QueuedMessages
from tq.store.keys import Keys
from tq.telemetry.traces import TRACEPARENT

CONTROL = "control"


def broker_namespace(namespace: str) -> str:
    """The prefix under which Dramatiq keeps its own keys."""
    return f"{namespace}:queue"


class DramatiqTransport:
    """Puts messages where Dramatiq's Redis broker fetches them: an id in the list, a body in the hash.

    As many of the processes that wait for messages of the queue are woken as there are messages, in the order of
    `messages.lua`. One that cannot hear any more is passed over.
    """

    def __init__(self, settings: Settings) -> None:
        prefix, wake = broker_namespace(settings.namespace), Keys(settings.namespace)("wake")
        self.enqueue_lua = (
            f"local function wake(queue, messages)\n"
            f"  while messages > 0 do\n"
            f"    local waiter = redis.call('ZPOPMIN', '{prefix}:'..queue..'.waiting')[1]\n"
            f"    if not waiter then return end\n"
            f"    messages = messages - redis.call('PUBLISH', '{wake}:'..waiter, queue)\n"
            f"  end\n"
            f"end\n"
            f"local function enqueue(queue, ...)\n"
            f"  local texts, ids = {{...}}, {{}}\n"
            f"  for i = 1, #texts, 2 do ids[#ids + 1] = texts[i] end\n"
            f"  redis.call('HSET', '{prefix}:'..queue..'.msgs', ...)\n"
            f"  redis.call('RPUSH', '{prefix}:'..queue, unpack(ids))\n"
            f"  wake(queue, #ids)\n"
            f"end\n"
            f"local function queued(queue, id)\n"
            f"  return redis.call('HEXISTS', '{prefix}:'..queue..'.msgs', id) == 1\n"
            f"    or redis.call('HEXISTS', '{prefix}:{SUSPECTS}.msgs', id) == 1\n"
            f"end\n"
        )
        self.fetch_lua = f"local BROKER = '{prefix}'\n" + (files("actors") / "messages.lua").read_text()
        self.holds_lua = (
            f"local function holds(holder, queue, ids)\n"
            f"  local held = {{}}\n"
            f"  local found = redis.call('SMISMEMBER', '{prefix}:__acks__.'..holder..'.'..queue, unpack(ids))\n"
            f"  for i, id in ipairs(ids) do held[id] = found[i] == 1 end\n"
            f"  return held\n"
            f"end\n"
        )
        # Who lives, as `recover.lua` notes it.
        self.workers_lua = (
            f"local function workers() return redis.call('ZRANGE', '{prefix}:alive', 0, -1) end\n"
        )
        # What Dramatiq's own `ack` does.
        self.acknowledge_lua = (
            f"local function acknowledge(holder, queue, ids)\n"
            f"  local acks, held = '{prefix}:__acks__.'..holder..'.'..queue, {{}}\n"
            f"  for i, is_held in ipairs(redis.call('SMISMEMBER', acks, unpack(ids))) do\n"
            f"    if is_held == 1 then held[#held + 1] = ids[i] end\n"
            f"  end\n"
            f"  if #held == 0 then return end\n"
            f"  redis.call('SREM', acks, unpack(held))\n"
            f"  redis.call('HDEL', '{prefix}:'..queue..'.msgs', unpack(held))\n"
            f"end\n"
        )
        # Likewise, but for the body, which it would throw away.
        self.take_back_lua = (
            f"local function take_back(holder, queue, id)\n"
            f"  if redis.call('SREM', '{prefix}:__acks__.'..holder..'.'..queue, id) == 0 then return false end\n"
            f"  local body = redis.call('HGET', '{prefix}:'..queue..'.msgs', id)\n"
            f"  redis.call('HDEL', '{prefix}:'..queue..'.msgs', id)\n"
            f"  return body\n"
            f"end\n"
        )
        self.queues = (CONTROL, *(priority.value for priority in Priority), SUSPECTS)
        self.queue_keys = tuple(
            f"{prefix}:{queue}{part}"
            for queue in self.queues
            for part in ("", ".msgs", ".XQ", ".XQ.msgs", ".waiting")
        )
        self.backlog_lua = (
            f"local function first_of(queue) return redis.call('LINDEX', '{prefix}:'..queue, 0) or '' end\n"
            f"local function backlog(queue)\n"
            f"  return redis.call('LLEN', '{prefix}:'..queue), redis.call('ZCARD', '{prefix}:'..queue..'.XQ')\n"
            f"end\n"
        )

    def job_message(self, envelope: Envelope, priority: Priority) -> QueuedMessage:
        """The message that has a job carried out."""
        return QueuedMessage(priority.value, envelope.message_id, job_body(envelope, priority.value))

    def job_messages(self, batch: Batch, priority: Priority) -> QueuedMessages:
        """The messages that have the jobs of a batch carried out, in the order of its users."""
        pattern = batch.pattern
        ids = [f"{job_id}-{pattern.attempt}" for job_id in job_ids_of(pattern.run_id, batch.user_ids)]
        return QueuedMessages(priority.value, ids, job_bodies(batch, priority.value))

    def distribution_message(self, run_id: RunId, *, cause: str = "") -> QueuedMessage:
        """The message that has a run distributed further; at most one of a run is queued at a time.

        `cause` names the recorded span that claimed the run, if there is one.
        """
        message_id = f"distribute-{run_id}"
        body = {
            "queue_name": CONTROL,
            "actor_name": DISTRIBUTE,
            "args": [run_id],
            "kwargs": {},
            "options": {"redis_message_id": message_id} | ({TRACEPARENT: cause} if cause else {}),
            "message_id": message_id,
            "message_timestamp": int(time.time() * 1000),
        }
        return QueuedMessage(CONTROL, message_id, orjson.dumps(body))


class OutboxTransport(DramatiqTransport):
    """Puts messages into a list, from which a test takes them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.outbox = f"{settings.namespace}:outbox"
        self.queue_keys = (self.outbox,)
        self.enqueue_lua = (
            f"local function enqueue(queue, ...)\n"
            f"  for i, text in ipairs({{...}}) do if i % 2 == 0 then redis.call('RPUSH', '{self.outbox}', text) end end\n"
            f"end\n"
            f"local function queued(queue, id) return false end\n"
        )
        self.holds_lua = (
            "local function holds(holder, queue, ids)\n"
            "  local held = {}\n"
            "  for _, id in ipairs(ids) do held[id] = true end\n"
            "  return held\n"
            "end\n"
        )
        self.workers_lua = "local function workers() return {} end\n"
        self.acknowledge_lua = "local function acknowledge(holder, queue, ids) end\n"
        self.take_back_lua = "local function take_back(holder, queue, id, body) return body end\n"
        self.backlog_lua = (
            "local function first_of(queue) return '' end\nlocal function backlog(queue) return 0, 0 end\n"
        )


def make_transport(settings: Settings) -> DramatiqTransport:
    """The transport that fits the broker."""
    return OutboxTransport(settings) if settings.broker == "stub" else DramatiqTransport(settings)
