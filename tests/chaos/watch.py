"""What is seen of the system from outside: when ends are stored, what waits to be mended, and what was.

Both look past the proxies, into Redis itself, and go on when it comes back.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from actors.broker import JOB_QUEUES
from actors.transport import CONTROL, broker_namespace
from tq.clock import from_ms
from tq.models import TaskId
from tq.slots import last_place_due
from tq.store.keys import Keys

LOOK_EVERY_S = 0.5
# What has waited for longer than this counts as not yet mended.
MENDABLE_AFTER_S = 5.0
# A distribution that waits for room is looked at again within a second or two.
ROOM_AGAIN_S = 3.0

# Messages in the hands of each process, and when it last showed that it lives; what is queued; the
# agenda; the runs under way: all at one instant.
LOOK = """
local ns, agenda, open_prefix, run_prefix, shares_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local queues, actives = cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
local time = redis.call('TIME')
local answer = { now = tonumber(time[1]) + tonumber(time[2]) / 1e6, held = {}, runs = {}, queued = 0, put_off = 0 }
local known = redis.call('ZRANGE', ns .. ':__heartbeats__', 0, -1, 'WITHSCORES')
for i = 1, #known, 2 do
  local fetched = 0
  for _, queue in ipairs(queues) do
    fetched = fetched + redis.call('SCARD', ns .. ':__acks__.' .. known[i] .. '.' .. queue)
  end
  local seen = redis.call('ZSCORE', ns .. ':alive', known[i]) or known[i + 1]
  table.insert(answer.held, { known[i], tonumber(seen) / 1000, fetched })
end
for _, queue in ipairs(queues) do answer.queued = answer.queued + redis.call('LLEN', ns .. ':' .. queue) end
local entries = redis.call('ZRANGE', agenda, 0, -1, 'WITHSCORES')
local next_look = {}
for i = 1, #entries, 2 do
  local kind = string.sub(entries[i], 1, 2)
  if i == 1 then answer.earliest = { entries[i], tonumber(entries[i + 1]) / 1000 } end
  if kind == 'p|' then answer.put_off = answer.put_off + 1 end
  if kind == 'd|' then next_look[string.sub(entries[i], 3)] = tonumber(entries[i + 1]) / 1000 end
end
for _, active in ipairs(actives) do
  for _, run in ipairs(redis.call('SMEMBERS', active)) do
    local undone, waiting, waits_for, task = unpack(redis.call('HMGET', run_prefix .. run, 'undone', 'waiting', 'waits_for', 'task'))
    local one = { run = run, task = task, undone = tonumber(undone), waiting = tonumber(waiting or '0'),
      waits_for = waits_for or '', open = redis.call('HLEN', open_prefix .. run), next_look = next_look[run] or 0 }
    if one.undone > 0 then one.shares = redis.call('HGETALL', shares_prefix .. run) end
    table.insert(answer.runs, one)
  end
end
return cjson.encode(answer)
"""


class Holder(NamedTuple):
    """A process, when it showed last that it lives, and how many messages it has fetched."""

    process: str
    heard_at: float
    fetched: int


class Sample(NamedTuple):
    """The age of the oldest thing that somebody should have mended, and what it is; who holds messages beside it."""

    at: float
    age_s: float
    what: str
    holders: tuple[Holder, ...] = ()

    @property
    def oldest_s(self) -> float:
        """The age of the oldest thing, if whoever has been silent for a while is dead."""
        return max([self.age_s, *(self.at - one.heard_at for one in self.holders if one.fetched)])


class Mend(NamedTuple):
    """The system found so many messages lost, or distributions followed by nobody, and set them going again."""

    at: float
    what: str
    times: int


@dataclass
class Watch:
    """Two threads that look, for as long as it is entered."""

    port: int
    namespace: str
    tasks: Sequence[TaskId]
    ends: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: list[Sample] = field(default_factory=list)
    mends: list[Mend] = field(default_factory=list)
    active: set[str] = field(default_factory=set)
    definitions: dict[str, str] = field(default_factory=dict)
    definitions_seen: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._stuck_since: dict[str, tuple[str, float]] = {}
        self._mended: dict[str, int] = {}
        self._keys = Keys(self.namespace)
        self._threads = [
            threading.Thread(target=self._again, args=(look,), name=look.__name__)
            for look in (self._listen, self._sample)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def oldest(self) -> Sample | None:
        """What was seen last."""
        return self.samples[-1] if self.samples else None

    def _again(self, look: Any) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(redis.RedisError), self._client() as client:
                look(client)
            self._ending.wait(0.02)

    def _client(self) -> "redis.Redis":
        return redis.Redis(
            port=self.port,
            decode_responses=True,
            socket_timeout=2,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )

    def _listen(self, client: "redis.Redis") -> None:
        """Notes when each end is stored: a result is pushed."""
        # Refused while Redis loads its file: it would tell of every push that it makes again.
        client.ping()
        prefix = f"__keyspace@0__:{self._keys.prefix}results:"
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.psubscribe(f"{prefix}*")
            while not self._ending.is_set():
                message = channel.get_message(timeout=0.5)
                if message is not None and message["data"] == "lpush":
                    task, _, user = message["channel"].removeprefix(prefix).partition("|")
                    self.ends[(task, user)].append(time.time())

    def _sample(self, client: "redis.Redis") -> None:
        keys = self._keys
        queues = [CONTROL, *sorted(JOB_QUEUES)]
        arguments: list[str | bytes] = [
            *(broker_namespace(self.namespace), keys("agenda"), keys("open", ""), keys("run", "")),
            *(keys("shares", ""), orjson.dumps(queues)),
            orjson.dumps([keys("active", task) for task in self.tasks]),
        ]
        while not self._ending.wait(LOOK_EVERY_S):
            seen = orjson.loads(client.eval(LOOK, 0, *arguments))
            definitions = {str(task): str(text) for task, text in client.hgetall(keys("definitions")).items()}
            paused = {str(scope) for scope in client.hkeys(keys("paused"))}
            self.definitions_seen.append((time.time(), definitions))
            self.active = {run["run"] for run in seen["runs"]}
            self.samples.append(self._oldest(seen, paused))
            self._note_mends(
                {str(what): int(times) for what, times in client.hgetall(keys("mended")).items()}
            )

    def _note_mends(self, mended: dict[str, int]) -> None:
        for what, times in mended.items():
            # A Redis that has lost its last second may have counted less than before.
            if times > self._mended.get(what, 0):
                self.mends.append(Mend(time.time(), what, times - self._mended.get(what, 0)))
        self._mended = mended

    def _oldest(self, seen: dict[str, Any], paused: set[str]) -> Sample:
        now = seen["now"]
        ages = [(0.0, "nothing")]
        if earliest := seen.get("earliest"):
            entry, due = earliest
            ages.append((now - due, f"agenda entry {entry} overdue"))
        stuck = {}
        for run in seen["runs"] or ():
            if (
                run["undone"] > 0
                and run["task"] not in paused
                and "*" not in paused
                and self._is_stuck(run, now)
            ):
                cursors = " ".join(text for name, text in _shares(run).items() if name.endswith(":cursor"))
                stuck[f"run {run['run']} is not distributed further"] = cursors
        out = sum(run["open"] - run["waiting"] for run in seen["runs"] or ())
        messages = seen["queued"] + seen["put_off"] + sum(fetched for _, _, fetched in seen["held"])
        if messages < out:
            stuck["open jobs without a message"] = ""
        for what, state in stuck.items():
            state_before, since = self._stuck_since.get(what, ("", now))
            if what not in self._stuck_since or state_before != state:
                since = now
            stuck[what] = state
            self._stuck_since[what] = (state, since)
            ages.append((now - since, what))
        for what in self._stuck_since.keys() - stuck.keys():
            del self._stuck_since[what]
        age, what = max(ages)
        return Sample(now, age, what, tuple(Holder(*one) for one in seen["held"]))

    def _is_stuck(self, run: dict[str, Any], now: float) -> bool:
        """Whether members have come due, there is room for them, and nobody is about to look."""
        if run["open"] > run["waiting"] or (run["waits_for"] and run["next_look"] > now - ROOM_AGAIN_S):
            return False
        shares = _shares(run)
        for index in range(len(shares)):
            start = shares.get(f"{index}:start")
            if start is None:
                break
            if shares[f"{index}:done"] == "0":
                elapsed = from_ms(now * 1000) - from_ms(int(start))
                spread = timedelta(milliseconds=int(shares[f"{index}:spread"]))
                if int(shares[f"{index}:cursor"]) < last_place_due(elapsed, spread):
                    return True
        return False


def _shares(run: dict[str, Any]) -> dict[str, str]:
    flat = run.get("shares") or []
    return dict(zip(flat[::2], flat[1::2], strict=True))
