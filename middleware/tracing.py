"""A span for each message's work: a tick's, a distribution's, a job's.

A tick, and the distribution that it sends for itself, are one trace. Distributions that come later in a
run, from the agenda, and jobs are traces of their own, linked to what sent them.
"""

import threading
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy

from middleware.presence import BY_SCHEDULE, end_in_order
from tq.errors import NotHeld, NotNow
from tq.models import Envelope, ExecutionResult, TaskType
from tq.runtime import Runtime
from tq.telemetry.traces import LAST_DELIVERY_S, SAME_TRACE, TRACEPARENT, Work

RUN_MARK = "~"  # ends the task's id in a run's
PUT_OFF = (NotHeld, NotNow)


class Tracing(dramatiq.Middleware):
    """Tells a process' work to its traces; only there if somebody wants them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._own = threading.local()  # the work that a thread is at, and what it sends
        runtime.observers.append(self._learn)

    def before_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Opens them, in the process that works."""
        self._runtime.limiter.on_wait = self._runtime.traces.waited

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Delivers what is left to be."""
        self._runtime.traces.close(within_s=LAST_DELIVERY_S)

    def before_enqueue(
        self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """Names, in a message that a step or a scheduler sends, who sends it; a job's says so already."""
        if message.args and isinstance(message.args[0], Envelope):
            return
        traces = self._runtime.traces
        if BY_SCHEDULE in message.options:
            end_in_order()
            self._own.send = traces.begin_send(message.queue_name)
            message.options[TRACEPARENT] = traces.traceparent
        elif traces.traceparent:
            message.options.update({TRACEPARENT: traces.traceparent, SAME_TRACE: True})

    def after_enqueue(
        self, _broker: dramatiq.Broker, _message: dramatiq.Message[Any], _delay: int | None
    ) -> None:
        """It has been sent."""
        send: Work | None = getattr(self._own, "send", None)
        if send is not None:
            self._own.send = None
            send.end()

    def before_process_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """The work begins."""
        traces = self._runtime.traces
        subject = message.args[0] if message.args else ""
        if isinstance(subject, Envelope):
            self._own.work = traces.begin_job(
                subject, queue=message.queue_name, message_id=message.message_id
            )
            return
        task_id = subject.partition(RUN_MARK)[0]
        work = traces.begin_step(
            f"{message.actor_name} {task_id}".rstrip(),
            cause=message.options.get(TRACEPARENT, ""),
            same_trace=message.options.get(SAME_TRACE, False),
        )
        if task_id:
            work.tell({"tq.task.name": task_id, "tq.run.id": subject})
        self._own.work = work

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        _message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,
    ) -> None:
        """It has ended."""
        if exception is not None and isinstance(exception, PUT_OFF):
            self._put_off()
        else:
            self._end(exception)

    def after_skip_message(self, _broker: dramatiq.Broker, _message: MessageProxy) -> None:
        """It has not begun after all."""
        self._put_off()

    def _put_off(self) -> None:
        work: Work | None = getattr(self._own, "work", None)
        if work is not None:
            work.tell({"tq.outcome": "put_off"})
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        work: Work | None = getattr(self._own, "work", None)
        self._own.work = None
        if work is not None:
            work.end(error)

    def _learn(self, _envelope: Envelope, _task: TaskType, result: ExecutionResult) -> None:
        work: Work | None = getattr(self._own, "work", None)
        if work is not None:
            work.learn(result)
