"""`tq debug threads|heap|profile`: what processes of this host do, keep, and spend their CPU time on.

A process that answers shows its port in Redis, and answers on loopback only; so it is asked from the host
that it runs on.
"""

import http.client
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

import orjson
import typer

from tq.cli.app import app, open_runtime
from tq.cli.output import AsJson, note, print_json, print_table, say
from tq.errors import DebuggingUnavailable, InvalidInput, ProcessNotFound

if TYPE_CHECKING:
    from tq.runtime import Runtime
    from tq.store.heartbeats import Process

EVERY = "all"
HOST = "127.0.0.1"
PATIENCE_S = 30.0  # for an answer, beside the time that a profile is to take
HOTTEST = 5
IDLE = 0.01  # of a core
ENDINGS = {"svg": "svg", "speedscope": "speedscope.json", "collapsed": "txt"}

debug = typer.Typer(
    no_args_is_help=True, help="See what processes of this host do, as TQ_DEBUG_ENDPOINTS allows."
)
app.add_typer(debug, name="debug")

ProcessArgument = Annotated[
    str, typer.Argument(metavar="PID|all", help="The id of a process of this host, as it is shown, or all.")
]


@dataclass(frozen=True)
class _Told:
    """What a process has answered, or why it has not."""

    process: "Process"
    body: bytes = b""
    failure: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The answer for programs."""
        who = {"component": self.process.component, "pid": self.process.pid}
        return {**who, "error": self.failure} if self.failure else {**who, **orjson.loads(self.body)}


@debug.command("threads")
def show_threads(which: ProcessArgument, as_json: AsJson = False) -> None:
    """Show every thread: its CPU time so far, and where it is now."""
    _show(_ask(which, "threads", {"format": "json" if as_json else "text"}), as_json=as_json)


@debug.command("heap")
def show_heap(
    which: ProcessArgument,
    start: Annotated[
        bool,
        typer.Option(
            "--start", help="Begin to trace what is allocated where; makes processes several times slower."
        ),
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End tracing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show memory and objects by type; while allocations are traced, also the places that keep most."""
    asked = {
        "format": "json" if as_json else "text",
        "start": str(start).lower(),
        "stop": str(stop).lower(),
    }
    _show(_ask(which, "heap", asked), as_json=as_json)


@debug.command("profile")
def make_profiles(
    which: ProcessArgument,
    seconds: Annotated[float, typer.Option(min=0.1, max=300, help="For how long.")] = 30,
    form: Annotated[
        Literal["svg", "speedscope", "collapsed"],
        typer.Option("--format", help="A flame graph, JSON for speedscope.app, or a line per stack."),
    ] = "svg",
    hz: Annotated[int, typer.Option(min=1, max=1000, help="How often a second threads are looked at.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="Where to write; by default a new file here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out where the CPU time goes, and write that to a file for each process."""
    _check_output(output, which)
    # As this command writes it and knows the figures, too, whatever the file is to be.
    asked = {"format": "speedscope", "seconds": f"{seconds:g}", "hz": str(hz)}
    answers = _ask(which, "profile", asked, patience_s=seconds + PATIENCE_S)
    at = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    documents = [
        told.document
        if told.failure
        else _written(told, form, _path_for(told.process, output, which, form, at))
        for told in answers
    ]
    if as_json:
        print_json(documents)
    else:
        _print_profiles(documents, seconds)
    _complain(answers, quietly=as_json)


def _ask(which: str, page: str, parameters: dict[str, str], *, patience_s: float = PATIENCE_S) -> list[_Told]:
    """What the processes that are meant answer, all at once.

    Raises:
        ProcessNotFound: if there is none of them here.
        DebuggingUnavailable: if one was named that does not answer.
    """
    with closing(open_runtime()) as runtime:
        processes = _processes(runtime, which)

    def ask(process: "Process") -> _Told:
        query = urlencode({**parameters, "pid": process.pid})
        try:
            return _Told(process, _get(process, f"/debug/{page}?{query}", patience_s))
        except DebuggingUnavailable as error:
            return _Told(process, failure=str(error))

    with ThreadPoolExecutor(len(processes)) as pool:
        answers = list(pool.map(ask, processes))
    if which != EVERY and answers[0].failure:
        raise DebuggingUnavailable(answers[0].failure)
    return answers


def _processes(runtime: "Runtime", which: str) -> list["Process"]:
    """The processes that are meant, each as it showed itself last."""
    if which != EVERY and not (which.isascii() and which.isdigit()):
        raise InvalidInput(
            f"{which!r} is neither the id of a process nor all; tq debug threads all shows all of this host"
        )
    here = socket.gethostname()
    # In order of when they were seen: an id that is used again is the later one's.
    shown = {
        (process.host, process.pid): process
        for process in sorted(runtime.store.vitals.signs().processes, key=lambda process: process.seen_at)
    }
    ours = [process for process in shown.values() if process.host == here and _lives(process.pid)]
    meant = [process for process in ours if which in (EVERY, str(process.pid))]
    if meant:
        return sorted(meant, key=lambda process: (process.component, process.pid))
    elsewhere = [process for process in shown.values() if str(process.pid) == which and process.host != here]
    if elsewhere:
        hosts = ", ".join(sorted(process.host for process in elsewhere))
        raise ProcessNotFound(f"process {which} runs on {hosts}, and answers there only; this is {here}")
    known = (
        "there are " + ", ".join(f"{found.component} {found.pid}" for found in ours)
        if ours
        else "there is none"
    )
    what = "no process of TaskQueue" if which == EVERY else f"no process {which}"
    raise ProcessNotFound(f"{what} shows itself on {here}; {known}")


def _lives(pid: int) -> bool:
    """Whether there is such a process now; what is killed is shown for an hour."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _get(process: "Process", target: str, patience_s: float) -> bytes:
    if process.debug_port is None:
        raise DebuggingUnavailable(
            f"{process} does not answer; set TQ_DEBUG_ENDPOINTS=true for it and restart it"
        )
    # Not through a proxy, whatever the environment says.
    connection = http.client.HTTPConnection(HOST, process.debug_port, timeout=patience_s)
    with closing(connection):
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DebuggingUnavailable(
                f"{process} does not answer at port {process.debug_port} ({type(error).__name__}); "
                "it has ended, hangs in code that is not Python's, or runs in another container"
            ) from None
    if response.status == http.client.OK:
        return body
    try:
        told = str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        told = f"its port {process.debug_port} answers {response.status}, which is not TaskQueue's"
    if response.status == http.client.UNPROCESSABLE_ENTITY:
        raise InvalidInput(told)
    raise DebuggingUnavailable(f"{process}: {told}")


def _show(answers: Sequence[_Told], *, as_json: bool) -> None:
    if as_json:
        print_json([told.document for told in answers])
    else:
        for told in answers:
            if not told.failure:
                say(f"{told.process}\n")
                say(told.body.decode())
    _complain(answers, quietly=as_json)


def _complain(answers: Sequence[_Told], *, quietly: bool) -> None:
    """Tells who has not answered, and ends with 1 then."""
    failures = [told.failure for told in answers if told.failure]
    for failure in failures if not quietly else ():
        note(f"error: {failure}")
    if failures:
        raise typer.Exit(1)


def _check_output(output: Path | None, which: str) -> None:
    if output is None:
        return
    if which == EVERY and output.exists() and not output.is_dir():
        raise InvalidInput(f"--output: {str(output)!r} is a file; for all processes name a folder")
    if which != EVERY and not output.is_dir() and not output.parent.is_dir():
        raise InvalidInput(f"--output: there is no folder {str(output.parent)!r}")


def _path_for(process: "Process", output: Path | None, which: str, form: str, at: str) -> Path:
    name = f"{process.component}-{process.pid}-{at}.{ENDINGS[form]}"
    if output is None:
        return Path(name)
    return output / name if which == EVERY or output.is_dir() else output


def _written(told: _Told, form: str, path: Path) -> dict[str, Any]:
    """Writes a profile, and tells of it."""
    from tq.debugging import formats

    profile = formats.from_speedscope(told.body)
    writers: dict[str, Callable[[Any], bytes]] = {
        "svg": formats.flame_graph,
        "speedscope": formats.speedscope,
        "collapsed": formats.collapsed,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(writers[form](profile))
    except OSError as error:
        raise InvalidInput(f"--output: {str(path)!r} cannot be written: {error.strerror}") from None
    whole = max(profile.total, 1)
    return {
        "component": told.process.component,
        "pid": told.process.pid,
        "path": str(path),
        "profile": profile.name,
        "cpu_seconds": profile.total / 1e9,
        "hottest": [
            {**place._asdict(), "seconds": weight / 1e9, "share": weight / whole}
            for place, weight in profile.hottest(HOTTEST)
        ],
    }


def _print_profiles(documents: Sequence[dict[str, Any]], lasted_s: float) -> None:
    for document in documents:
        if "error" in document:
            continue
        say(f"{document['component']} {document['profile']}")
        say(f"written to {document['path']}")
        rows = list(_rows(document["hottest"]))
        if rows:
            print_table(("share", "seconds", "function", "where"), rows)
        if document["cpu_seconds"] < IDLE * lasted_s:
            say("it was idle: these are shares of next to nothing")
        say("")


def _rows(hottest: Sequence[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for found in hottest:
        place = f"{found['file']}:{found['line']}"
        yield f"{found['share']:.1%}", f"{found['seconds']:.3f}", found["function"], place
