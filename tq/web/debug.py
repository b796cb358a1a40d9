"""What the web process tells of itself for debugging, to who is on this machine."""

from fastapi import APIRouter, Depends, Request, Response

from tq.debugging import PREFIX, answer, refused
from tq.web.access import Access


def debug_router(access: Access) -> APIRouter:
    """The routes below /debug/; there only if TQ_DEBUG_ENDPOINTS is set."""
    router = APIRouter(tags=["debug"], dependencies=[Depends(access.check)])

    @router.get(f"{PREFIX}{{name}}")
    def debug(request: Request, name: str) -> Response:
        """Threads, heap, or a CPU profile, which takes as long as was asked for."""
        client = request.client.host if request.client else ""
        told = refused(request.headers.get, client=client) or answer(f"{PREFIX}{name}", request.url.query)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(told.body, told.status, headers, told.content_type)

    return router
