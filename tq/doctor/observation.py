"""What can be seen of the system from here: all of it, or what tells at a glance whether it works.

Nothing is changed by it; but who looks every second shows at the same time that he lives.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from tq.errors import InvalidDefinition, StoreRefused
from tq.limits import EVERY_TASK, Limit, limit_everything, limit_of
from tq.runtime import Runtime
from tq.settings import without_password
from tq.store import Store
from tq.store.heartbeats import ClockComparison, Presence
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
    """All that is judged.

    `declared` is the reason instead, where definitions cannot be read here, and `scopes` where the limiter's
    state cannot be read.
    """

    address: str
    here: ClockComparison
    server: Server
    signs: Signs
    scopes: tuple[Scope, ...] | str
    declared: Definitions | str
    published: Definitions


def observe(runtime: Runtime) -> Observation:
    """What can be seen now.

    Raises:
        StoreError: if Redis cannot be reached, or refuses what everything else needs, too.
    """
    store = runtime.store
    return Observation(
        address=without_password(runtime.settings.redis_url),
        here=store.heartbeats.compare_clocks(),
        server=store.vitals.server(),
        signs=store.vitals.signs(),
        scopes=_scopes(store, _limits(runtime)),
        declared=_declared(runtime),
        published=_published(store),
    )


def glance(runtime: Runtime, store: Store, presence: Presence) -> Observation:
    """What tells whether the system works, in a handful of short answers: of limits only those of all tasks together.

    That Redis takes what is written is seen from its taking that this process lives.

    Raises:
        StoreError: as `observe`.
    """
    here = presence.show()
    with suppress(InvalidDefinition):
        runtime.registry.refresh()
    return Observation(
        address=without_password(runtime.settings.redis_url),
        here=here,
        server=Server(),
        signs=store.vitals.signs(),
        scopes=_scopes(store, {EVERY_TASK: limit_everything(runtime.settings)}),
        declared=_declared(runtime),
        published=_published(store),
    )


def _declared(runtime: Runtime) -> Definitions | str:
    try:
        registry = runtime.registry.current
    except InvalidDefinition as error:
        return str(error)
    # A process that has run for long goes on with what it could read last.
    return runtime.registry.problem or Definitions(
        len(registry.tasks), registry.modified_ms, registry.fingerprint
    )


def _published(store: Store) -> Definitions:
    look = store.planning.look(limit=0)
    return Definitions(len(store.planning.definitions()), look.version, look.fingerprint)


def _limits(runtime: Runtime) -> dict[str, Limit]:
    limits = {EVERY_TASK: limit_everything(runtime.settings)}
    with suppress(InvalidDefinition):
        declared = runtime.registry.current.tasks.values()
        limits |= {task.id: limit_of(task, runtime.settings) for task in declared}
    return limits


def _scopes(store: Store, limits: Mapping[str, Limit]) -> tuple[Scope, ...] | str:
    try:
        standings = store.limits.standings(limits)
    except StoreRefused as error:
        return str(error)
    return tuple(Scope(limit, standings[scope]) for scope, limit in limits.items())
