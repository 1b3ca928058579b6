"""The outside world: Stripe, the endpoints of tenants, and a web site, each played by one process.

Run by ``uvicorn helpdesk.demo.world:app``. It knows nothing of the help desk.
"""

import asyncio
import hashlib
import hmac
import importlib
import json
import pydoc
import struct
import time
import zlib
from collections import Counter, defaultdict
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

MODULES: Final = """
    abc argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections configparser
    contextlib copy csv ctypes dataclasses datetime decimal difflib dis doctest email enum fileinput
    fnmatch fractions ftplib functools getpass gettext glob graphlib gzip hashlib heapq hmac html
    http imaplib inspect io ipaddress itertools json keyword linecache locale logging lzma mailbox
    math mimetypes multiprocessing netrc numbers operator optparse os pathlib pickle pkgutil
    platform plistlib poplib pprint profile queue quopri random re reprlib sched secrets selectors
    shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string
    stringprep struct subprocess symtable sysconfig tarfile tempfile textwrap threading time timeit
    token tokenize trace traceback types typing unicodedata unittest urllib uuid venv warnings wave
    weakref webbrowser xml zipapp zipfile zlib zoneinfo
""".split()  # noqa: SIM905  # one name a line would be a page of them
"""Modules of the standard library whose documentation is on the web site."""

_FOREVER: Final = 30.0
"""Seconds: longer than any patience."""

_MIB: Final = 1024 * 1024


# The web site.


@cache
def render(module: str) -> str:
    """Render a module's documentation as HTML, by what Python itself brings for that."""
    subject = importlib.import_module(module)
    return pydoc.html.page(pydoc.describe(subject), pydoc.html.document(subject, module))


def show_index(_: Request) -> Response:
    links = "\n".join(f'<li><a href="/site/{name}.html">{name}</a></li>' for name in MODULES)
    return HTMLResponse(f"<title>Modules</title><h1>Modules</h1><ul>{links}</ul>")


def show_page(request: Request) -> Response:
    name = request.path_params["name"].removesuffix(".html")
    if name not in MODULES:
        raise HTTPException(404)
    return HTMLResponse(render(name))


def show_large(_: Request) -> Response:
    page = render("argparse")
    return HTMLResponse(page * (_MIB // len(page) + 1))


def show_image(_: Request) -> Response:
    return Response(_PNG, media_type="image/png")


def show_latin1(_: Request) -> Response:
    text = "Die Geschäftsführung grüßt."
    return Response(text.encode("latin-1"), headers={"Content-Type": "text/plain; charset=utf-8"})


def show_empty(_: Request) -> Response:
    return HTMLResponse("<title></title><script>start()</script>")


def move(_: Request) -> Response:
    return RedirectResponse("/site/json.html", 302)


def refuse(_: Request) -> Response:
    raise HTTPException(403)


def break_down(_: Request) -> Response:
    raise HTTPException(500)


async def dawdle(_: Request) -> Response:
    await asyncio.sleep(_FOREVER)
    return PlainTextResponse("late")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_PNG: Final = (
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _png_chunk(b"IDAT", zlib.compress(b"\0\xff"))
    + _png_chunk(b"IEND", b"")
)
"""One white pixel."""


# The endpoints of tenants.

answers: Final[defaultdict[str, Counter[int]]] = defaultdict(Counter)
"""How often each endpoint gave each status."""


async def hook(request: Request) -> Response:
    """Answer as the endpoint of that name does; an unknown one is a 404."""
    name = request.path_params["name"]
    await request.body()
    if name == "slow":
        answers[name][0] += 1  # nobody waits for its answer
        await asyncio.sleep(_FOREVER)
    status = {"ok": 204, "slow": 204, "flaky": 204, "broken": 500, "gone": 410}.get(name, 404)
    if name == "flaky" and answers[name].total() % 3 == 2:
        status = 503
    if name != "slow":
        answers[name][status] += 1
    return Response(status_code=status)


def show_answers(_: Request) -> Response:
    return JSONResponse({name: dict(counts) for name, counts in answers.items()})


# Stripe.

sessions: Final[dict[str, dict[str, Any]]] = {}
"""Checkout sessions by id."""

_ids: Final[dict[str, str]] = {}
"""The session that each Idempotency-Key made."""


async def create_session(request: Request) -> Response:
    """Make a checkout session from Stripe's own form fields."""
    _check_key(request)
    form = dict(parse_qsl((await request.body()).decode()))
    if form.get("mode") != "subscription" or "line_items[0][price]" not in form:
        return _stripe_error(400, "invalid_request_error", "a price and a mode are needed")
    key = request.headers.get("Idempotency-Key", str(uuid4()))
    session_id = _ids.setdefault(key, f"cs_test_{uuid4().hex}")
    session = sessions.setdefault(
        session_id,
        {
            "id": session_id,
            "object": "checkout.session",
            "mode": "subscription",
            "status": "open",
            "livemode": False,
            "created": int(time.time()),
            "url": f"https://checkout.stripe.com/c/pay/{session_id}",
            "success_url": form.get("success_url"),
            "cancel_url": form.get("cancel_url"),
            "client_reference_id": form.get("client_reference_id"),
            "customer": None,
            "metadata": {k[9:-1]: v for k, v in form.items() if k.startswith("metadata[")},
        },
    )
    return JSONResponse(session)


def retrieve_session(request: Request) -> Response:
    """Give a checkout session as it is known here."""
    _check_key(request)
    session = sessions.get(request.path_params["id"])
    if session is None:
        return _stripe_error(404, "invalid_request_error", "No such checkout.session")
    return JSONResponse(session)


class _Unauthorized(Exception):
    """The key is none of Stripe's test keys."""


def _check_key(request: Request) -> None:
    if not request.headers.get("Authorization", "").startswith("Bearer sk_test_"):
        raise _Unauthorized


def _refuse_key(_: Request, __: Exception) -> Response:
    return _stripe_error(401, "invalid_request_error", "Invalid API Key provided")


def _stripe_error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)


def make_stripe_event(
    event_id: str,
    kind: str,
    subject: dict[str, Any],
    *,
    created: int,
    previous: dict[str, Any] | None = None,
) -> bytes:
    """Make the body of a webhook as Stripe writes it."""
    data: dict[str, Any] = {"object": subject}
    if previous is not None:
        data["previous_attributes"] = previous
    event = {
        "id": event_id,
        "object": "event",
        "api_version": "2026-01-28.clover",
        "created": created,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        "data": data,
    }
    return json.dumps(event).encode()


def sign_as_stripe(body: bytes, secret: str, *, at: float | None = None) -> str:
    """Make the header ``Stripe-Signature``; ``at`` is seconds since the epoch, now by default."""
    timestamp = int(time.time() if at is None else at)
    signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={signed.hexdigest()}"


def show_health(_: Request) -> Response:
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/health", show_health),
        Route("/site/", show_index),
        Route("/site/large", show_large),
        Route("/site/image.png", show_image),
        Route("/site/latin1.txt", show_latin1),
        Route("/site/empty", show_empty),
        Route("/site/moved", move),
        Route("/site/forbidden", refuse),
        Route("/site/broken", break_down),
        Route("/site/slow", dawdle),
        Route("/site/{name}", show_page),
        Route("/hooks", show_answers),
        Route("/hooks/{name}", hook, methods=["POST"]),
        Route("/v1/checkout/sessions", create_session, methods=["POST"]),
        Route("/v1/checkout/sessions/{id}", retrieve_session),
    ],
    exception_handlers={_Unauthorized: _refuse_key},
)
