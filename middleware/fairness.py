"""The worker's queue: fair over priorities and tasks, at the limiter's pace, with the ledger's leave.

Dramatiq's own is strict: as long as something more urgent waits, nothing else is served. And a job
that had to wait for its slot in a thread would keep others from theirs. Here a job is handed out when
it has its slot and the ledger has said that it may begin, which the bookkeeper asks for some jobs ahead.

Jobs that may have killed the process that had them before are handed out with no other beside them. What
a dead process had begun comes back through a queue of its own (Dramatiq's issue 213: else it would come
back again and again, and take its neighbours with it). If such a suspect kills once more, it alone was begun,
and the ledger, which counts suspects as they begin, knows whom to blame. Between two of them others get their turn.
"""

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, runtime_checkable

import dramatiq
from dramatiq.broker import MessageProxy

from tq.bookkeeper import GATHER_S, Bookkeeper
from tq.lanes import Lanes
from tq.limiter import Limiter
from tq.models import SUSPECTS, Envelope, TaskId
from tq.parking import Parking
from tq.staffing import Staffing

# With the default of twice the threads, a consumer that has its fill sleeps while threads go idle.
LEAST_PREFETCH = 64
# What would wait here for longer goes back, and makes room for what need not.
HOLD_S = 10.0
# So many jobs are begun ahead of their threads. Each of them is a suspect if the process dies.
MOST_AHEAD = 64
# So many jobs of one fetch may come with the ledger's leave: where more come at once, to ask for it costs little.
MOST_AT_ONCE = 8
# A call that has taken so long is no quick one that waits for its turn on the CPU.
STUCK_AFTER_S = 0.02
# A suspect that has no slot for so long lets others pass.
DRAIN_FOR_S = 1.0


@runtime_checkable
class Acknowledging(Protocol):
    """A broker whose messages of jobs are acknowledged with the job's end, by the ledger.

    Jobs that could begin at once, of which there are `spare` at most, may come with the ledger's leave.
    """

    spare: Callable[[], int]

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """The messages of these are acknowledged."""
        ...


class FairDispatch(dramatiq.Middleware):
    """Gives a worker the fair queue before any of its threads exists, and limiter and bookkeeper their life."""

    def __init__(self, limiter: Limiter, bookkeeper: Bookkeeper) -> None:
        self._limiter = limiter
        self._bookkeeper = bookkeeper
        self._queue = FairQueue(limiter, bookkeeper)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replaces the worker's queue."""
        worker.work_queue = self._queue = FairQueue(self._limiter, self._bookkeeper)
        worker.queue_prefetch = max(LEAST_PREFETCH, worker.queue_prefetch)
        self._limiter.start(worker.worker_threads)
        if isinstance(broker, Acknowledging):
            broker.spare = self._queue.spare
            self._bookkeeper.start(self._queue, on_settled=broker.settled)

    def after_consumer_thread_boot(self, _broker: dramatiq.Broker, thread: Any) -> None:
        """Has a consumer, which looks for delayed messages after each, do so only if there are any."""
        thread.handle_delayed_messages = partial(_if_there_are_any, thread, thread.handle_delayed_messages)

    def after_process_message(
        self,
        _broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the signature is Dramatiq's
        exception: BaseException | None = None,  # noqa: ARG002 - likewise
    ) -> None:
        """The job has been worked."""
        self._queue.worked(message)

    def after_skip_message(self, _broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Likewise, for after a skip no other hook runs."""
        self._queue.worked(message)

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Has no more jobs begin."""
        self._bookkeeper.close()
        self._queue.close()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        """Writes and reports what is left to be."""
        self._bookkeeper.stop()
        self._limiter.stop()


class FairQueue(queue.PriorityQueue[Any]):
    """A thread-safe queue of Dramatiq's work items, in the order of `Lanes`.

    While the bookkeeper runs, jobs go through its hands: taken from the lanes with a slot, then `ready` for a
    thread, then under way until their end is stored. Without it they go from the lanes to a thread.
    """

    def __init__(self, limiter: Limiter, bookkeeper: Bookkeeper) -> None:
        super().__init__()
        self._limiter = limiter
        self._bookkeeper = bookkeeper
        self._lanes: Lanes[Any] = Lanes()
        self._suspects: deque[Any] = deque()
        self._ready: deque[Any] = deque()
        self._under_way: dict[int, Any] = {}  # by the envelope; held, so that no other gets its id
        self._alone: Envelope | None = None  # the suspect that is under way
        self._draining_until = 0.0  # nothing begins, so that a suspect can
        self._others_first = False
        self._threads = Parking(limiter.lock)  # those that wait for something to do
        self._is_closed = False
        self._idle = 0
        self._taken = 0  # jobs, since some were begun
        self._staffing = Staffing(GATHER_S)
        self._own = threading.local()  # whether a thread is at work, and how long the call of its job took

    def qsize(self) -> int:
        """How many items wait."""
        with self._limiter.lock:
            return len(self._lanes) + len(self._suspects) + len(self._ready)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002 - the signature is queue.Queue's
        """Has an item wait."""
        with self.mutex:
            self.unfinished_tasks += 1
        envelope = _envelope(item)
        limiter = self._limiter
        # Before the lock: to know a task's limit may take a question to Redis.
        limit, weight = limiter.limit_of(envelope) if envelope else (None, 0)
        with limiter.lock:
            if envelope is None or limit is None:
                self._lanes.put(item, lane=item.message.queue_name)
                self._wake(1)
                return
            envelope.is_suspect = item.message.queue_name == SUSPECTS
            if envelope.is_suspect:
                self._suspects.append(item)
            limiter.wait(envelope, limit, weight)
            if self._may_begin_at_once(envelope):
                self._begin(item)
                if self.hand_out([envelope]):
                    return
            elif not envelope.is_suspect:
                envelope.permission = None
                self._lanes.put(item, lane=item.message.queue_name, task=envelope.task_id)
            limiter.pass_on()
            if self._idle:
                self._bookkeeper.hurry()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The item whose turn it is; a job only if it may begin, unless `block` is off.

        Raises:
            queue.Empty: if there was none in time.
        """
        limiter = self._limiter
        with limiter.lock:
            if not block:
                return self._take_any()
            until = time.monotonic() + (float("inf") if timeout is None else timeout)
            self._note_return()
            may_rest = True
            while True:
                try:
                    item = self._take(may_rest=may_rest)
                except IndexError:
                    left = until - time.monotonic()
                    if left <= 0 and not self._may_oversleep:
                        raise queue.Empty from None
                    self._rest(left)
                    may_rest = False  # whoever was woken is wanted
                else:
                    self._taken += 1
                    self._own.is_at_work, self._own.took_s = True, None
                    self._staffing.begin()
                    if self.is_hungry:
                        self._bookkeeper.hurry()  # what came while this one was ready has not been heard of
                    if not self._bookkeeper.is_running:
                        limiter.pass_on()
                    return item

    def spare(self) -> int:
        """For how many jobs, if they came now with the ledger's leave, there are threads; others would go first, if any wait."""
        with self._limiter.lock:
            return min(self._idle - len(self._ready), MOST_AT_ONCE) if self._is_free else 0

    def worked(self, message: MessageProxy) -> None:
        """A thread is done with a job; one whose end is not being stored is not under way any more."""
        envelope = _envelope_of(message)
        if envelope is not None:
            # Of the time since it was taken, what it waited for others in this process says nothing of the job.
            self._own.took_s = envelope.took_s
        if envelope is not None and not envelope.is_recorded:
            with self._limiter.lock:
                self._leave([envelope])

    def withdraw(self) -> list[tuple[Any, timedelta]]:
        """Takes out what would wait here for long, with the time after which it should come back."""
        withdrawn = []
        limiter = self._limiter
        with limiter.lock:
            waiting = self._lanes.tasks()
            for item in self._suspects:
                waiting[item.message.args[0].task_id] = waiting.get(item.message.args[0].task_id, 0) + 1
            for task, jobs in waiting.items():
                if not task:
                    continue
                keep, wait_s, pace = limiter.horizon(TaskId(task), HOLD_S)
                items = self._withdraw(task, jobs - keep)
                if items:
                    limiter.agent.leave(items[0].message.args[0].task_id, jobs=len(items))
                # They come back as they will be needed, and never all at once.
                for place, item in enumerate(reversed(items), start=keep):
                    delay_s = min(wait_s + place / pace, limiter.LONGEST_ABSENCE_S)
                    withdrawn.append((item, timedelta(seconds=delay_s * (0.75 + random.random() / 2))))
        return withdrawn

    def drop(self) -> list[Any]:
        """Takes out all that waits."""
        dropped = []
        with suppress(queue.Empty):
            while True:
                dropped.append(self.get(block=False))
                self.task_done()
        return dropped

    def close(self) -> None:
        """Has threads that wait here look around every now and then: the worker ends."""
        with self._limiter.lock:
            self._is_closed = True
            self._threads.wake_all()

    def given_away(self, items: int) -> None:
        """So many withdrawn items are somebody else's now."""
        for _ in range(items):
            self.task_done()

    # What the bookkeeper asks and says (it holds the lock)

    def take_next(self) -> list[Envelope]:
        """Takes out the jobs that are to begin now, each with its slot."""
        if self._alone is not None:
            return []
        jobs = None if self._others_first else self._take_suspect()
        if jobs is None:
            jobs = self._take_others()
        if not jobs and self._others_first:
            jobs = self._take_suspect() or []
        self._others_first = False
        return jobs

    def hand_out(self, jobs: Sequence[Envelope]) -> bool:
        """These may begin; whether a thread was woken for them."""
        left = len(self._ready)
        self._ready += [self._under_way[id(job)] for job in jobs if id(job) in self._under_way]
        return self._rouse(left)

    def prod(self) -> bool:
        """Wakes threads for jobs that nobody comes for; whether some are left, to be looked after again soon."""
        if not self._ready or not self._idle:
            return False
        self._rouse(len(self._ready))
        return True

    def settled(self, jobs: Sequence[Envelope]) -> None:
        """How these ended is stored."""
        self._leave(jobs)

    @property
    def is_starving(self) -> bool:
        """Whether a thread waits while a job could begin."""
        return bool(self._idle) and not self._ready and self._lanes.has_job(self._may_begin)

    @property
    def is_hungry(self) -> bool:
        """Whether a thread waits while a job waits for its slot."""
        return bool(self._idle) and not self._ready and len(self._lanes) > 0

    # Within the lock

    @property
    def _is_free(self) -> bool:
        """Whether a job that comes now may go before all that is here."""
        return not (len(self._lanes) or self._suspects or self._alone or self._others_first)

    def _may_begin_at_once(self, envelope: Envelope) -> bool:
        return (
            envelope.permission is not None
            and self._bookkeeper.may_begin
            and self._is_free
            and self._idle > len(self._ready)
            and self._may_begin(envelope.task_id) > 0
        )

    def _take_others(self) -> list[Envelope]:
        ahead = max(3 * self._taken, min(self._idle, MOST_AHEAD)) - len(self._ready)
        self._taken = 0
        return [self._begin(item) for item in self._lanes.take_jobs(min(ahead, MOST_AHEAD), self._may_begin)]

    def _take_suspect(self) -> list[Envelope] | None:
        """A suspect, or nobody while one waits for the others to end; None if they need not wait for it."""
        if not self._suspects:
            return None
        task = self._suspects[0].message.args[0].task_id
        now = time.monotonic()
        if not self._may_begin(task):
            return [] if now < self._draining_until else None
        if self._under_way:
            # It keeps its right for a while, should its slot go stale meanwhile.
            self._draining_until = now + DRAIN_FOR_S
            return []
        self._draining_until = 0.0
        self._alone = self._begin(self._suspects.popleft())
        return [self._alone]

    def _begin(self, item: Any) -> Envelope:
        envelope: Envelope = item.message.args[0]
        self._limiter.begin(envelope)
        self._under_way[id(envelope)] = item
        return envelope

    def _leave(self, jobs: Sequence[Envelope]) -> None:
        for job in jobs:
            self._under_way.pop(id(job), None)
            if job is self._alone:
                self._alone = None
                self._others_first = True
        if not self._under_way and (self._suspects or self._others_first):
            self._limiter.pass_on()

    def _take(self, *, may_rest: bool) -> Any:
        """What a thread may do now.

        Raises:
            IndexError: if there is nothing.
        """
        if self._lanes.has_urgent:
            return self._lanes.take()
        if self._bookkeeper.is_running:
            if may_rest and self._staffing.is_enough(len(self._ready)):
                raise IndexError
            return self._ready.popleft()
        item = self._suspects.popleft() if self._suspects else self._lanes.take_job(self._may_begin)
        if self._limiter.is_running:
            self._limiter.begin(item.message.args[0])
        else:
            self._limiter.agent.leave(item.message.args[0].task_id)
        return item

    def _take_any(self) -> Any:
        for waiting in (self._ready, self._suspects):
            if waiting:
                item = waiting.popleft()
                break
        else:
            try:
                item = self._lanes.take()
            except IndexError:
                raise queue.Empty from None
        envelope = _envelope(item)
        if envelope is not None and id(envelope) in self._under_way:
            self._leave([envelope])
            self._limiter.give_up(envelope)
        elif envelope is not None:
            self._limiter.agent.leave(envelope.task_id)
        return item

    def _withdraw(self, task: str, jobs: int) -> list[Any]:
        items = self._lanes.withdraw(task, jobs)
        for item in list(self._suspects):
            if len(items) < jobs and item.message.args[0].task_id == task:
                self._suspects.remove(item)
                items.append(item)
        return items

    @property
    def _may_oversleep(self) -> bool:
        """Whether a thread is woken for all that it has to know; hundreds that looked every second would cost more."""
        return self._bookkeeper.is_running and not self._is_closed

    def _rouse(self, left: int) -> bool:
        """Wakes as many threads as it takes for the jobs that are ready, of which so many have been for a while."""
        now = time.monotonic()
        stuck = 0
        if left:
            called = (item.message.args[0].called_at for item in self._under_way.values())
            stuck = sum(at is not None and at < now - STUCK_AFTER_S for at in called)
        wanted = self._staffing.wanted(len(self._ready), left=left, stuck=stuck, now=now)
        self._wake(wanted)
        return wanted > 0

    def _note_return(self) -> None:
        """A thread is done with what it had, or comes for the first time."""
        if getattr(self._own, "is_at_work", False):
            self._own.is_at_work = False
            self._staffing.end(self._own.took_s)

    def _rest(self, seconds: float) -> None:
        """Waits until there may be something to do."""
        if not self._bookkeeper.is_running:
            self._limiter.sleep(seconds)
            return
        self._idle += 1
        self._bookkeeper.hurry()
        try:
            self._threads.wait(None if self._may_oversleep else seconds)
        finally:
            self._idle -= 1

    def _wake(self, threads: int) -> None:
        if self._bookkeeper.is_running and threads > 0:
            self._threads.wake(threads)
        elif not self._bookkeeper.is_running:
            self._limiter.pass_on()

    def _may_begin(self, task: str) -> int:
        """How many jobs of a task."""
        return self._limiter.slots_due(TaskId(task)) if self._limiter.is_running else MOST_AHEAD


def _if_there_are_any(consumer: Any, handle: Callable[[], None]) -> None:
    if consumer.delay_queue.queue:
        handle()


def _envelope(item: Any) -> Envelope | None:
    return _envelope_of(item.message)


def _envelope_of(message: MessageProxy) -> Envelope | None:
    return message.args[0] if message.args and isinstance(message.args[0], Envelope) else None
