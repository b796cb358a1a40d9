"""Secrets are planted wherever one may stand, and looked for in all that the system tells anybody."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from tests.alerts.receiver import Receiver
from tests.collector import Collector
from tests.end_to_end.commands import BIN, Commands
from tests.end_to_end.endpoint import Endpoint, Seen
from tests.ports import free_port
from tests.waiting import eventually
from tq.models import RunStatus, TaskId, UserId
from tq.redis_server import RedisServer
from tq.store.preferences import Enable

# By where they stand. None is part of another, and none has a form by which it could be known.
PLANTED = {
    "a header's variable": "alder-header-4711",
    "an endpoint's variable": "birch-query-0815",
    "an endpoint's login": "cedar-login-1337",
    "a header in the file": "dogwood-file-2048",
    "a parameter": "elm-parameter-3141",
    "an exception": "fir-exception-2718",
    "Redis' password": "gorse-redis-1618",
    "the web process' token": "hazel-web-token-1414",
    "the webhook's address": "iris-webhook-1732",
    "the dead man's switch": "juniper-heartbeat-2236",
}
LOGIN, PARAMETER = PLANTED["an endpoint's login"], PLANTED["a parameter"]
TOKEN, WEBHOOK = PLANTED["the web process' token"], PLANTED["the webhook's address"]
HEARTBEAT = PLANTED["the dead man's switch"]
# As a client sends it, and as httpx would tell it.
SENT_LOGIN = base64.b64encode(f"ada:{LOGIN}".encode()).decode()
TASKS = """
tasks:
  - id: digest
    interval: {{type: minutely, value: 1}}
    window: 0
    max_lateness: 1h
    retries: 1
    retry_delay: 100ms
    config:
      endpoint: "http://ada:${{LOGIN}}@{place}/digest/{{user_id}}?key=${{URL_KEY}}"
      headers: {{X-Signed-By: "${{API_KEY}}", X-Api-Key: "{in_file}"}}
  - id: gone
    interval: {{type: daily}}
    window: 0
    retries: 0
    config: {{endpoint: "http://ada:${{LOGIN}}@127.0.0.1:{closed}/gone?key=${{URL_KEY}}", headers: {{X-Signed-By: "${{API_KEY}}"}}}}
  - id: report
    interval: {{type: daily}}
    window: 0
    retries: 1
    retry_delay: 100ms
    executor: reports:report
"""
REPORTS = """
from tq import Job


def report(job: Job) -> None:
    word = job.parameters["word"]
    raise RuntimeError(f"login as ada with password={word!r} at https://ada:{word}@example.com/?key={word} failed")
"""


def echoed(seen: Seen) -> bytes:
    """What a careless endpoint says of the request that it has got."""
    return f"Authorization: Basic {SENT_LOGIN}\nyou asked for {seen.path} as {seen.authorization}".encode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Who gets alerts, and is called while all is well."""
    with Receiver() as serving:
        yield serving


@pytest.fixture
def careless(
    tmp_path: Path, collector: Collector, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Commands, Endpoint]]:
    """A system that is told all secrets and tells all that it does."""
    port = free_port()
    (tmp_path / "reports.py").write_text(REPORTS)
    (tmp_path / "redis").mkdir()
    password = PLANTED["Redis' password"]
    with (
        RedisServer(tmp_path / "redis", persist=False) as server,
        Endpoint() as endpoint,
    ):
        tasks = TASKS.format(
            place=endpoint.url.removeprefix("http://"),
            closed=free_port(),
            in_file=PLANTED["a header in the file"],
        )
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", password)
        url = server.url.replace("://", f"://:{password}@")
        commands = Commands(
            tmp_path,
            url,
            tasks,
            {
                "API_KEY": PLANTED["a header's variable"],
                "URL_KEY": PLANTED["an endpoint's variable"],
                "LOGIN": LOGIN,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "LOG_LEVEL": "DEBUG",
                "DEBUG_REDIS": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                "OTEL_METRIC_EXPORT_INTERVAL": "500",
                "TQ_TRACE_LIBRARIES": "redis,httpx",
                "TQ_API_PORT": str(port),
                "TQ_API_TOKEN": TOKEN,
                "TQ_ALERT_WEBHOOK": f"{receiver.url}/{WEBHOOK}",
                "TQ_ALERT_LEVEL": "warning",
                "TQ_HEARTBEAT_URL": f"{receiver.url}/{HEARTBEAT}",
            },
        )
        # What the tests' own process reads of it needs its variables, too.
        for name in ("API_KEY", "URL_KEY", "LOGIN"):
            monkeypatch.setenv(name, commands.environment[name])
        try:
            yield commands, endpoint
        finally:
            commands.stop()


def test_no_secret_is_told_to_anybody(
    careless: tuple[Commands, Endpoint], collector: Collector, receiver: Receiver
) -> None:
    commands, endpoint = careless
    endpoint.says = echoed
    endpoint.answer = lambda call: {"ada": 200, "bob": 500}.get(call.user, 403)
    runtime = commands.open_runtime()
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    words = {"word": PARAMETER}
    exception = {"word": PLANTED["an exception"]}
    runtime.store.preferences.apply(
        [
            *(Enable(UserId(user), TaskId("digest"), parameters=words) for user in ("ada", "bob", "cyd")),
            Enable(UserId("ada"), TaskId("gone"), parameters=words),
            Enable(UserId("ada"), TaskId("report"), parameters=exception),
        ]
    )
    commands.start_workers(processes=1, threads=4)
    commands.start_scheduler()
    web = f"http://127.0.0.1:{commands.environment['TQ_API_PORT']}"
    commands.start("web", [str(BIN / "tq"), "web"])

    for task in ("digest", "gone", "report"):
        commands.run("trigger", task, "--json")
    told = [commands.run("trigger", "report", "--wait", "--json").stdout]
    eventually(
        lambda: all(run.status is not RunStatus.RUNNING for run in runtime.store.runs.latest()),
        why=commands.log_text(),
    )

    def answers() -> list[str]:
        token = {"Authorization": f"Bearer {TOKEN}"}
        paths = (
            "/health",
            "/readyz?verbose",
            "/stats",
            "/metrics",
            "/openapi.json",
            "/elms?key=x",
        )
        return [httpx.get(f"{web}{path}", headers=token).text for path in paths]

    eventually(lambda: "web process serves" in commands.log_text(), why=commands.log_text())
    told += answers()
    for arguments in (
        ("runs", "list", "--json"),
        ("results", "digest", "bob"),
        ("results", "digest", "--failures"),
        ("results", "digest", "--failures", "--json"),
        ("results", "gone", "--failures", "--json"),
        ("results", "report", "--failures", "--json"),
        ("tasks", "show", "digest", "--json"),
        ("settings",),
        ("limits", "--json"),
        ("doctor", "--json"),
        ("alerts", "test"),
    ):
        answer = commands.run(*arguments)
        told.append(answer.stdout + answer.stderr)
    eventually(lambda: bool(collector.metrics) and bool(collector.named("POST")))
    commands.stop()
    told.append(commands.log_text())
    told += [span.text for span in collector.spans]
    told += [str(each) for each in collector.metrics]
    told += [call.body.decode() for call in receiver.calls]

    text = "\n".join(told)
    # All of these did happen, or nothing would be proven.
    for sign in (
        "executor raised",
        "you asked for /digest/bob?key=***",
        "HTTP_403",
        "HTTP_500",
        "HTTP_ERROR",
        "EXECUTOR_ERROR",
        "web process serves",
        "tq_jobs_total",
    ):
        assert sign in text
    assert {call.path.rpartition("/")[2] for call in receiver.calls} >= {WEBHOOK}
    found = {
        where: secret
        for where, secret in {**PLANTED, "the login as it is sent": SENT_LOGIN}.items()
        if secret in text
    }
    assert found == {}, "\n".join(
        line for line in text.splitlines() if any(one in line for one in found.values())
    )
    runtime.close()


def test_an_exception_in_a_job_is_logged_once(careless: tuple[Commands, Endpoint]) -> None:
    commands, _ = careless
    runtime = commands.open_runtime()
    runtime.store.preferences.apply(
        [Enable(UserId("ada"), TaskId("report"), parameters={"word": PLANTED["an exception"]})]
    )
    commands.start_workers(processes=1, threads=1)

    commands.run("trigger", "report", "--wait", "--json")

    [failure] = runtime.store.results.failures(TaskId("report"))
    commands.stop()
    raised = [
        line for line in commands.log_text().splitlines() if "Traceback" in line or "executor raised" in line
    ]
    assert len(raised) == failure.attempts == 2
    assert failure.error is not None
    assert failure.error.message.startswith("RuntimeError: login as ada with password=")
    assert PLANTED["an exception"] not in failure.to_json()
    assert "traceback" not in failure.error.message.lower()
    runtime.close()
