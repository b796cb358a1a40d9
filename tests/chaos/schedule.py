"""When what breaks: a pure function of the seed."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

WORKERS = ("worker-1", "worker-2", "worker-3")
SCHEDULERS = ("scheduler-1", "scheduler-2")
PROCESSES = (*WORKERS, *SCHEDULERS)
EVERYBODY = "everybody"
REDIS = "redis"
ENDPOINT = "endpoint"
# One fault in so many seconds, on average.
APART_S = 3.0
ATTEMPTS = 50  # to find a moment at which a fault's target is not under another already


class Kind(StrEnum):
    """What can break, or be changed."""

    KILL = "kill -9"
    STOP = "SIGSTOP"
    TERM = "SIGTERM"
    CUT = "connections cut"
    SLOW = "connections slow"
    HOLE = "connections black-holed"
    REDIS_KILL = "redis kill -9"
    REDIS_LOSS = "redis killed, its last second lost"
    SCRIPT_FLUSH = "script flush"
    USERS = "users change"
    EDIT = "interval edited"
    PAUSE = "task paused"
    OUTAGE = "endpoint out of order"


@dataclass(frozen=True)
class Fault:
    """Something that is to happen, in seconds from the round's beginning."""

    number: int
    kind: Kind
    target: str
    at_s: float
    lasts_s: float
    how: str = ""

    def __str__(self) -> str:
        how = f" ({self.how})" if self.how else ""
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"#{self.number} at {self.at_s:.1f} s: {self.kind}, {self.target}{how}{lasts}"


# Target, how long, and how, of a fault of a kind.
Draw = Callable[[Random], tuple[str, float, str]]


def _process(random: Random, shortest: float, longest: float, *hows: str) -> tuple[str, float, str]:
    return random.choice(PROCESSES), random.uniform(shortest, longest), random.choice(hows or ("",))


def _kill(random: Random) -> tuple[str, float, str]:
    target = random.choice((*WORKERS, *WORKERS, *SCHEDULERS))
    # With its supervisor, as when a machine fails, it is we who start it again; alone, its supervisor does.
    how = random.choice(("with its supervisor", "with its supervisor", "alone"))
    return target, 0.0 if how == "alone" else random.uniform(0, 5), how


def _connections(random: Random, longest: float, *hows: str) -> tuple[str, float, str]:
    return random.choice((*WORKERS, *PROCESSES, EVERYBODY)), random.uniform(1, longest), random.choice(hows)


DRAWS: dict[Kind, tuple[int, Draw]] = {
    Kind.KILL: (5, _kill),
    # Beyond the 15 s after which a process counts as dead, too.
    Kind.STOP: (4, lambda random: _process(random, 1, 20)),
    Kind.TERM: (2, lambda random: _process(random, 0, 3)),
    Kind.CUT: (3, lambda random: (random.choice((*WORKERS, EVERYBODY)), 0.0, "")),
    Kind.SLOW: (1, lambda random: _connections(random, 8, "100 ms", "400 ms")),
    Kind.HOLE: (3, lambda random: _connections(random, 20, "then goes on", "then is cut")),
    Kind.REDIS_KILL: (2, lambda random: (REDIS, random.uniform(0, 5), "")),
    Kind.REDIS_LOSS: (1, lambda random: (REDIS, random.uniform(0, 5), "")),
    Kind.SCRIPT_FLUSH: (1, lambda _: (REDIS, 0.0, "")),
    Kind.USERS: (4, lambda random: ("users", 0.0, random.choice(("disable", "enable", "move", "move")))),
    Kind.EDIT: (1, lambda random: ("edited", 0.0, random.choice(("1", "2")))),
    Kind.PAUSE: (2, lambda random: (random.choice(("bulk", "spread", "zoned")), random.uniform(1, 8), "")),
    Kind.OUTAGE: (
        2,
        lambda random: (ENDPOINT, random.uniform(1, 5), random.choice(("503", "refuse", "hang"))),
    ),
}


def make_schedule(
    seed: int, *, seconds: float, every_kind_once: bool = False, without: Collection[Kind] = ()
) -> list[Fault]:
    """The faults of a round, by when they come; in a short one each kind comes once, and is soon over."""
    random = Random(seed)
    kinds = [kind for kind in DRAWS if kind not in without]
    if every_kind_once:
        random.shuffle(kinds)
    else:
        weights = [DRAWS[kind][0] for kind in kinds]
        kinds = random.choices(kinds, weights, k=round(seconds / APART_S))
    longest = seconds / 4
    faults: list[Fault] = []
    for number, kind in enumerate(kinds, start=1):
        for _ in range(ATTEMPTS):
            target, lasts, how = DRAWS[kind][1](random)
            lasts = min(lasts, longest)
            fault = Fault(number, kind, target, random.uniform(0, seconds - lasts), lasts, how)
            if not _collides(fault, faults):
                faults.append(fault)
                break
    return sorted(faults, key=lambda fault: fault.at_s)


def _collides(fault: Fault, others: Sequence[Fault]) -> bool:
    """Whether what it would befall is under a fault of the same family, or about to be."""
    return any(
        _is_same(other.target, fault.target)
        and other.at_s < fault.at_s + fault.lasts_s + 1
        and fault.at_s < other.at_s + other.lasts_s + 1
        for other in others
        if (other.kind in OF_NETWORK) == (fault.kind in OF_NETWORK)
    )


def _is_same(target: str, other: str) -> bool:
    return target == other or EVERYBODY in (target, other)


OF_NETWORK = frozenset({Kind.CUT, Kind.SLOW, Kind.HOLE})
