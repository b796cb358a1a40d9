"""What a call tells to traces, and what it carries to its endpoint."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from tests.executors import Endpoint, make_job
from tests.spans import Spans, ids_of, kept_spans, parent_of
from tq.executors.http import HttpExecutor
from tq.models import ExecutionResult, Job
from tq.settings import Settings
from tq.testing import make_envelope

SECRETS = {"URL_KEY": "key-planted-4711", "PATH_PART": "part-planted-0815", "API_TOKEN": "token-planted-1337"}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers 200."""
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def spans(settings: Settings) -> Iterator[Spans]:
    """Traces of which all is recorded."""
    with kept_spans(settings) as kept:
        yield kept


def carry_out(
    spans: Spans, job: Job, *, client: httpx.Client | None = None, environ: Mapping[str, str] | None = None
) -> ExecutionResult:
    """What became of a call that is made within its job's work."""
    executor = HttpExecutor(allow_private=True, client=client, environ=environ or {}, traces=spans.traces)
    work = spans.traces.begin_job(make_envelope(job.user_id), queue="normal", message_id="job_1-1")
    result = executor.execute(job)
    work.end()
    executor.close()
    return result


def call_of(spans: Spans, name: str = "POST") -> tuple[ReadableSpan, dict[str, Any]]:
    span = spans.one(name)
    return span, dict(span.attributes or {})


@pytest.mark.parametrize("over", ["libcurl", "httpx"])
def test_the_endpoint_is_told_the_span_of_its_call_which_is_part_of_the_jobs_trace(
    spans: Spans, endpoint: Endpoint, over: str
) -> None:
    client = httpx.Client() if over == "httpx" else None

    carry_out(spans, make_job(f"{endpoint.url}/digest"), client=client)

    span, told = call_of(spans)
    trace_id, span_id = ids_of(span)
    version, arrived_trace, arrived_span, flags = endpoint.requests[0].headers["traceparent"].split("-")
    assert (version, int(arrived_trace, 16), int(arrived_span, 16)) == ("00", trace_id, span_id)
    assert int(flags, 16) & 1
    assert parent_of(span) == ids_of(spans.one("process normal"))
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert told == {
        "http.request.method": "POST",
        "url.full": f"{endpoint.url}/digest",
        "url.template": "/digest",
        "server.address": "127.0.0.1",
        "server.port": endpoint.port,
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBasedTraceIdRatio(0.0)])
def test_a_call_of_a_job_that_is_not_sampled_says_so_and_makes_no_span(
    settings: Settings, endpoint: Endpoint, sampler: Sampler
) -> None:
    with kept_spans(settings, sampler) as spans:
        carry_out(spans, make_job(endpoint.url))

        assert spans.found == []
    version, trace_id, span_id, flags = endpoint.requests[0].headers["traceparent"].split("-")
    assert (version, len(trace_id), len(span_id)) == ("00", 32, 16)
    assert int(trace_id, 16)
    assert int(flags, 16) & 1 == 0


def test_a_call_that_fails_tells_why_in_the_conventions_words(spans: Spans, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: [b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n"]

    carry_out(spans, make_job(endpoint.url, attempt=3))

    span, told = call_of(spans)
    assert (told["http.response.status_code"], told["error.type"]) == (503, "503")
    assert told["http.request.resend_count"] == 2
    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        "endpoint answered 503 Service Unavailable",
    )


def test_a_call_without_an_answer_tells_what_it_ended_with(spans: Spans) -> None:
    carry_out(spans, make_job("http://127.0.0.1:1/"))

    span, told = call_of(spans)
    assert told["error.type"] == "HTTP_ERROR"
    assert "http.response.status_code" not in told
    assert span.status.status_code is StatusCode.ERROR


def test_no_secret_of_an_endpoint_or_a_header_is_in_its_span(spans: Spans, endpoint: Endpoint) -> None:
    job = make_job(
        f"http://ada:login-planted-2342@127.0.0.1:{endpoint.port}"
        "/${PATH_PART}/{user_id}?key=${URL_KEY}&plain=query-planted-9",
        headers={"Authorization": "Bearer ${API_TOKEN}", "X-Own": "header-planted-5"},
    )

    carry_out(spans, job, environ=SECRETS)

    _, told = call_of(spans)
    assert endpoint.requests[0].target == "/part-planted-0815/ada?key=key-planted-4711&plain=query-planted-9"
    assert told["url.full"] == f"http://127.0.0.1:{endpoint.port}/***/ada"
    assert told["url.template"] == "/${PATH_PART}/{user_id}"
    assert "planted" not in spans.text


def test_an_endpoint_that_stands_in_a_variable_has_no_template(spans: Spans, endpoint: Endpoint) -> None:
    carry_out(spans, make_job("${WHERE}/digest"), environ={"WHERE": endpoint.url})

    _, told = call_of(spans)
    assert "url.template" not in told
