"""What the help desk records, asked of its functions without a server: as an application tests it.

Only what is stored needs the database; the events need none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from helpdesk import chat, ingestion, quotas
from helpdesk.database import Pool, make_pool
from helpdesk.documents import SourceError
from helpdesk.settings import settings
from helpdesk.tenants import LIMITS, create_tenant

from tenantry import tenant
from tenantry.testing import CapturedEvents
from tests.helpdesk.desk import DeskDatabase


@pytest.fixture
def tenantry_options() -> dict[str, Any]:
    return {"taxonomy": "helpdesk.events"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HELPDESK_DSN", "postgresql://nowhere.invalid/")
    monkeypatch.setenv("HELPDESK_FILES", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
async def pool(anyio_backend: str, desk_database: DeskDatabase) -> AsyncIterator[Pool]:
    async with make_pool(desk_database.login, 2) as pool:
        yield pool


@pytest.fixture
def customer(desk_database: DeskDatabase) -> UUID:
    with psycopg.connect(desk_database.superuser) as connection:
        return create_tenant(connection, "In process", plan="free")[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content, code",
    [(None, "source_missing"), (b"", "source_empty"), (b"a\0b", "source_binary")],
    ids=["missing", "empty", "binary"],
)
async def test_source_that_cannot_be_had(
    captured_events: CapturedEvents, files: Path, content: bytes | None, code: str
):
    nobody = uuid4()
    if content is not None:
        (files / str(nobody)).mkdir()
        (files / str(nobody) / "a.txt").write_bytes(content)
    unused: Any = None
    with tenant(nobody), pytest.raises(SourceError):
        await ingestion.ingest("file", "a.txt", nobody, unused)

    captured_events.one("ingest_started", tenant=nobody, source_type="file", url="a.txt")
    captured_events.one("ingest_failed", tenant=nobody, error_code=code)
    captured_events.assert_not_emitted("ingest_completed")


@pytest.mark.anyio
async def test_documents_that_are_stored(
    captured_events: CapturedEvents, files: Path, pool: Pool, customer: UUID
):
    folder = files / str(customer)
    folder.mkdir()
    for name in ("a.txt", "b.md"):
        (folder / name).write_text("All about it.")
    with tenant(customer, actor="key:test"):
        await ingestion.ingest("file", ".", customer, pool)

    completed = captured_events.one("ingest_completed", docs=2, chunks=2, actor="key:test")
    assert completed.duration_ms is not None
    assert captured_events.names == ["ingest_started", "ingest_completed"]


@pytest.mark.anyio
async def test_quota_that_is_passed(captured_events: CapturedEvents, pool: Pool, customer: UUID):
    limit = LIMITS["free"]["documents"]
    with tenant(customer), pytest.raises(quotas.QuotaReached):
        async with pool.connection() as connection:
            await quotas.use(connection, customer, "documents", limit + 1)

    captured_events.one("quota_exceeded", limit=limit, attempted=limit + 1)


@pytest.mark.anyio
async def test_conversation_that_is_passed_on(
    captured_events: CapturedEvents, files: Path, pool: Pool, customer: UUID
):
    conversation = {"id": uuid4(), "session_id": "visitor-1"}
    with tenant(customer):
        async with pool.connection() as connection:
            await chat.escalate(connection, customer, conversation, "nothing_found", "Where?")

    escalated = captured_events.one("escalation_triggered", reason="nothing_found")
    assert escalated.data == {
        "conversationId": str(conversation["id"]),
        "reason": "nothing_found",
    }
