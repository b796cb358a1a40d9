"""What the limiter promises holds whatever happens: random lives of the real script on a real Redis.

Calls fail, answers and events get lost, processes die with slots in hand, clocks jump, operators
interfere. What is looked at stands in `invariants.py`; that it would be seen, in `test_mutants.py`.
"""

from collections import Counter
from itertools import count

import pytest

from tests.limiter.chaos import live
from tq.redis_server import RedisServer

GRANTS = 100_000
# So often at least the runs must have come there; else they prove less than they claim.
VISITED = {"open": 2000, "half_open": 2000, "paused": 1000, "probes": 200, "crashes with slots in hand": 50}


def test_no_chance_event_makes_the_limiter_break_a_promise(redis_server: RedisServer) -> None:
    seen = Counter[str]()
    violations = []

    for seed in count():
        life = live(redis_server.url, seed)
        seen += life.seen
        violations += [(seed, *violation) for violation in life.violations]
        if seen["grants"] >= GRANTS:
            break

    assert violations == []
    assert not {what: times for what, times in VISITED.items() if seen[what] < times}


@pytest.mark.parametrize("seed", [3, 20])
def test_the_same_happenings_lead_to_the_same_slots(redis_server: RedisServer, seed: int) -> None:
    once, again = live(redis_server.url, seed), live(redis_server.url, seed)

    assert once.given
    assert once.given == again.given
