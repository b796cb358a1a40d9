"""Whether traces are made, and what the parts of the system tell them.

They are made where the standard variables name somebody who takes them, and nowhere else: then not even
OpenTelemetry's packages are loaded, and what stands here does nothing.

One job's way goes through several traces, for one of a hundred thousand spans would be of no use to anyone:
a run's distribution sends batches, and what is done about each job is a trace of its own that links to the
send. So each can be sampled by itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import httpx
from dotenv import dotenv_values
from loguru import logger

from tq.models import Batch, Envelope, ExecutionResult, Job
from tq.settings import Settings

# The options of a message that name the recorded span that has sent it, and say that its work is part of
# the same trace. Work that may be much, or goes on for long, is a trace of its own that links there.
TRACEPARENT = "traceparent"
SAME_TRACE = "same_trace"

# A process that ends has so long for its last spans, whoever takes them.
LAST_DELIVERY_S = 2.0
OFF = ("", "none")


class Work(Protocol):
    """What is under way in this thread, as a span."""

    @property
    def is_recorded(self) -> bool:
        """Whether anybody will see it."""
        ...

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Notes what has become known of it."""
        ...

    def learn(self, result: ExecutionResult) -> None:
        """Notes how the attempt came out."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""
        ...


class Traces(Protocol):
    """What the system tells of its work. A traceparent is the text that names a recorded span, or ''."""

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to tell."""
        ...

    @property
    def traceparent(self) -> str:
        """The recorded span in which this thread is."""
        ...

    def begin_step(self, name: str, *, cause: str = "", same_trace: bool = False) -> Work:
        """A step of the system's own begins, in the trace of what caused it, or linked to it."""
        ...

    def begin_send(self, queue: str) -> Work:
        """A single message is sent, which nothing here has caused."""
        ...

    def begin_job(self, envelope: Envelope, *, queue: str, message_id: str) -> Work:
        """The work on a job's message begins, linked to what sent it; what it causes in turn links to this."""
        ...

    def step(self, name: str) -> AbstractContextManager[None]:
        """A step of the system's own, from begin to end."""
        ...

    def sending(self, queue: str, batches: Sequence[Batch]) -> AbstractContextManager[Callable[[int], None]]:
        """Jobs are sent, and their messages will say by whom; is told how many they were in the end."""
        ...

    def call(
        self, job: Job, request: httpx.Request, exchange: Callable[[], ExecutionResult]
    ) -> ExecutionResult:
        """What the exchange gives; the request names its span."""
        ...

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Notes what has become known of the step in which this thread is."""
        ...

    def waited(self, seconds: float) -> None:
        """This thread has waited so long for the limiter, up to now."""
        ...

    def close(self, *, within_s: float) -> None:
        """Delivers what there is, as far as it takes no longer."""
        ...


class NoWork:
    """Nobody sees it."""

    __slots__ = ()
    is_recorded = False

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Nobody listens."""

    def learn(self, result: ExecutionResult) -> None:
        """Nobody listens."""

    def end(self, error: BaseException | None = None) -> None:
        """Nobody listens."""


class NoTraces:
    """Nobody is told anything."""

    is_on = False
    traceparent = ""

    def begin_step(self, name: str, *, cause: str = "", same_trace: bool = False) -> Work:  # noqa: ARG002 - the signature is Traces'
        """Nobody sees it."""
        return _NO_WORK

    def begin_send(self, queue: str) -> Work:  # noqa: ARG002 - likewise
        """Nobody sees it."""
        return _NO_WORK

    def begin_job(self, envelope: Envelope, *, queue: str, message_id: str) -> Work:  # noqa: ARG002 - likewise
        """Nobody sees it."""
        return _NO_WORK

    @contextmanager
    def step(self, name: str) -> Iterator[None]:  # noqa: ARG002 - likewise
        """Nobody sees it."""
        yield

    @contextmanager
    def sending(self, queue: str, batches: Sequence[Batch]) -> Iterator[Callable[[int], None]]:  # noqa: ARG002 - likewise
        """Nobody sees it, and the messages say nothing."""
        yield _unheard

    def call(
        self,
        job: Job,  # noqa: ARG002 - likewise
        request: httpx.Request,  # noqa: ARG002 - likewise
        exchange: Callable[[], ExecutionResult],
    ) -> ExecutionResult:
        """What the exchange gives."""
        return exchange()

    def tell(self, attributes: Mapping[str, str | int]) -> None:
        """Nobody listens."""

    def waited(self, seconds: float) -> None:
        """Nobody listens."""

    def close(self, *, within_s: float) -> None:
        """There is nothing to deliver."""


_NO_WORK = NoWork()
NO_TRACES = NoTraces()


def _unheard(_jobs: int) -> None:
    """Nobody listens."""


def variables() -> dict[str, str]:
    """OpenTelemetry's variables: those of the environment, then those in `.env`."""
    in_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {name: value for name, value in (in_file | dict(os.environ)).items() if name.startswith("OTEL_")}


def are_wanted(environ: Mapping[str, str], signal: str = "TRACES") -> bool:
    """Whether somebody is named who takes traces, or `METRICS`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if exporters:
        return exporters not in OFF
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(environ.get(name, "").strip() for name in endpoints)


def open_traces(settings: Settings, environ: Mapping[str, str]) -> Traces:
    """The traces of this process, as OpenTelemetry's variables ask for; in a process that is not forked any more.

    Traces that cannot be made are told of, and are no reason to do no work.
    """
    if not are_wanted(environ):
        return NO_TRACES
    for name, value in environ.items():
        os.environ.setdefault(name, value)  # where the SDK looks
    try:
        from tq.telemetry.otel import open_provider
    except ImportError as error:
        logger.error("traces are off, because a package is missing", reason=str(error))
        return NO_TRACES
    try:
        return open_provider(settings)
    except (LookupError, ValueError) as error:
        logger.error("traces are off: a variable of OpenTelemetry's has no meaning here", reason=str(error))
        return NO_TRACES
