"""How each fault is made to happen, and ended."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.endpoint import Endpoint
from tests.chaos.evidence import Evidence, Happened
from tests.chaos.orders import Operator
from tests.chaos.processes import Service
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import EVERYBODY, Fault, Kind
from tests.chaos.timetable import Do, Timetable
from tq.redis_server import RedisServer
from tq.runtime import Runtime

LOST_S = 1.0
SIZED_EVERY_S = 0.05
LOOK_EVERY_S = 0.1


class Breaker:
    """Has faults happen to processes, connections, Redis and the endpoint; the rest is the operator's."""

    def __init__(
        self,
        services: Mapping[str, Service],
        proxies: Mapping[str, Proxy],
        redis: RedisServer,
        append_only: "AppendOnlyFile",
        endpoint: Endpoint,
        operator: Operator,
        runtime: Runtime,
        timetable: Timetable,
        evidence: Evidence,
    ) -> None:
        self._services = services
        self._proxies = proxies
        self._redis = redis
        self._append_only = append_only
        self._endpoint = endpoint
        self._operator = operator
        self._runtime = runtime
        self._timetable = timetable
        self._evidence = evidence

    def happen(self, fault: Fault) -> None:
        """Has a fault begin; its end follows by itself."""
        happened = Happened(fault, time.time())
        self._evidence.happened.append(happened)

        def ended() -> None:
            happened.ended = time.time()

        match fault.kind:
            case Kind.KILL | Kind.STOP | Kind.TERM:
                self._fail_process(fault, self._services[fault.target], ended)
            case Kind.CUT | Kind.SLOW | Kind.HOLE:
                for proxy in (
                    self._proxies.values() if fault.target == EVERYBODY else [self._proxies[fault.target]]
                ):
                    self._fail_connections(fault, proxy, ended)
            case Kind.REDIS_KILL | Kind.REDIS_LOSS:
                self._fail_redis(fault, ended)
            case Kind.SCRIPT_FLUSH:
                self._operator.tell(lambda: self._runtime.store.connection.call("SCRIPT", "FLUSH"), ended)
            case Kind.USERS:
                self._operator.change_users(fault.how, ended)
            case Kind.EDIT:
                self._operator.edit(int(fault.how))
                ended()
            case Kind.PAUSE:
                self._pause(fault, ended)
            case Kind.OUTAGE:
                self._endpoint.fail(fault.how)
                self._timetable.after(fault.lasts_s, lambda: self._endpoint.fail(""), ended)

    def _fail_process(self, fault: Fault, service: Service, ended: Do) -> None:
        match fault.kind:
            case _ if service.is_ending:
                ended()  # it is about to start anew, which is another fault's to do
            case Kind.KILL if fault.how == "alone":
                service.kill_child()
                ended()
            case Kind.KILL:
                service.kill()
                self._timetable.after(fault.lasts_s, service.start, ended)
            case Kind.STOP:
                service.stop()
                self._timetable.after(fault.lasts_s, service.go_on, ended)
            case _:
                service.terminate()
                self._timetable.after(fault.lasts_s, lambda: self._start_when_ended(service, ended))

    def _start_when_ended(self, service: Service, ended: Do) -> None:
        if service.exit_code is None:
            self._timetable.after(LOOK_EVERY_S, lambda: self._start_when_ended(service, ended))
            return
        if service.exit_code != 0:
            self._evidence.notes.append(f"{service.name} ended with code {service.exit_code} after SIGTERM")
        service.start()
        ended()

    def _fail_connections(self, fault: Fault, proxy: Proxy, ended: Do) -> None:
        match fault.kind:
            case Kind.CUT:
                proxy.cut()
                ended()
            case Kind.SLOW:
                proxy.slow_down(float(fault.how.partition(" ")[0]) / 1000)
                self._timetable.after(fault.lasts_s, lambda: proxy.slow_down(0), ended)
            case _:
                proxy.swallow()
                cutting = [proxy.cut] if fault.how == "then is cut" else []
                self._timetable.after(fault.lasts_s, *cutting, proxy.let_pass, ended)

    def _fail_redis(self, fault: Fault, ended: Do) -> None:
        killed = time.time()
        self._redis.kill()
        if fault.kind is Kind.REDIS_LOSS:
            self._append_only.lose_from(killed - LOST_S)
            self._timetable.after(
                fault.lasts_s, self._redis.start, lambda: self._operator.say_again(killed), ended
            )
        else:
            self._timetable.after(fault.lasts_s, self._redis.start, ended)

    def _pause(self, fault: Fault, ended: Do) -> None:
        def resume() -> None:
            self._operator.order("resume", fault.target, ended)

        # From when it is accepted, so that it is not resumed before.
        self._operator.order("pause", fault.target, lambda: self._timetable.after(fault.lasts_s, resume))


class AppendOnlyFile:
    """Redis' own, of which the end can be lost, as a machine that fails loses it with `appendfsync everysec`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: list[tuple[float, Path, int]] = []
        self._sized = 0.0

    def look(self) -> None:
        """Notes how long it is; to be called all the time."""
        now = time.time()
        if now - self._sized > SIZED_EVERY_S:
            self._sized = now
            sizes = [(now, file, file.stat().st_size) for file in self._folder.glob("*.incr.aof")]
            self._sizes = [one for one in self._sizes if one[0] > now - 3 * LOST_S] + sizes

    def lose_from(self, instant: float) -> None:
        """Cuts off what was written after an instant; Redis must not run."""
        early = [(file, size) for at, file, size in self._sizes if at <= instant]
        if early:
            os.truncate(*early[-1])
        self._sizes.clear()
