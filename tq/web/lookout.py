"""What is seen of the system from the web process, however many ask how often.

One look is under way at a time, and what it has found is told for a second. Nobody waits for it longer than
a moment: where Redis does not answer, that is the answer. Each look shows at the same time that this process
lives, which is how it is known that Redis takes what is written.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from loguru import logger

from tq.clock import Stopwatch
from tq.doctor import Finding, Status, glance, judge_readiness, unreachable
from tq.errors import StoreError
from tq.runtime import Runtime
from tq.settings import without_password
from tq.store import Store
from tq.store.heartbeats import WEB, Presence

T = TypeVar("T")

KEPT = timedelta(seconds=1)
# Who probes gives up after a few seconds, and must have been answered by then.
LONGEST_WAIT = timedelta(seconds=1.5)
# For each answer of Redis'. A look takes a handful of them, of a millisecond each.
PATIENCE = timedelta(seconds=1)
# Who does not show itself for 15 s is taken for dead.
SHOWN_EVERY = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class View:
    """What a look has found."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[str]:
        """The checks that have found a problem."""
        return self._with(Status.PROBLEM)

    @property
    def warnings(self) -> list[str]:
        """The checks that have found something to look into."""
        return self._with(Status.WARNING)

    def _with(self, status: Status) -> list[str]:
        return [finding.id for finding in self.findings if finding.status is status]


class Lookout:
    """Looks, and shows this process. Its store gives up early, and is for those who would rather not wait."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.store = Store(runtime.settings, runtime.transport, clock=runtime.clock, patience=PATIENCE)
        self._presence = Presence(self.store.heartbeats, WEB, runtime.facts)
        # One thread: whatever becomes of Redis, no more than that waits for it here.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookout")
        self._looking: asyncio.Task[View] | None = None
        self._latest: View | None = None
        self._since_latest = Stopwatch()
        self._trouble = ""

    async def view(self) -> View:
        """What was found within the last second, or is found now."""
        if self._latest is not None and self._since_latest.elapsed < KEPT:
            return self._latest
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        looking = self._looking
        await asyncio.wait({looking}, timeout=LONGEST_WAIT.total_seconds())
        if looking.done():
            return looking.result()
        place = without_password(self._runtime.settings.redis_url)
        waited = f"{LONGEST_WAIT.total_seconds():g} s"
        reason = f"Redis at {place} did not answer within {waited}; see whether it is overloaded or stopped"
        return View((unreachable(reason),))

    async def keep_showing(self) -> None:
        """Shows that this process lives, until it is cancelled; that Redis does not take it is told once."""
        while True:
            try:
                await self._in_thread(self._presence.show)
            except StoreError as error:
                if self._trouble != str(error):
                    self._trouble = str(error)
                    logger.warning("web process not shown, trying again", reason=self._trouble)
            else:
                if self._trouble:
                    self._trouble = ""
                    logger.info("web process shown again")
            await asyncio.sleep(SHOWN_EVERY.total_seconds())

    async def close(self) -> None:
        """Has this process forgotten, if Redis is there to be told, and ends what was opened."""
        try:
            await self._in_thread(self._presence.end)
        except StoreError as error:
            logger.warning("web process counts as silent for an hour", reason=str(error))
        self._thread.shutdown(wait=False)
        self.store.close()

    async def _look(self) -> View:
        self._latest = await self._in_thread(self._seen)
        self._since_latest = Stopwatch()
        return self._latest

    def _seen(self) -> View:
        try:
            return View(tuple(judge_readiness(glance(self._runtime, self.store, self._presence))))
        except StoreError as error:
            return View((unreachable(str(error)),))

    async def _in_thread(self, step: Callable[[], T]) -> T:
        # What it logs carries the id of the request that has asked for it.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._thread, context.run, step)
