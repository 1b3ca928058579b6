"""Ingestion: files that tenants upload, and what is taken from them and from the web."""

import asyncio
import errno
import tempfile
import zlib
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from uuid import UUID

import httpx
from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, StringConstraints, model_validator

from helpdesk import documents, quotas
from helpdesk.database import Pool, pool_of
from helpdesk.documents import Document, SourceError
from helpdesk.middleware import Tenant
from helpdesk.outbound import AddressRefused, make_client
from helpdesk.quotas import QuotaReached
from helpdesk.settings import settings
from tenantry import emits

router = APIRouter(prefix="/v1")

SourceType = Literal["file", "web"]

_MAX_REDIRECTS: Final = 3

_BAD_PATHS: Final = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTEMPTY}
"""How the file system refuses a name, rather than being in trouble itself."""


def _fits(url: str) -> str:
    if len(url.encode()) > documents.MAX_URL_BYTES:
        raise ValueError(f"may have {documents.MAX_URL_BYTES} bytes")
    return url


class Source(BaseModel):
    """Where to take documents from: a path among the tenant's files, or a URL."""

    source_type: SourceType
    url: Annotated[str, StringConstraints(min_length=1), AfterValidator(_fits)]

    @model_validator(mode="after")
    def _has_no_password(self) -> Self:
        # The URL is recorded with the event and shown with answers.
        if self.source_type == "web":
            try:
                url = httpx.URL(self.url)
            except httpx.InvalidURL as error:
                raise ValueError(f"the url is malformed: {error}") from None
            if url.userinfo:
                raise ValueError("the url has a name or a password in it")
        return self


@dataclass(frozen=True, slots=True)
class Report:
    """What was ingested."""

    docs: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An uploaded file."""

    path: str
    bytes: int


@router.put("/files/{path:path}", status_code=201)
async def put_file(path: str, request: Request, tenant_id: Tenant) -> Stored:
    """Store a file among the tenant's, in place of the one that was there."""
    body = await request.body()
    try:
        name = await run_in_threadpool(_store_file, files_of(tenant_id), path, body)
    except SourceError as error:
        raise HTTPException(400, str(error)) from error
    return Stored(name, len(body))


@router.post("/sources", status_code=201, response_model=Report)
async def add_source(source: Source, request: Request, tenant_id: Tenant) -> Report | JSONResponse:
    """Ingest a file, a folder or a page, in place of what was known of it."""
    try:
        return await ingest(source.source_type, source.url, tenant_id, pool_of(request))
    except SourceError as error:
        return JSONResponse({"detail": str(error), "code": error.error_code}, status_code=422)


# A SourceError brings its code along.
@emits("ingest", errors={QuotaReached: "quota_reached"})
async def ingest(source_type: SourceType, url: str, tenant_id: UUID, pool: Pool) -> Report:
    """Read a source and store its documents, all or none.

    Raises a ``SourceError``, or ``QuotaReached``.
    """
    max_bytes = settings().max_document_bytes
    if source_type == "file":
        found = await run_in_threadpool(documents.read_source, files_of(tenant_id), url, max_bytes)
    else:
        raw, content_type = await fetch(url, max_bytes)
        kind, charset = documents.kind_of_content_type(content_type, httpx.URL(url).path)
        found = [await run_in_threadpool(documents.make_document, url, raw, kind, charset)]
    await store(pool, tenant_id, found)
    return Report(docs=len(found), chunks=sum(len(document.chunks) for document in found))


def files_of(tenant_id: UUID) -> Path:
    """Give the folder of a tenant's files; it need not exist."""
    return settings().files / str(tenant_id)


async def fetch(url: str, max_bytes: int) -> tuple[bytes, str | None]:
    """Get the body of a page, at most ``max_bytes``, and its Content-Type.

    ``fetch_timeout`` is for all of it, redirects included: a server that sends a byte now and then
    must not hold us. Raises a ``SourceError``.
    """
    try:
        async with asyncio.timeout(settings().fetch_timeout), make_client() as client:
            request = client.build_request("GET", url, headers={"Accept-Encoding": "gzip"})
            # Not by follow_redirects, which reads the body of each redirect whole.
            for _ in range(1 + _MAX_REDIRECTS):
                async with aclosing(await client.send(request, stream=True)) as response:
                    if response.next_request is None:
                        _check_status(response.status_code)
                        body = await _read_body(response, max_bytes)
                        return body, response.headers.get("Content-Type")
                    request = response.next_request
            raise documents.SourceUnreadable(f"more than {_MAX_REDIRECTS} redirects")
    except AddressRefused as error:
        raise documents.SourceForbidden(str(error)) from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise documents.SourceTimeout("the source took too long") from error
    except (httpx.InvalidURL, UnicodeError, ExceptionGroup) as error:
        # Where redirects lead as well: UnicodeError is a host name that IDNA forbids,
        # and ExceptionGroup a port above 65535, as anyio reports it.
        raise documents.SourceUnreadable(f"the source cannot be fetched: {error}") from error
    except httpx.RequestError as error:
        raise documents.SourceUnavailable(f"the source is away: {error}") from error


def _check_status(status: int) -> None:
    text = f"the source answered {status}"
    if status in {404, 410}:
        raise documents.SourceMissing(text)
    if status in {401, 403}:
        raise documents.SourceForbidden(text)
    if status >= 500:
        raise documents.SourceUnavailable(text)
    if not 200 <= status < 300:
        raise documents.SourceUnreadable(text)


async def _read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read and unpack; stops at the limit, so that a small body cannot unpack to gigabytes."""
    packed = response.headers.get("Content-Encoding", "identity").lower()
    if packed not in {"identity", "gzip"}:
        raise documents.SourceUndecodable(f"the source is packed by {packed!r:.40}")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if packed == "gzip" else None
    body = bytearray()
    async for part in response.aiter_raw():
        try:
            body += unpack.decompress(part, max_bytes + 1 - len(body)) if unpack else part
        except zlib.error as error:
            raise documents.SourceUndecodable("the source is not the gzip it claims") from error
        if len(body) > max_bytes:
            raise documents.SourceTooLarge(f"the source has more than {max_bytes} bytes")
    if unpack and not unpack.eof:
        raise documents.SourceUndecodable("the source ends in the middle of its gzip")
    return bytes(body)


async def store(pool: Pool, tenant_id: UUID, found: list[Document]) -> None:
    """Store documents in one transaction; only those that are new count for the quota."""
    found = sorted(found, key=lambda document: document.url)  # one order, so that none deadlock
    async with pool.connection() as connection, connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO helpdesk.documents (tenant_id, url, title) VALUES (%s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            [(tenant_id, document.url, document.title) for document in found],
        )
        if cursor.rowcount:
            await quotas.use(connection, tenant_id, "documents", cursor.rowcount)
        # Locks each document, so that chunks of two ingestions at once never mix.
        await cursor.executemany(
            """
            UPDATE helpdesk.documents SET title = %s, ingested_at = now()
            WHERE tenant_id = %s AND url = %s
            """,
            [(document.title, tenant_id, document.url) for document in found],
        )
        await cursor.execute(
            "DELETE FROM helpdesk.chunks WHERE tenant_id = %s AND url = ANY(%s)",
            [tenant_id, [document.url for document in found]],
        )
        await cursor.executemany(
            "INSERT INTO helpdesk.chunks (tenant_id, url, number, body) VALUES (%s, %s, %s, %s)",
            [
                (tenant_id, document.url, number, chunk)
                for document in found
                for number, chunk in enumerate(document.chunks)
            ],
        )


def _store_file(folder: Path, path: str, body: bytes) -> str:
    """Write a file so that a reader sees the old one or the new one; give its path."""
    place = documents.locate(folder, path)
    name = place.relative_to(folder).as_posix()
    if place == folder or len(name.encode()) > documents.MAX_URL_BYTES:
        raise documents.SourceUnreadable(
            f"a path has 1 to {documents.MAX_URL_BYTES} bytes below the folder"
        )
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(body)
        temporary.replace(place)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if error.errno in _BAD_PATHS:
            raise documents.SourceUnreadable(f"no file can be called {name!r}") from error
        raise
    return name
