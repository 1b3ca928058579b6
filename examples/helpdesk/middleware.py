"""What surrounds each request: a limit to its body, and the tenant whose API key it carries.

Pure ASGI: in a ``BaseHTTPMiddleware`` a context variable that is set does not reach the endpoint's
background, and one set by a dependency that is a plain function is lost.
"""

import re
from typing import Annotated, Final
from uuid import UUID, uuid4

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpdesk.tenants import find_caller
from tenantry import PLATFORM, tenant

_PUBLIC: Final = ("/health", "/webhooks/")
"""Paths without an API key: webhooks are signed instead."""

_REQUEST_ID: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class TenantMiddleware:
    """Lets in who has an API key, and runs the request in the scope of that key's tenant.

    Nothing that a client sends but the key itself chooses the tenant.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith(_PUBLIC):
            # A scope here as well: a server that keeps connections alive may run a request in the
            # context that the one before it left (uvicorn without --reset-contextvars does).
            with tenant(PLATFORM):
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        caller = None
        if scheme.lower() == "bearer" and key:
            caller = await find_caller(scope["app"].state.pool, key.strip())
        if caller is None:
            refusal = JSONResponse(
                {"detail": "an API key is needed: Authorization: Bearer hd_…"},
                status_code=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = str(uuid4())
        scope.setdefault("state", {})["tenant_id"] = caller.tenant_id
        with tenant(caller.tenant_id, actor=f"key:{caller.key_name}", correlation=request_id):
            await self.app(scope, receive, send)


def tenant_of(request: Request) -> UUID:
    """Give the tenant whose API key the request carries."""
    tenant_id: UUID = request.state.tenant_id
    return tenant_id


Tenant = Annotated[UUID, Depends(tenant_of)]
"""A parameter of an endpoint: whose request it is."""


class BodyLimitMiddleware:
    """Refuses a body above the limit, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > self.max_bytes:
            await self._refuse()(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self._text())
            return message

        await self.app(scope, receive_within_limit, send)

    def _refuse(self) -> JSONResponse:
        return JSONResponse({"detail": self._text()}, status_code=413)

    def _text(self) -> str:
        return f"the body is larger than {self.max_bytes} bytes"
