"""Worker processes in simulated time around the project's own limiter.

Each process is a real `Agent`, and each exchange the real script on a real Redis, which takes the
simulation's time for the present. What stands here is only what threads and queues do in a worker:
jobs that were fetched wait without a thread; a thread is busy from the slot that its job got until
the call has ended; what would wait too long goes back to the backlog.
"""

import math
from collections import deque
from functools import partial

from tq.bench.downstream import Answer, Reply
from tq.bench.scenarios import PROCESSES, THREADS
from tq.bench.world import STARTS_WITHIN_S, Job, World, shuffled
from tq.limiter.agent import Agent, Slot
from tq.limits import Limit, kind_of, signal_of
from tq.models import ExecutionResult, TaskId
from tq.outcomes import ErrorCode, outcome_of
from tq.store.limits import Answer as Exchanged
from tq.store.limits import Limits, Request

PREFETCH = 64  # jobs that a process has fetched and not ended
EXCHANGE_S = 0.001  # until the answer is there; the script itself runs when it is asked
EVENT_S = 0.002  # until all processes have heard
HOLD_S = 10.0  # longer than this a job does not wait in a process
LOOK_EVERY_S = 1.0  # whether a task's jobs would still have to wait for longer than that

_RESULTS = {
    Answer.OK: ExecutionResult.success(),
    Answer.ERROR: ExecutionResult(outcome=outcome_of(500), http_status=500),
    Answer.BUSY: ExecutionResult(outcome=outcome_of(503), http_status=503),
    Answer.THROTTLED: ExecutionResult(outcome=outcome_of(429), http_status=429),
    Answer.TIMEOUT: ExecutionResult.retry(ErrorCode.TIMEOUT),
    Answer.REFUSED: ExecutionResult.retry(ErrorCode.HTTP_ERROR),
}
SIGNALS = {answer: signal_of(result) for answer, result in _RESULTS.items()}
KINDS = {answer: kind for answer, result in _RESULTS.items() if (kind := kind_of(result))}


class Workers:
    """All processes."""

    def __init__(self, world: World, limits: Limits, limit: Limit) -> None:
        """`limit` holds for each task as for everything."""
        self._world = world
        self._processes = [
            Process(f"process-{number}", self, world, limits, limit) for number in range(PROCESSES)
        ]
        world.on_arrival = self._all_look
        for process in self._processes:
            world.timeline.at(world.random.random() * STARTS_WITHIN_S, process.look)

    def tell(self, scope: str, epoch: int) -> None:
        """What one process's exchange changed is soon heard by all."""
        self._world.trace.redis_commands += 1
        for process in self._processes:
            self._world.timeline.after(EVENT_S, partial(process.hear, scope, epoch))

    def _all_look(self) -> None:
        # Whoever asks first fetches as much as it may, and that is never the same one.
        for number in shuffled(self._world.random, PROCESSES):
            self._processes[number].look()


class Process:
    """One worker process: does what can be done now, and sleeps until there is more."""

    def __init__(self, name: str, workers: Workers, world: World, limits: Limits, limit: Limit) -> None:
        self._workers = workers
        self._world = world
        self._limits = limits
        self._limit = limit
        self._agent = Agent(name, limit)
        self._agent.threads = THREADS
        self._waiting: dict[TaskId, deque[Job]] = {task: deque() for task in world.tasks}
        self._fetched = 0
        self._calling = 0
        self._asking = False
        self._alarm = math.inf

    def look(self) -> None:
        """Fetches jobs, begins the calls whose slots are due, and asks for more slots."""
        self._fetch()
        self._begin_calls()
        self._ask()
        self._set_alarm()

    def hear(self, scope: str, epoch: int) -> None:
        """An event has arrived."""
        self._agent.heard(scope, epoch, self._world.timeline.seconds)
        self.look()

    def _fetch(self) -> None:
        if self._fetched == PREFETCH:
            return
        now = self._world.timeline.seconds
        room = {
            task: self._agent.horizon(task, HOLD_S, now) - len(jobs) for task, jobs in self._waiting.items()
        }
        unwanted = {task for task, jobs in room.items() if jobs <= 0}
        while self._fetched < PREFETCH and (job := self._world.backlog.fetch(unwanted)):
            self._fetched += 1
            self._waiting[job.task].append(job)
            self._agent.wait(job.task, self._limit)
            room[job.task] -= 1
            if room[job.task] <= 0:
                unwanted.add(job.task)

    def _give_back(self) -> None:
        now = self._world.timeline.seconds
        for task, jobs in self._waiting.items():
            too_many = len(jobs) - self._agent.horizon(task, HOLD_S, now)
            if too_many > 0:
                self._agent.leave(task, jobs=too_many)
                self._fetched -= too_many
                for _ in range(too_many):
                    self._world.backlog.give_back(jobs.pop())

    def _begin_calls(self) -> None:
        now = self._world.timeline.seconds
        while self._calling < THREADS and (ready := self._agent.ready(now)):
            task = next(iter(ready))
            slot = self._agent.take(task, now)
            if slot is None:
                return
            self._calling += 1
            self._world.call(self._waiting[task].popleft(), partial(self._end_call, slot))

    def _end_call(self, slot: Slot, reply: Reply) -> None:
        now = self._world.timeline.seconds
        self._calling -= 1
        self._fetched -= 1
        self._agent.end(
            slot,
            now,
            signal=SIGNALS[reply.answer],
            seconds=reply.seconds,
            hold=reply.retry_after,
            throttled=reply.answer is Answer.THROTTLED,
        )
        self._agent.count(slot.task, self._limit, KINDS[reply.answer], now)
        self.look()

    def _ask(self) -> None:
        # One exchange at a time, as the thread that makes them does.
        if self._asking or (request := self._agent.request(self._world.timeline.seconds)) is None:
            return
        self._asking = True
        answer = self._limits.exchange(request)
        self._world.trace.redis_commands += 1
        for scope, epoch in answer.events:
            self._workers.tell(scope, epoch)
        self._world.timeline.after(EXCHANGE_S, partial(self._accept, request, answer))

    def _accept(self, request: Request, answer: Exchanged) -> None:
        self._asking = False
        self._agent.accept(request, answer, self._world.timeline.seconds)
        self._give_back()
        self.look()

    def _set_alarm(self) -> None:
        wake_at = self._agent.exchange_at(self._world.timeline.seconds)
        if self._fetched < PREFETCH and any(not jobs for jobs in self._waiting.values()):
            wake_at = min(wake_at, self._world.timeline.seconds + LOOK_EVERY_S)
        if self._calling < THREADS:  # else the end of a call wakes us, before any slot can be used
            wake_at = min(wake_at, self._agent.slot_at())
        if wake_at < self._alarm:
            self._alarm = wake_at
            self._world.timeline.at(wake_at, partial(self._wake, wake_at))

    def _wake(self, planned: float) -> None:
        if planned == self._alarm:
            self._alarm = math.inf
            self.look()
