"""Looks every few seconds whether all is well, and tells the webhook and the dead man's switch.

Of several processes one has the watch, and another takes it when that one falls silent. What was told stands in
Redis, so neither that nor a restart tells anything twice; a message whose sender was lost is sent again, under
the same id. That Redis itself does nothing is told by each process on its own, since there is no place to agree.

The dead man's switch is held from outside: it is called while all is well, and who is not called raises the alarm.
"""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

from loguru import logger
from pydantic import SecretStr, ValidationError

from tq.alerts.alert import LOOK_EVERY, Alert, Kind, follow
from tq.alerts.webhook import Answer, Caller
from tq.doctor import Finding, Status, judge, observe, unreachable
from tq.errors import InvalidDefinition, StoreError
from tq.runtime import Runtime

# As long as one step of a look may take, with a receiver or a Redis that answers late.
WATCH_LASTS = timedelta(seconds=45)
# Looks come every 15 s and a little: the fourth calls, so that it is never much more than a minute.
HEARTBEAT_EVERY = timedelta(seconds=50)
# While these are well, what falls due is done and nobody is missed.
SIGNS_OF_LIFE = frozenset({"ticks", "unaccounted"})
REDIS_ANSWERS = Finding("redis", Status.OK, "Redis answers again", "", "")


class Watch:
    """Runs in a thread; where neither a webhook nor a dead man's switch is set, not at all."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._webhook = _revealed(runtime.settings.alert_webhook)
        self._heartbeat = _revealed(runtime.settings.heartbeat_url)
        self._least = Status(runtime.settings.alert_level)
        self._namespace = runtime.settings.namespace
        self._process = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._of_redis: Alert | None = None
        self._steps_back = False
        self._troubles: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks from now on, if there is anybody to tell."""
        if self._webhook is None and self._heartbeat is None:
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; another process may have the watch at once."""
        self._stopping.set()
        if self._thread is not None:
            # A call that is under way is not waited for: what it tells is sent again by whoever watches next.
            self._thread.join(timeout=2)

    def look(self) -> None:
        """Looks once, and tells what there is to tell."""
        try:
            self._look_and_agree()
        except StoreError as error:
            self._look_alone(unreachable(str(error)))
        else:
            self._look_alone(REDIS_ANSWERS)

    def _loop(self) -> None:
        try:
            while not self._stopping.is_set():
                self.look()
                self._stopping.wait(LOOK_EVERY.total_seconds())
            with contextlib.suppress(StoreError):
                self._runtime.store.alerts.give_up(self._process)
            self._caller.close()
        finally:
            if not self._stopping.is_set():
                logger.critical("the watch ended unexpectedly: no alert is sent any more; restart tq web")

    @cached_property
    def _caller(self) -> Caller:
        return Caller()

    def _look_and_agree(self) -> None:
        if self._steps_back:
            self._steps_back = False
            return
        alerts = self._runtime.store.alerts
        notes = alerts.take(self._process, lasts=WATCH_LASTS)
        if notes is None:
            return
        findings = self._findings()
        all_arrived = self._show_life(findings, notes.now, notes.heartbeat_at)
        if self._webhook is not None:
            known = {check: _read(text) for check, text in notes.alerts.items()}
            all_arrived &= self._tell_of(findings, known, notes.now)
        if not all_arrived:
            # Another machine may reach whoever is to be told, so it may have the watch before we take it again.
            alerts.give_up(self._process)
            self._steps_back = True

    def _findings(self) -> Sequence[Finding]:
        # What is wrong with a file that cannot be read is among the findings.
        with contextlib.suppress(InvalidDefinition):
            self._runtime.registry.refresh()
        return judge(observe(self._runtime))

    def _show_life(self, findings: Sequence[Finding], now: datetime, last: datetime | None) -> bool:
        """Calls the dead man's switch if it is time and all that it stands for is well; False if that failed."""
        if self._heartbeat is None or (last is not None and now - last < HEARTBEAT_EVERY):
            return True
        if any(finding.id in SIGNS_OF_LIFE and finding.status is not Status.OK for finding in findings):
            return True
        answer = self._caller.ping(self._heartbeat)
        self._note("TQ_HEARTBEAT_URL", answer)
        if answer.is_taken:
            self._runtime.store.alerts.take(self._process, lasts=WATCH_LASTS, heartbeat_at=now)
        return answer.is_taken

    def _tell_of(self, findings: Sequence[Finding], known: dict[str, Alert | None], now: datetime) -> bool:
        """Brings alerts up to date and sends what is due; False as soon as a message does not arrive."""
        # A check that there is no more takes its alert along.
        changes: dict[str, Alert | None] = dict.fromkeys(known)
        for finding in findings:
            changes[finding.id] = follow(known.get(finding.id), finding, now, least=self._least)
        due = [(alert, kind) for alert in changes.values() if alert and (kind := alert.due(now))]
        changes = {check: alert for check, alert in changes.items() if check in known or alert is not None}
        changes = {
            check: alert for check, alert in changes.items() if alert is None or alert != known.get(check)
        }
        # The one that failed most often comes last, so that it keeps none of the others back.
        for alert, kind in sorted(due, key=lambda each: (each[0].tries, each[0].since)):
            claimed = alert.claimed(kind, now)
            if not self._write({**changes, alert.check: claimed}):
                return True
            if not self._tell(claimed, kind, now):
                return False
            changes = {alert.check: claimed.delivered(kind, now)}
        if changes:
            self._write(changes)
        return True

    def _write(self, changes: dict[str, Alert | None]) -> bool:
        """Notes how alerts are; False if another process has the watch by now."""
        texts = {check: None if alert is None else alert.to_json() for check, alert in changes.items()}
        return self._runtime.store.alerts.take(self._process, lasts=WATCH_LASTS, changes=texts) is not None

    def _look_alone(self, finding: Finding) -> None:
        """Follows whether Redis does anything, by this machine's time, and for this process only."""
        if self._webhook is None:
            return
        now = self._runtime.clock.now()
        self._of_redis = follow(self._of_redis, finding, now, least=self._least)
        if self._of_redis is not None and (kind := self._of_redis.due(now)):
            self._of_redis = self._of_redis.claimed(kind, now)
            if self._tell(self._of_redis, kind, now):
                self._of_redis = self._of_redis.delivered(kind, now)

    def _tell(self, alert: Alert, kind: Kind, now: datetime) -> bool:
        if self._webhook is None:
            return True
        answer = self._caller.tell(self._webhook, alert, kind, now, namespace=self._namespace)
        self._note("TQ_ALERT_WEBHOOK", answer)
        return answer.is_taken

    def _note(self, what: str, answer: Answer) -> None:
        """Trouble that lasts is told once, and its end."""
        if not answer.is_taken:
            if self._troubles.get(what) != answer.told:
                self._troubles[what] = answer.told
                logger.warning("not delivered, trying again", to=what, reason=answer.told)
        elif self._troubles.pop(what, None) is not None:
            logger.info("delivered again", to=what)


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _read(text: str) -> Alert | None:
    """An alert as it stands there; None for what this version cannot read, which is then told anew."""
    try:
        return Alert.from_json(text)
    except ValidationError:
        return None
