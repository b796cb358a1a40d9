"""The last gate before a call, and what the limiter learns after it."""

from collections.abc import Iterator
from datetime import timedelta

import dramatiq
import pytest
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import SkipMessage

from actors.encoding import MessageEncoder
from actors.transport import make_transport
from middleware.error_rates import ErrorRates
from middleware.rate_limit import RateLimit
from tests.waiting import eventually
from tq.limits import EVERY_TASK, Kind, limit_everything
from tq.models import Envelope, ErrorDetail, ExecutionResult, Outcome
from tq.runtime import Runtime
from tq.settings import Settings
from tq.testing import make_envelope, make_task

dramatiq.set_encoder(MessageEncoder())

DIGEST = make_task().id
MINUTE = timedelta(minutes=1)
BUSY = ExecutionResult(outcome=Outcome.BUSY, http_status=503)
THROTTLED = ExecutionResult(outcome=Outcome.THROTTLED, http_status=429, retry_after=timedelta(seconds=300))


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A worker's runtime, with its limiter at work."""
    settings.tasks_file.write_text("tasks: []")
    runtime = Runtime(settings, make_transport(settings))
    runtime.limiter.start(4)
    yield runtime
    runtime.limiter.stop()
    runtime.close()


def message_of(envelope: Envelope) -> MessageProxy:
    return MessageProxy(dramatiq.Message("normal", "execute", (envelope,), {}, {}))


def call(runtime: Runtime, gate: RateLimit, envelope: Envelope, result: ExecutionResult) -> None:
    """A message's way through the gate, with this result of its call."""
    broker, message = StubBroker(middleware=[]), message_of(envelope)
    gate.before_process_message(broker, message)
    for observe in runtime.observers:
        observe(envelope, make_task(), result)
    gate.after_process_message(broker, message)


def test_a_job_that_comes_without_a_slot_gets_one_and_passes(runtime: Runtime) -> None:
    gate = RateLimit(runtime)

    gate.before_process_message(StubBroker(middleware=[]), message_of(make_envelope("ada")))


def test_a_job_for_which_there_is_no_slot_is_put_off_and_not_worked(runtime: Runtime) -> None:
    gate = RateLimit(runtime)
    runtime.store.orders.pause(EVERY_TASK, reason="a test", by="ada")
    message = message_of(make_envelope("ada"))

    with pytest.raises(SkipMessage):
        gate.before_process_message(StubBroker(middleware=[]), message)

    assert message.put_off_for >= timedelta(seconds=1)


def test_a_message_that_is_no_job_passes_whatever_is_paused(runtime: Runtime) -> None:
    gate = RateLimit(runtime)
    runtime.store.orders.pause(EVERY_TASK, reason="a test", by="ada")
    control = MessageProxy(dramatiq.Message("control", "distribute", ("run",), {}, {}))

    gate.before_process_message(StubBroker(middleware=[]), control)


def test_nothing_is_limited_where_no_worker_runs(settings: Settings) -> None:
    runtime = Runtime(settings, make_transport(settings))
    runtime.store.orders.pause(EVERY_TASK, reason="a test", by="ada")

    RateLimit(runtime).before_process_message(StubBroker(middleware=[]), message_of(make_envelope("ada")))


def test_a_wait_that_an_endpoint_asks_for_holds_the_next_job(runtime: Runtime) -> None:
    gate = RateLimit(runtime)

    call(runtime, gate, make_envelope("ada"), THROTTLED)

    with pytest.raises(SkipMessage):
        gate.before_process_message(StubBroker(middleware=[]), message_of(make_envelope("bob")))
    limits = {DIGEST: limit_everything(runtime.settings), EVERY_TASK: limit_everything(runtime.settings)}
    eventually(lambda: runtime.store.limits.standings(limits)[DIGEST].held)


def test_a_job_whose_message_was_superfluous_gives_its_slot_back(runtime: Runtime) -> None:
    gate = RateLimit(runtime)
    broker = StubBroker(middleware=[])

    for number in range(20):
        message = message_of(make_envelope(f"user-{number}"))
        gate.before_process_message(broker, message)
        gate.after_skip_message(broker, message)

    limits = {DIGEST: limit_everything(runtime.settings), EVERY_TASK: limit_everything(runtime.settings)}
    eventually(lambda: runtime.store.limits.standings(limits)[DIGEST].in_use == 0)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (ExecutionResult.success(), Kind.OK),
        (ExecutionResult(outcome=Outcome.GONE, http_status=410), Kind.REJECTED),
        (ExecutionResult(outcome=Outcome.FAILED, http_status=422), Kind.REJECTED),
        (ExecutionResult(outcome=Outcome.RETRY, http_status=500), Kind.ERROR),
        (BUSY, Kind.OVERLOAD),
        (ExecutionResult.retry("TIMEOUT"), Kind.OVERLOAD),
        (THROTTLED, Kind.THROTTLED),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_every_call_is_counted_for_its_task_and_in_all(
    runtime: Runtime, result: ExecutionResult, kind: Kind
) -> None:
    ErrorRates(runtime)

    call(runtime, RateLimit(runtime), make_envelope("ada"), result)

    def counted(scope: str) -> dict[Kind, int]:
        counts = runtime.store.limits.outcomes([scope], over=MINUTE)[scope].counts
        return {kind: count for kind, count in counts.items() if count}

    eventually(lambda: counted(DIGEST) == {kind: 1})
    assert counted(EVERY_TASK) == {kind: 1}


def test_an_attempt_that_was_not_possible_is_no_call(runtime: Runtime) -> None:
    ErrorRates(runtime)
    lacking = ErrorDetail(code="EXECUTOR_ERROR", retry=True)

    call(
        runtime,
        RateLimit(runtime),
        make_envelope("ada"),
        ExecutionResult(outcome=Outcome.UNAVAILABLE, error=lacking),
    )
    call(runtime, RateLimit(runtime), make_envelope("bob"), ExecutionResult.success())

    eventually(lambda: runtime.store.limits.outcomes([DIGEST], over=MINUTE)[DIGEST].calls > 0)
    assert runtime.store.limits.outcomes([DIGEST], over=MINUTE)[DIGEST].error_rate == 0


def test_outcomes_of_more_than_an_hour_are_not_to_be_had(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="at most"):
        runtime.store.limits.outcomes([DIGEST], over=timedelta(hours=2))
