"""Is it alive, is it ready, is it well, and what is it doing.

Probes are told by the status alone. `livez` knows nothing but this process; `readyz` and `health` know whether
the system does what it is there for: they are open to all, and tell why not only to those who may know.
"""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from tq.doctor import Finding, Status
from tq.runtime import Runtime
from tq.web.access import Access
from tq.web.documents import json_response
from tq.web.errors import error_response
from tq.web.lookout import Lookout, View
from tq.web.stats import stats_of

NO = frozenset({"0", "false", "no"})

Verbose = Annotated[str | None, Query(description="List every check, for people.")]


def health_router(runtime: Runtime, lookout: Lookout, access: Access) -> APIRouter:
    """The routes that tell how the system fares."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", response_class=PlainTextResponse)
    async def livez(verbose: Verbose = None) -> Response:
        """Whether this process answers; says nothing of Redis."""
        return PlainTextResponse("[+]process ok\nlivez: ok\n" if _is_asked_for(verbose) else "ok\n")

    @router.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "Not ready"}})
    async def readyz(request: Request, verbose: Verbose = None) -> Response:
        """Whether the system works: Redis, ticks, queues, the agenda, the limiter, and that all jobs add up."""
        view = await lookout.view()
        status = HTTPStatus.SERVICE_UNAVAILABLE if view.problems else HTTPStatus.OK
        if _is_asked_for(verbose):
            text = _for_people(view, with_reasons=access.is_granted(request))
            return PlainTextResponse(text, status_code=status)
        if not view.problems:
            return PlainTextResponse("ok\n")
        return error_response(
            status,
            f"not ready: {', '.join(view.problems)}; /readyz?verbose and tq doctor tell more",
            code="not_ready",
            details={"problems": view.problems},
        )

    @router.get("/health", responses={503: {"description": "Unhealthy"}})
    async def health(request: Request) -> Response:
        """`healthy`, `degraded` or `unhealthy`, and to those who may know: why."""
        view = await lookout.view()
        document: dict[str, Any] = {"status": _health(view)}
        if access.is_granted(request):
            document["checks"] = [_check_document(finding) for finding in view.findings]
        status = HTTPStatus.SERVICE_UNAVAILABLE if view.problems else HTTPStatus.OK
        return json_response(document, status)

    @router.get("/stats", dependencies=[Depends(access.check)])
    def stats() -> Response:
        """Who is at work, what waits, what is under way, and how fast calls may be made."""
        return json_response(stats_of(runtime, lookout.store))

    return router


def _is_asked_for(verbose: str | None) -> bool:
    return verbose is not None and verbose.lower() not in NO


def _health(view: View) -> str:
    if view.problems:
        return "unhealthy"
    return "degraded" if view.warnings else "healthy"


def _for_people(view: View, *, with_reasons: bool) -> str:
    lines = []
    for finding in view.findings:
        is_problem = finding.status is Status.PROBLEM
        found = (
            f": {' '.join(finding.found.split())}" if with_reasons and finding.status is not Status.OK else ""
        )
        lines.append(f"[{'-' if is_problem else '+'}]{finding.id} {finding.status.value}{found}")
    if view.problems and not with_reasons:
        lines.append("reasons are told with the token, and by tq doctor")
    lines.append(f"readyz: {'not ready' if view.problems else 'ok'}")
    return "\n".join(lines) + "\n"


def _check_document(finding: Finding) -> dict[str, str]:
    return {
        "id": finding.id,
        "status": finding.status.value,
        "found": finding.found,
        "remedy": finding.remedy,
    }
