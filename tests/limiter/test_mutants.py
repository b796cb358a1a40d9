"""Each invariant can fail: with a fault put into the script, the onlooker of `test_invariants.py` sees it."""

import pytest

from tests.limiter.chaos import live
from tests.limiter.invariants import kinds
from tq.redis_server import RedisServer
from tq.store import Store

# A fault that takes more random lives than this to be seen might as well not be looked for.
MOST_LIVES = 120
CLAMP = "s.rate = math.max(limit.floor, math.min(limit.ceiling, s.rate))"
INSTANT = "local at, gap = free_instant(earliest(s))"
PAUSED = "a.paused = everything_paused or pause_of(a.task)"


class Fault:
    """A change of the script, and the invariant that it breaks: what is sound there, and what takes its place.

    Where few lives show it, one that did is the first to be lived through; should it not any more, others may.
    """

    def __init__(self, name: str, breaks: str, *changes: tuple[str, str], seen_in: int = 0) -> None:
        self.name = name
        self.breaks = breaks
        self.lives = [seen_in, *(seed for seed in range(MOST_LIVES) if seed != seen_in)]
        self._changes = changes

    def put_into(self, store: Store) -> None:
        """Has the store run the script with the fault."""
        script = store.connection.source("limiter")
        for sound, faulty in self._changes:
            assert script.count(sound) == 1, f"the script has not, or not once: {sound}"
            script = script.replace(sound, faulty)
        store.connection._scripts["limiter"] = store.connection.client.register_script(script)


FAULTS = [
    # Slots lie too close
    Fault(
        "all tasks at double rate",
        "burst",
        ("local apart = 1 / (PACED * all.rate)", "local apart = 0.5 / (PACED * all.rate)"),
    ),
    Fault(
        "a task at double rate",
        "burst",
        (
            "s.next = math.max(s.next, at - apart) + 1 / (PACED * s.rate)",
            "s.next = math.max(s.next, at - apart) + 0.5 / (PACED * s.rate)",
        ),
    ),
    Fault(
        "a gap that is too small is used",
        "burst",
        ("at + apart <= gap[2] + ROUNDING_S then", "at < gap[2] then"),
    ),
    Fault(
        "a gap stays when it is taken", "burst", ("table.remove(all.gaps, i)\n    if", "all.gaps[i]\n    if")
    ),
    Fault(
        "what others have taken is not seen",
        "burst",
        ("return on_grid(math.max(all.next, now), from)", "return from"),
    ),
    # The rate is out of its limits
    Fault(
        "no floor",
        "bounds",
        (CLAMP, "s.rate = math.min(limit.ceiling, s.rate)"),
        (
            "s.rate = math.min(old, math.max(limit.floor, ease * capacity))",
            "s.rate = math.min(old, ease * capacity)",
        ),
        ("capacity = math.max(limit.floor, math.min(capacity, old))", "capacity = math.min(capacity, old)"),
    ),
    Fault(
        "no ceiling",
        "bounds",
        (CLAMP, "s.rate = math.max(limit.floor, s.rate)"),
        ("s.rate = math.min(s.rate, limit.ceiling)\n", ""),
    ),
    Fault("orders for a rate are ignored", "bounds", ("if not order then", "if true then")),
    # Slots lie where none should
    Fault(
        "no horizon",
        "ahead",
        ("if at - now > AHEAD_S then", "if at - now > 9 then"),
        ("elseif s.next - now > AHEAD_S then", "elseif s.next - now > 9 then"),
    ),
    Fault("a slot in the past", "past", (INSTANT, f"{INSTANT} at = at - 1")),
    # One process gets too much
    Fault(
        "a big lease",
        "lease",
        (
            "math.min(request.slots, LONGEST_LEASE, math.max(1, math.floor(all.rate * LEASE_S)))",
            "request.slots",
        ),
    ),
    Fault("a big lease of one task", "lease", ("math.ceil(s.rate * (LEASE_S + unserved))", "100"), seen_in=4),
    Fault("more than was asked for", "lease", ("left = t.ask,", "left = t.ask + 1,")),
    Fault(
        "more than threads can use",
        "crash",
        ("math.min(request.slots, LONGEST_LEASE, math.max(1, math.floor(all.rate * LEASE_S)))", "100"),
        ("left = t.ask,", "left = 100 * t.ask,"),
        seen_in=15,
    ),
    # A task is called that must not be
    Fault("the pause of a task is ignored", "pause", (PAUSED, "a.paused = everything_paused")),
    Fault("the pause of everything is ignored", "pause", (PAUSED, "a.paused = pause_of(a.task)")),
    Fault(
        "the breaker is ignored",
        "open",
        ("elseif s.breaker == 'open' then a.wait", "elseif false then a.wait"),
        seen_in=6,
    ),
    Fault("the breaker does not open", "dead", ("if s.failures >= rule[1] and", "if false and"), seen_in=6),
    Fault(
        "a hold is ignored",
        "hold",
        ("elseif s.held_until > now then", "elseif false then"),
        ("s.next = math.max(s.next, s.held_until)\n", ""),
    ),
    Fault("a hold that names no time is none", "hold", ("if r[7] >= 0 then", "if r[7] > 0 then"), seen_in=4),
    # A half-open breaker asks too much
    Fault(
        "probes are not counted",
        "probe",
        ("s.probe_epoch = 1, 1, now, s.epoch", "s.probe_epoch = 1, 0, now, s.epoch"),
        seen_in=6,
    ),
    Fault(
        "a probe that comes late stands for another",
        "probe",
        ("or r.epoch ~= s.probe_epoch then", "then"),
        seen_in=40,
    ),
    Fault(
        "a probe is given up too early",
        "probe",
        ("now - s.probe_at > limit.patience then", "now - s.probe_at > 0.5 then"),
        seen_in=6,
    ),
    Fault(
        "half open is as good as closed",
        "probe",
        ("elseif s.breaker == 'half_open' then\n      if", "elseif false then\n      if"),
        seen_in=6,
    ),
    # Too many calls at a time
    Fault(
        "places are not counted",
        "place",
        ("a.limit.concurrency - redis.call('ZCARD', K.places(a.task))", "a.left"),
    ),
    Fault("places are given up too early", "place", ("at + a.limit.patience, place", "now, place")),
    # The rate rises without a reason
    Fault(
        "the rate grows on failures",
        "rise",
        ("  if lost then\n", "  if false then\n"),
        (" and s.ok > 0 then grow(", " then grow("),
        seen_in=20,
    ),
    Fault(
        "the rate leaps",
        "rise",
        ("s.rate, s.why = s.rate + step, 'probing'", "s.rate, s.why = 9 * s.rate, 'probing'"),
        seen_in=6,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_in_the_script_is_seen(redis_server: RedisServer, fault: Fault) -> None:
    seen: set[str] = set()

    for seed in fault.lives:
        seen |= kinds(live(redis_server.url, seed, prepare=fault.put_into).violations)
        if fault.breaks in seen:
            break

    assert fault.breaks in seen, f"seen was {seen or 'nothing'}"


def test_slots_that_depend_on_more_than_what_happened_are_seen(redis_server: RedisServer) -> None:
    fault = Fault("chance", "same", (INSTANT, f"{INSTANT} at = at + redis.call('TIME')[2] % 1000 / 1e6"))

    once, again = (live(redis_server.url, 3, grants=200, prepare=fault.put_into).given for _ in range(2))

    assert once != again
