"""The figures for Prometheus, and for a collector that is told by OTLP."""

from fastapi import APIRouter, Depends, Response

from tq.metrics import CONTENT_TYPE, Meter, exposed
from tq.web.access import Access


def metrics_router(meter: Meter, access: Access) -> APIRouter:
    """The route that is scraped."""
    router = APIRouter(tags=["metrics"], dependencies=[Depends(access.check)])

    @router.get(
        "/metrics", responses={200: {"content": {"text/plain": {}}}, 503: {"description": "Redis is away"}}
    )
    def metrics() -> Response:
        """All metrics of all processes, in Prometheus' text format."""
        return Response(exposed(meter.read()), headers={"Content-Type": CONTENT_TYPE})

    return router
