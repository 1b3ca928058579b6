"""The application: what surrounds requests, where they go, and what happens at its two ends."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import tenantry
from helpdesk import activity, billing, chat, imports, ingestion, integrations
from helpdesk.database import make_pool
from helpdesk.middleware import BodyLimitMiddleware, TenantMiddleware
from helpdesk.quotas import QuotaReached
from helpdesk.settings import settings
from helpdesk.tracing import instrument, set_up_tracing
from tenantry import Sampling


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Configure Tenantry where the process starts; send what is left where it ends."""
    tenantry.configure(
        dsn=settings().dsn,
        service="helpdesk",
        taxonomy="helpdesk.events",
        sampling={
            # All messages of a conversation, or none: what a conversation looked like stays whole.
            "message_sent": Sampling(settings().message_sample_rate, key="conversation_id")
        },
    )
    async with make_pool(settings().dsn, settings().pool_size) as app.state.pool:
        yield
    await tenantry.ashutdown()


def make_app() -> FastAPI:
    """Make the application."""
    app = FastAPI(title="Help desk", lifespan=lifespan)
    for module in (chat, imports, ingestion, integrations, billing, activity):
        app.include_router(module.router)
    app.add_middleware(TenantMiddleware)
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings().max_body_bytes)
    set_up_tracing("helpdesk")
    instrument(app)

    @app.get("/health")
    async def health() -> dict[str, int]:
        return {"pid": os.getpid()}

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which may be large, secret, or text that no answer can carry.
        problems = [
            {key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()
        ]
        return JSONResponse({"detail": problems}, status_code=422)

    @app.exception_handler(QuotaReached)
    async def quota_reached(_: Request, error: QuotaReached) -> JSONResponse:
        return JSONResponse(
            {
                "detail": str(error),
                "quota_type": error.quota_type,
                "limit": error.limit,
                "attempted": error.attempted,
            },
            status_code=429,
        )

    return app


app = make_app()
