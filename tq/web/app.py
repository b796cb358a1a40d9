"""The app: which routers there are, and what is done around each request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI

from tq.alerts import Watch
from tq.debugging import DebugServer
from tq.metrics import Meter, open_export
from tq.runtime import Runtime
from tq.web.access import Access
from tq.web.debug import debug_router
from tq.web.errors import ERRORS, answer_errors
from tq.web.health import health_router
from tq.web.lookout import Lookout
from tq.web.metrics import metrics_router
from tq.web.requests import Requests


def make_app(runtime: Runtime) -> FastAPI:
    """What `tq web` serves; the runtime is closed by whoever has opened it.

    Raises:
        InvalidSetting: if strangers could reach it without a token.
    """
    access, lookout = Access(runtime.settings), Lookout(runtime)
    meter, watch = Meter(runtime, lookout.store), Watch(runtime)
    export = open_export(meter, runtime.settings.namespace)

    @asynccontextmanager
    async def open_for_business(_app: FastAPI) -> AsyncIterator[None]:
        # As in every process, so that `tq debug` finds it, whoever may call the app itself.
        debugging = DebugServer() if runtime.settings.debug_endpoints else None
        if debugging is not None:
            runtime.facts["debug_port"] = debugging.port
        showing = asyncio.create_task(lookout.keep_showing())
        watch.start()
        if export is not None:
            export.start()
        yield
        await asyncio.to_thread(watch.stop)
        if export is not None:
            await asyncio.to_thread(export.stop)
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        await lookout.close()
        if debugging is not None:
            await asyncio.to_thread(debugging.close)

    app = FastAPI(
        title="TaskQueue",
        version=version("taskqueue"),
        lifespan=open_for_business,
        # These pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=dict(ERRORS),
        # FastAPI would tell exceptions and query strings to a collector as they are.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.add_middleware(Requests)
    answer_errors(app)
    app.include_router(health_router(runtime, lookout, access))
    app.include_router(metrics_router(meter, access))
    if runtime.settings.debug_endpoints:
        app.include_router(debug_router(access))
    return app
