"""Conversations of another help desk, taken over with the time at which they happened."""

from typing import Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, Field

from helpdesk.chat import Name, Text, add_message
from helpdesk.database import Connection, pool_of
from helpdesk.middleware import Tenant
from tenantry import alog_event
from tenantry.taxonomies.saas import ConversationStarted, MessageSent

router = APIRouter(prefix="/v1")


class PastMessage(BaseModel):
    role: Literal["user", "assistant"]
    text: Text


class PastConversation(BaseModel):
    external_id: Name
    session_id: Name
    started_at: AwareDatetime
    messages: list[PastMessage] = Field(max_length=200)


class Import(BaseModel):
    conversations: list[PastConversation] = Field(max_length=500)


@router.post("/imports/conversations")
async def import_conversations(new: Import, request: Request, tenant_id: Tenant) -> dict[str, int]:
    """Take over conversations of another help desk; what was imported before is left alone."""
    imported = 0
    async with pool_of(request).connection() as connection:
        for past in new.conversations:
            imported += await import_conversation(connection, tenant_id, past)
    return {"imported": imported, "known": len(new.conversations) - imported}


async def import_conversation(
    connection: Connection, tenant_id: UUID, past: PastConversation
) -> bool:
    cursor = await connection.execute(
        "INSERT INTO helpdesk.conversations (tenant_id, session_id, external_id, started_at)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING id",
        [tenant_id, past.session_id, past.external_id, past.started_at],
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    for message in past.messages:
        await add_message(
            connection, tenant_id, row["id"], message.role, message.text, sent_at=past.started_at
        )
    await record_import(connection, past, str(row["id"]))
    return True


async def record_import(connection: Connection, past: PastConversation, own_id: str) -> None:
    """Record what happened back then: at its time, and once, however often it is imported."""
    await alog_event(
        ConversationStarted(session_id=past.session_id, conversation_id=own_id),
        conn=connection,
        occurred_at=past.started_at,
        idempotency_key=f"import:{past.external_id}",
    )
    for number, message in enumerate(past.messages):
        await alog_event(
            MessageSent(conversation_id=own_id, role=message.role),
            conn=connection,
            occurred_at=past.started_at,
            idempotency_key=f"import:{past.external_id}:{number}",
        )
