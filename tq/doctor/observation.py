"""What can be seen of the system from here, without changing anything."""

from dataclasses import dataclass

from tq.errors import InvalidDefinition
from tq.limits import EVERY_TASK, Limit, limit_everything, limit_of
from tq.runtime import Runtime
from tq.settings import without_password
from tq.store.heartbeats import ClockComparison
from tq.store.limits import Standing
from tq.store.vitals import Server, Signs


@dataclass(frozen=True, slots=True)
class Definitions:
    """A set of task definitions: how many, when they were edited (ms), and by what they are known."""

    tasks: int
    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What is configured for a task, or for all together, and how it stands."""

    limit: Limit
    standing: Standing


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is judged. `declared` is the reason instead, where definitions cannot be read here."""

    address: str
    here: ClockComparison
    server: Server
    signs: Signs
    scopes: tuple[Scope, ...]
    declared: Definitions | str
    published: Definitions


def observe(runtime: Runtime) -> Observation:
    """What can be seen now.

    Raises:
        StoreError: if Redis cannot be reached, or refuses what everything else needs, too.
    """
    store = runtime.store
    look = store.planning.look(limit=0)
    limits = {EVERY_TASK: limit_everything(runtime.settings)}
    declared: Definitions | str
    try:
        registry = runtime.registry.current
    except InvalidDefinition as error:
        declared = str(error)
    else:
        limits |= {task.id: limit_of(task, runtime.settings) for task in registry.tasks.values()}
        # A process that has run for long goes on with what it could read last.
        declared = runtime.registry.problem or Definitions(
            len(registry.tasks), registry.modified_ms, registry.fingerprint
        )
    standings = store.limits.standings(limits)
    return Observation(
        address=without_password(runtime.settings.redis_url),
        here=store.heartbeats.compare_clocks(),
        server=store.vitals.server(),
        signs=store.vitals.signs(),
        scopes=tuple(Scope(limit, standings[scope]) for scope, limit in limits.items()),
        declared=declared,
        published=Definitions(len(store.planning.definitions()), look.version, look.fingerprint),
    )
