"""`tq limits`, `tq tasks limit|pause|resume`: how fast calls are made, why, and what operators order about it."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tq.cli.app import app, open_runtime
from tq.cli.arguments import rate_of, task_id_of
from tq.cli.orders import PauseLength, PauseReason, PauseUntil, operator, pause_written
from tq.cli.output import AsJson, print_json, print_table, say, shown
from tq.cli.tasks import TaskArgument, limit_shown, pause_document, rate_document, tasks
from tq.errors import InvalidDefinition, InvalidInput, TaskNotFound
from tq.limits import EVERY_TASK, Limit, limit_everything, limit_of
from tq.models import RateBand, Strategy, TaskType, format_rate

if TYPE_CHECKING:
    from tq.runtime import Runtime
    from tq.store.limits import Standing
    from tq.store.orders import Pause, RateOrder

ALL_TASKS = "all tasks"  # for people; it has a blank, so no task can be called so

Pin = Annotated[
    bool,
    typer.Option("--pin", help="Hold the rate exactly; else it is a ceiling, or the middle one of three."),
]
Reset = Annotated[bool, typer.Option("--reset", help="Go back to what is configured.")]
TaskOrNone = Annotated[
    str | None, typer.Argument(metavar="TASK", help="The id of a task type; left out with --all.")
]
All = Annotated[bool, typer.Option("--all", help="All tasks, those that are yet to come included.")]


@dataclass(frozen=True)
class _Scope:
    """A task, or all tasks together, and what is configured for it."""

    id: str
    rate: float | RateBand | None
    limit: Limit
    is_declared: bool = True

    @property
    def name(self) -> str:
        """The name for people."""
        return ALL_TASKS if self.id == EVERY_TASK else self.id

    @property
    def configured(self) -> str | None:
        """The configured limit for people; None if that of all tasks together is the only one."""
        return limit_shown(self.rate, self.limit.concurrency) if self.is_declared else "not declared here"


@dataclass(frozen=True)
class _Row:
    """How a scope stands within the whole."""

    scope: _Scope
    order: "RateOrder | None"
    pause: "Pause | None"
    standing: "Standing"
    whole: "Standing"

    @property
    def ceiling(self) -> float:
        """The highest rate that there may be."""
        return self.standing.ceiling_within(self.whole)

    @property
    def effective(self) -> float:
        """The rate at which calls may begin now."""
        return self.standing.effective_within(self.whole)

    @property
    def why(self) -> str:
        """Why the rate is as it is."""
        return self.standing.why_within(self.whole)

    @property
    def document(self) -> dict[str, Any]:
        """The row for programs; rates are calls per second."""
        order = self.order
        return {
            "scope": self.scope.id,
            "declared": self.scope.is_declared,
            "configured": rate_document(self.scope.rate),
            "concurrency": self.scope.limit.concurrency or None,
            "strategy": self.standing.strategy,
            "ordered": order and {"rate": order.rate, "pinned": order.pinned, "by": order.by, "at": order.at},
            "paused": pause_document(self.pause),
            "ceiling": self.ceiling,
            "effective": self.effective,
            "state": self.standing.state,
            "why": self.why,
            "until": self.standing.until_within(self.whole),
            "in_use": self.standing.in_use,
            "waiting": self.standing.waiting,
            "pace": self.standing.pace,
            "error_rate": self.standing.error_rate,
        }

    @property
    def cells(self) -> tuple[object, ...]:
        """The row for people."""
        until = self.standing.until_within(self.whole)
        return (
            self.scope.name,
            self.scope.configured,
            self.order and _order_shown(self.order),
            format_rate(self.effective) if self.effective else "none",
            self.standing.in_use,
            self.standing.waiting,
            f"{self.standing.error_rate:.1%}",
            f"{self.why} until {shown(until)}" if until else self.why,
        )


@app.command("limits")
def show_limits(
    rate: Annotated[
        str | None,
        typer.Option("--set", metavar="RATE", help="The rate of all tasks together, such as 200/s or 30/m."),
    ] = None,
    pin: Pin = False,
    reset: Reset = False,
    as_json: AsJson = False,
) -> None:
    """Show how fast calls are made, and why; or change the rate of all tasks together."""
    _check_one_order(rate, pin=pin, reset=reset, option="--set")
    with closing(open_runtime()) as runtime:
        if rate is not None or reset:
            _order_rate(runtime, _everything(runtime), rate, pin=pin, option="--set", as_json=as_json)
            return
        rows = _rows(runtime, _all_scopes(runtime))
    if as_json:
        print_json({"everything": rows[0].document, "tasks": [row.document for row in rows[1:]]})
    else:
        _print(rows)


@tasks.command("limit")
def limit_task(
    task_id: TaskArgument,
    rate: Annotated[
        str | None, typer.Argument(metavar="RATE", help="Such as 50/s, 30/m or 0.5/s; left out to look.")
    ] = None,
    pin: Pin = False,
    reset: Reset = False,
    as_json: AsJson = False,
) -> None:
    """Show or change the rate of one task, for all processes at once, until it is reset."""
    _check_one_order(rate, pin=pin, reset=reset, option="RATE")
    with closing(open_runtime()) as runtime:
        scope = _scope_of(runtime, task_id)
        if rate is not None or reset:
            _order_rate(runtime, scope, rate, pin=pin, option="RATE", as_json=as_json)
            return
        row = _rows(runtime, [scope])[1]
    if as_json:
        print_json(row.document)
    else:
        _print([row])


@tasks.command("pause")
def pause_tasks(
    task_id: TaskOrNone = None,
    everything: All = False,
    reason: PauseReason = "",
    until: PauseUntil = None,
    length: PauseLength = None,
    as_json: AsJson = False,
) -> None:
    """Begin no more calls of a task, or of all: what falls due meanwhile is skipped, and runs wait."""
    written = pause_written(reason, until, length)
    with closing(open_runtime()) as runtime:
        scope = _task_or_all(runtime, task_id, everything)
        orders = runtime.store.orders
        orders.pause(scope.id, reason=written.reason, by=operator(), until=written.until(runtime.store))
        pause = orders.pauses().get(scope.id)
    if as_json:
        print_json({"scope": scope.id, "paused": pause_document(pause)})
    else:
        say(f"{scope.name}: {pause}")


@tasks.command("resume")
def resume_tasks(task_id: TaskOrNone = None, everything: All = False, as_json: AsJson = False) -> None:
    """End a pause; runs that have waited go on at their rate."""
    with closing(open_runtime()) as runtime:
        scope = _task_or_all(runtime, task_id, everything)
        resumed = runtime.store.orders.resume(scope.id)
        whole = runtime.store.orders.pauses().get(EVERY_TASK)
    if as_json:
        print_json({"scope": scope.id, "resumed": resumed})
        return
    say(f"{scope.name}: {'resumed' if resumed else 'not paused, and nothing was changed'}")
    if whole is not None:
        say(f"{ALL_TASKS}: still {whole}; end that with tq tasks resume --all")


def _check_one_order(rate: str | None, *, pin: bool, reset: bool, option: str) -> None:
    if rate is not None and reset:
        raise InvalidInput(f"--reset goes back to what is configured, and {option} orders a rate; say one")
    if pin and rate is None:
        raise InvalidInput(f"--pin says how a rate is held; give it with {option}, such as 50/s")


def _order_rate(
    runtime: "Runtime", scope: _Scope, rate: str | None, *, pin: bool, option: str, as_json: bool
) -> None:
    """Orders a rate, or without one withdraws the order there is, and tells what holds then."""
    orders = runtime.store.orders
    if rate is None:
        changed = orders.reset_rate(scope.id)
    else:
        orders.set_rate(scope.id, rate_of(option, rate), pinned=pin, by=operator())
    row = _rows(runtime, [])[0] if scope.id == EVERY_TASK else _rows(runtime, [scope])[1]
    if as_json:
        print_json(row.document)
    elif row.order is None:
        told = "" if changed else "no rate was ordered; it has "
        say(
            f"{scope.name}: {told}what is configured, {scope.configured or f'no limit but that of {ALL_TASKS}'}"
        )
    else:
        way_back = "limits --reset" if scope.id == EVERY_TASK else f"tasks limit {scope.id} --reset"
        say(f"{scope.name}: {_meaning(row.order, scope.limit)}, until tq {way_back}")
        if row.order.rate > row.whole.ceiling:
            say(f"{ALL_TASKS}: at most {format_rate(row.whole.ceiling)} together; see tq limits")


def _meaning(order: "RateOrder", limit: Limit) -> str:
    rate = order.rate
    if order.pinned:
        return f"exactly {format_rate(rate)}"
    if limit.strategy is Strategy.STEPPED:
        return f"{format_rate(rate)}, {format_rate(rate / 2)} in trouble, {format_rate(rate * 2)} when all is well"
    return f"at most {format_rate(rate)}"


def _order_shown(order: "RateOrder") -> str:
    return f"{format_rate(order.rate)}{' pinned' if order.pinned else ''} by {order.by}"


def _everything(runtime: "Runtime") -> _Scope:
    return _Scope(EVERY_TASK, runtime.settings.rate_limit, limit_everything(runtime.settings))


def _declared(runtime: "Runtime", task: TaskType) -> _Scope:
    return _Scope(task.id, task.rate_limit, limit_of(task, runtime.settings))


def _not_declared(runtime: "Runtime", task_id: str) -> _Scope:
    return _Scope(task_id, None, limit_everything(runtime.settings), is_declared=False)


def _task_or_all(runtime: "Runtime", task_id: str | None, everything: bool) -> _Scope:
    if (task_id is not None) == everything:
        raise InvalidInput("name a task, or say --all for all tasks; one of the two")
    return _everything(runtime) if task_id is None else _scope_of(runtime, task_id)


def _scope_of(runtime: "Runtime", written: str) -> _Scope:
    """The task of that id, if it is declared here, or in force, or something is ordered for it.

    Raises:
        TaskNotFound: if it is none of these.
    """
    task_id = task_id_of(written)
    try:
        return _declared(runtime, runtime.registry.current.get(task_id))
    except (TaskNotFound, InvalidDefinition):
        # An order must be possible where the tasks file is not, or cannot be read.
        orders = runtime.store.orders.in_force()
        if not any(task_id in known for known in (runtime.store.planning.definitions(), *orders)):
            raise
        return _not_declared(runtime, task_id)


def _all_scopes(runtime: "Runtime") -> list[_Scope]:
    declared = runtime.registry.current.tasks
    ordered = {scope for orders in runtime.store.orders.in_force() for scope in orders}
    others = sorted(ordered - {EVERY_TASK, *declared})
    return [
        *(_declared(runtime, task) for task in declared.values()),
        *(_not_declared(runtime, task_id) for task_id in others),
    ]


def _rows(runtime: "Runtime", scopes: Sequence[_Scope]) -> list[_Row]:
    """How all tasks together stand, and then each of these."""
    everything = _everything(runtime)
    found = [everything, *scopes]
    standings = runtime.store.limits.standings({scope.id: scope.limit for scope in found})
    rates, pauses = runtime.store.orders.in_force()
    whole = standings[EVERY_TASK]

    return [
        _Row(scope, rates.get(scope.id), pauses.get(scope.id), standings[scope.id], whole) for scope in found
    ]


def _print(rows: Iterable[_Row]) -> None:
    print_table(
        ("task", "configured", "ordered", "effective", "in use", "waiting", "errors", "why"),
        [row.cells for row in rows],
    )
