"""`tq trigger`, `tq runs`, `tq results`: what was started, where it stands, and what became of it."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live

from tq.cli.app import app, open_runtime
from tq.cli.arguments import duration_of, task_id_of, user_id_of
from tq.cli.output import (
    AsJson,
    note,
    print_json,
    print_json_line,
    print_table,
    say,
    shown,
    table_of,
    terminal,
)
from tq.errors import InvalidInput, StoreUnavailable
from tq.models import JobResult, Run, RunId, RunKind, RunStatus, Share, format_duration
from tq.models.runs import EVERYBODY, NAMED
from tq.slots import PLACES

if TYPE_CHECKING:
    from tq.forecast import Forecast
    from tq.runtime import Runtime

LOOK_EVERY = timedelta(milliseconds=500)
LEAST_LOOK = timedelta(milliseconds=100)  # each look is a request to Redis, which others need too
STATES = ("success", "failed", "expired", "cancelled", "skipped")

runs = typer.Typer(help="Runs: a task carried out for everybody, and its ledger.", no_args_is_help=True)
app.add_typer(runs, name="runs")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run; see tq runs list.")]


@app.command("trigger")
def trigger(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The id of a task type.")],
    user: Annotated[
        list[str] | None, typer.Option(help="Only this user; give it several times for several users.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="A key of your own: the same key starts a run only once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run of a task now, for everybody who has it enabled."""
    from tq.pipeline import forecast, start_run

    task_id = task_id_of(task)
    user_ids = list(dict.fromkeys(user_id_of(name) for name in user)) if user else None
    with closing(open_runtime()) as runtime:
        run = start_run(runtime, task_id, user_ids=user_ids, request_key=key)
        if wait:
            run = _follow(runtime, run.id, LOOK_EVERY, lambda run, expected: note(_sentence(run, expected)))
        expected = forecast(runtime, run)
    if as_json:
        print_json(_document(run, expected))
    elif wait:
        _show_for_people(run, expected, still_open=())
    else:
        waits = f", but waits: {expected.held}" if expected and expected.held else ""
        say(
            f"run {run.id}, started at {shown(run.claimed_at)}, is {run.status}{waits}; see tq runs watch {run.id}"
        )
    if wait:
        _end_by(run)


@runs.command("list")
def list_runs(
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many runs at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the latest runs, newest first."""
    from tq.pipeline import forecast

    task_id = None if task is None else task_id_of(task)
    with closing(open_runtime()) as runtime:
        found = runtime.store.runs.latest(task_id=task_id, limit=limit)
        if task_id is not None and not found:
            _check_task(runtime, task_id)
        forecasts = {
            run.id: forecast(runtime, runtime.store.runs.get(run.id))
            for run in found
            if run.status is RunStatus.RUNNING
        }
    if as_json:
        print_json([_outline(run, forecasts.get(run.id)) for run in found])
        return
    print_table(
        ("run", "kind", "status", "due", "expected", "success", "failed", "open", "unaccounted", "end"),
        [
            (
                run.id,
                run.kind.value,
                _status(run),
                run.nominal_at,
                run.counts.expected,
                run.counts.success,
                run.counts.failed,
                run.counts.open,
                run.counts.unaccounted,
                end_told(expected) if (expected := forecasts.get(run.id)) else run.ended_at,
            )
            for run in found
        ],
    )


@runs.command("show")
def show_run(
    run: RunArgument,
    most_open: Annotated[
        int, typer.Option("--open", min=0, help="How many of the users to name whose jobs are open.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show one run: its ledger, how far each share of it has come, and whose jobs are open."""
    from tq.pipeline import forecast

    with closing(open_runtime()) as runtime:
        found = runtime.store.runs.get(RunId(run))
        expected = forecast(runtime, found)
        still_open = sorted(islice(runtime.store.runs.open_users(found.id), most_open))
    if as_json:
        print_json({**_document(found, expected), "open_users": still_open})
    else:
        _show_for_people(found, expected, still_open)


@runs.command("watch")
def watch_run(
    run: RunArgument,
    interval: Annotated[str, typer.Option(help="How often to look: 500ms, 2s.")] = "500ms",
    as_json: AsJson = False,
) -> None:
    """Follow a run until it has ended."""
    every = duration_of("--interval", interval, least=LEAST_LOOK)
    with closing(open_runtime()) as runtime:
        if as_json:
            ended = _follow(
                runtime, RunId(run), every, lambda run, expected: print_json_line(_document(run, expected))
            )
        elif (console := terminal()) is not None:
            with Live(console=console, auto_refresh=False) as picture:
                ended = _follow(
                    runtime,
                    RunId(run),
                    every,
                    lambda run, expected: picture.update(_picture(run, expected), refresh=True),
                )
        else:
            ended = _follow(runtime, RunId(run), every, lambda run, expected: say(_sentence(run, expected)))
    _end_by(ended)


@runs.command("cancel")
def cancel(
    run: RunArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; shown with the run.")] = "",
    as_json: AsJson = False,
) -> None:
    """Have no further call of a run begin; what has not ended ends as cancelled."""
    from tq.pipeline import cancel_run

    with closing(open_runtime()) as runtime:
        cancelled = cancel_run(runtime, RunId(run), reason=reason)
    if as_json:
        print_json(_document(cancelled, None))
    else:
        say(f"{cancelled.id} is cancelled; calls under way end, what else is open ends as cancelled")


@app.command("results")
def show_results(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The id of a task type.")],
    user: Annotated[
        str | None, typer.Argument(metavar="USER", help="Whose results; left out with --failures.")
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="The latest failures of the task instead, whosever they are.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what became of a user's last jobs, or the latest failures of a task."""
    task_id = task_id_of(task)
    if failures == (user is not None):
        raise InvalidInput("name a user, or say --failures for those of everybody; one of the two")
    with closing(open_runtime()) as runtime:
        if user is None:
            found = list(runtime.store.results.failures(task_id, limit=limit))
        else:
            user_id = user_id_of(user)
            found = runtime.store.results.of(task_id, user_id)[:limit]
        if not found:
            _check_task(runtime, task_id)
            if user is not None:
                runtime.store.preferences.get(user_id)
    if as_json:
        print_json([result.model_dump(exclude_none=True) for result in found])
    elif not found:
        say(f"no {'failures' if failures else 'results'} of {task_id} are kept")
    else:
        print_table(
            ("ended", "user", "status", "code", "http", "attempts", "took", "message"),
            [_result_row(result) for result in found],
        )


def _follow(
    runtime: "Runtime",
    run_id: RunId,
    every: timedelta,
    on_change: Callable[[Run, "Forecast | None"], object],
) -> Run:
    """Hands over the run as it stands, now and whenever its numbers have changed; returns it as it ended.

    Raises:
        RunNotFound: if there is none of that id.
    """
    from tq.pipeline import forecast

    run = runtime.store.runs.get(run_id)
    expected = forecast(runtime, run)
    on_change(run, expected)
    while run.status is RunStatus.RUNNING:
        time.sleep(every.total_seconds())
        before, held = run, expected and expected.held
        run, expected = _patiently(runtime, run_id)
        if (run.status, run.counts, expected and expected.held) != (before.status, before.counts, held):
            on_change(run, expected)
    return run


def _patiently(runtime: "Runtime", run_id: RunId) -> tuple[Run, "Forecast | None"]:
    """The run, and what is expected of it, as soon as Redis can tell; a run does not end because Redis is away."""
    from tq.pipeline import forecast

    told = False
    while True:
        try:
            run = runtime.store.runs.get(run_id)
            return run, forecast(runtime, run)
        except StoreUnavailable as error:
            if not told:
                note(f"{error}; waiting")
            told = True
            time.sleep(LOOK_EVERY.total_seconds())


def _end_by(run: Run) -> None:
    """Ends the command by whether everybody is accounted for."""
    if run.counts.unaccounted or run.counts.open:
        raise typer.Exit(1)


def _check_task(runtime: "Runtime", task_id: str) -> None:
    """Sees whether a task of which nothing is kept is known at all.

    Raises:
        TaskNotFound: if it is neither in force nor declared here.
    """
    if task_id not in runtime.store.planning.definitions():
        runtime.registry.current.get(task_id)


def _outline(run: Run, expected: "Forecast | None") -> dict[str, Any]:
    counts = run.counts
    return {
        "run_id": run.id,
        "task_id": run.task_id,
        "kind": run.kind,
        "status": run.status,
        "reason": run.reason,
        "nominal_at": run.nominal_at,
        "claimed_at": run.claimed_at,
        "deadline_at": run.deadline_at,
        "ended_at": run.ended_at,
        "expected_end_at": expected.ends_at if expected else None,
        "held": expected.held or None if expected else None,
        "expected": counts.expected,
        **{state: getattr(counts, state) for state in STATES},
        "skipped_by_reason": counts.skipped_by_reason,
        "open": counts.open,
        "waiting": counts.waiting,
        "unaccounted": counts.unaccounted,
        "retries": counts.retries,
    }


def _document(run: Run, expected: "Forecast | None") -> dict[str, Any]:
    return {
        **_outline(run, expected),
        "fanned_out": run.fanned_out,
        "shares": [
            {
                "cohort": share.cohort,
                "start_at": share.start_at,
                "spread": share.spread,
                "deadline_at": share.deadline_at,
                "first": share.first,
                "begins_at_percent": _percent_of(share.first),
                "cursor": share.cursor,
                "reached_percent": _percent(share),
                "cut_at_percent": None if share.unreached is None else _percent_of(share.unreached),
                "done": share.done,
            }
            for share in run.shares
        ],
    }


def _percent(share: Share) -> float:
    return 100.0 if share.done else _percent_of(share.cursor + 1)


def _percent_of(places: int) -> float:
    return round(places / PLACES * 100, 1)


def _order_told(run: Run) -> list[str]:
    """Of the shares that were cut, or begin where others were: where in their order."""
    told = []
    for share in run.shares:
        if share.first:
            at = f"{_percent_of(share.first):g} % of the usual order"
            told.append(f"{_who(share)}: begun at {at}, with those whom the run before did not reach")
        if share.unreached is not None:
            then = ", where the next run begins" if run.kind is RunKind.SCHEDULE else ""
            at = f"{_percent_of(share.unreached):g} % of this run's order"
            told.append(f"{_who(share)}: cut at {at}{then}")
    return told


def _who(share: Share) -> str:
    if share.cohort == NAMED:
        return "users who were named"
    if share.cohort == EVERYBODY:
        return "everybody"
    zone, _, interval = share.cohort.partition("|")
    where = "in all time zones" if zone == "*" else f"in {zone}"
    return f"users {where}" if interval == "default" else f"users {where} with {interval}"


def _status(run: Run) -> str:
    status = run.status.value
    if run.cancelled_at and run.status is RunStatus.RUNNING:
        status = "being cancelled"
    return f"{status} ({run.reason})" if run.reason else status


def end_told(expected: "Forecast") -> str:
    """When a run that has not ended is expected to, or what holds it."""
    if expected.ends_at is None:
        return f"held: {expected.held}"
    late = "" if expected.in_time else ", at its deadline, before everybody is served"
    then = "; the next run begins with those who are left" if expected.next_goes_on else ""
    return f"expected end {shown(expected.ends_at)}{late}{then}"


def _sentence(run: Run, expected: "Forecast | None") -> str:
    counts = run.counts
    told = [f"{shown(getattr(counts, state))} {state}" for state in STATES if getattr(counts, state)]
    told += [f"{shown(counts.open)} open"] if counts.open else []
    told += [f"{shown(counts.retries)} retries"] if counts.retries else []
    told += [f"{shown(counts.unaccounted)} UNACCOUNTED"] if counts.unaccounted else []
    end = f"; {end_told(expected)}" if expected else ""
    return (
        f"{run.id}: {run.status.value}, {shown(counts.expected)} expected: "
        f"{', '.join(told) or 'none ended'}{end}"
    )


def _picture(run: Run, expected: "Forecast | None") -> Group:
    return Group(table_of(*_ledger(run)), f"\n{end_told(expected)}" if expected else "")


def _ledger(run: Run) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """The heads and rows of a table of the counts, which add up."""
    counts = run.counts
    rows: list[tuple[object, ...]] = [("expected", counts.expected)]
    for state in STATES:
        rows.append((state, getattr(counts, state)))
        if state == "skipped":
            rows += [(f"  {reason}", count) for reason, count in sorted(counts.skipped_by_reason.items())]
    rows += [("open", counts.open)]
    rows += [("  waiting for a retry", counts.waiting)] if counts.waiting else []
    rows += [("unaccounted", counts.unaccounted), ("retries", counts.retries)]
    return (run.id, _status(run)), rows


def _show_for_people(run: Run, expected: "Forecast | None", still_open: Sequence[str]) -> None:
    counts = run.counts
    print_table(
        ("", ""),
        [
            ("run", run.id),
            ("task", run.task_id),
            ("kind", run.kind.value),
            ("status", _status(run)),
            ("due", shown(run.nominal_at)),
            ("claimed", shown(run.claimed_at)),
            ("deadline", shown(run.deadline_at)),
            ("ended", end_told(expected) if expected else shown(run.ended_at)),
        ],
    )
    say("")
    print_table(*_ledger(run))
    sum_of = " + ".join(shown(n) for n in (*(getattr(counts, state) for state in STATES), counts.open))
    holds = "everybody is accounted for" if not counts.unaccounted else "NOT everybody is accounted for"
    say(f"\n{shown(counts.expected)} expected, {sum_of} = {shown(counts.ended + counts.open)}: {holds}")
    if still_open:
        more = counts.open - len(still_open)
        and_more = f", and {shown(more)} more (--open names them)" if more > 0 else ""
        say(f"open: {', '.join(still_open)}{and_more}")
    if run.shares:
        say("")
        print_table(
            ("share", "starts", "spread over", "deadline", "fanned out"),
            [
                (
                    _who(share),
                    share.start_at,
                    format_duration(share.spread),
                    share.deadline_at,
                    f"{_percent(share):g} %",
                )
                for share in run.shares
            ],
        )
    if told := _order_told(run):
        say("\n" + "\n".join(told))


def _result_row(result: JobResult) -> tuple[object, ...]:
    error = result.error
    return (
        result.ended_at,
        result.user_id,
        result.status.value,
        error.code if error else result.reason,
        None if result.http_status is None else str(result.http_status),
        result.attempts,
        format_duration(result.duration),
        error.message if error else None,
    )
