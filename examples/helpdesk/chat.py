"""Conversations: messages are answered from the tenant's documents, or passed on to people."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from helpdesk.database import Connection, pool_of
from helpdesk.integrations import enqueue
from helpdesk.middleware import Tenant
from helpdesk.quotas import use
from helpdesk.search import Answer, find_answer
from helpdesk.settings import settings
from tenantry import alog_event, log_event
from tenantry.taxonomies.saas import ConversationStarted, EscalationTriggered, MessageSent

router = APIRouter(prefix="/v1")

Text = Annotated[str, Field(min_length=1, max_length=8_000, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]

_WANTS_A_PERSON: Final = re.compile(r"\b(human|person|agent|somebody real)\b", re.IGNORECASE)


class NewConversation(BaseModel):
    session_id: Name


class NewMessage(BaseModel):
    text: Text


class Outcome(BaseModel):
    """What became of a message: an answer out of a document, or people who take over."""

    answer: str | None
    source: str | None
    confidence: float
    escalated: bool
    reason: str | None


@router.post("/conversations", status_code=201)
async def start_conversation(
    new: NewConversation, request: Request, tenant_id: Tenant
) -> dict[str, UUID]:
    conversation_id = uuid4()
    async with pool_of(request).connection() as connection:
        await connection.execute(
            "INSERT INTO helpdesk.conversations (tenant_id, id, session_id) VALUES (%s, %s, %s)",
            [tenant_id, conversation_id, new.session_id],
        )
        # With conn=, the event commits with the row: there is never the one without the other.
        await alog_event(
            ConversationStarted(session_id=new.session_id, conversation_id=str(conversation_id)),
            conn=connection,
        )
    return {"id": conversation_id}


@router.post("/conversations/{conversation_id}/messages")
async def send_message(
    conversation_id: UUID, new: NewMessage, request: Request, tenant_id: Tenant
) -> Outcome:
    received_at = datetime.now(UTC)
    async with pool_of(request).connection() as connection:
        conversation = await find_conversation(connection, tenant_id, conversation_id)
        answer = await find_answer(connection, tenant_id, new.text)
        await use(connection, tenant_id, "messages")  # late: it locks the tenant's count
        reason = reason_to_escalate(new.text, answer)
        reply = answer if reason is None else None
        await add_message(connection, tenant_id, conversation_id, "user", new.text)
        if reply is not None:
            await add_message(
                connection,
                tenant_id,
                conversation_id,
                "assistant",
                reply.body,
                confidence=reply.confidence,
            )
        if reason is not None:
            await escalate(connection, tenant_id, conversation, reason, new.text)
    # Now that they are committed, and without conn=: these are many, and may be sampled.
    log_event(
        MessageSent(conversation_id=str(conversation_id), role="user"), occurred_at=received_at
    )
    if reply is not None:
        log_event(
            MessageSent(
                conversation_id=str(conversation_id),
                role="assistant",
                confidence=reply.confidence,
            )
        )
    return Outcome(
        answer=None if reply is None else reply.body,
        source=None if reply is None else reply.url,
        confidence=0.0 if answer is None else answer.confidence,
        escalated=reason is not None,
        reason=reason,
    )


def reason_to_escalate(question: str, answer: Answer | None) -> str | None:
    """Say why people should take over; None where the answer is good enough."""
    if _WANTS_A_PERSON.search(question):
        return "asked_for_a_person"
    if answer is None:
        return "nothing_found"
    if answer.confidence < settings().min_confidence:
        return "low_confidence"
    return None


async def escalate(
    connection: Connection,
    tenant_id: UUID,
    conversation: dict[str, Any],
    reason: str,
    text: str,
) -> None:
    """Pass a conversation on: mark it, tell the tenant's integrations, record it; or nothing."""
    await connection.execute(
        "UPDATE helpdesk.conversations SET escalation_reason = %s WHERE tenant_id = %s AND id = %s",
        [reason, tenant_id, conversation["id"]],
    )
    conversation_id = str(conversation["id"])
    integration_id = await enqueue(
        connection,
        tenant_id,
        {
            "type": "conversation.escalated",
            "conversation_id": conversation_id,
            "session_id": conversation["session_id"],
            "reason": reason,
            "text": text,
        },
    )
    await alog_event(
        EscalationTriggered(
            conversation_id=conversation_id,
            reason=reason,
            integration_id=None if integration_id is None else str(integration_id),
        ),
        conn=connection,
    )


@router.get("/conversations/{conversation_id}")
async def read_conversation(
    conversation_id: UUID, request: Request, tenant_id: Tenant
) -> dict[str, Any]:
    async with pool_of(request).connection() as connection:
        conversation = await find_conversation(connection, tenant_id, conversation_id)
        cursor = await connection.execute(
            "SELECT role, body, confidence, sent_at FROM helpdesk.messages"
            " WHERE tenant_id = %s AND conversation_id = %s ORDER BY id",
            [tenant_id, conversation_id],
        )
        return {**conversation, "messages": await cursor.fetchall()}


async def find_conversation(
    connection: Connection, tenant_id: UUID, conversation_id: UUID
) -> dict[str, Any]:
    """Find the tenant's conversation, and keep others from changing it; 404 for another's."""
    cursor = await connection.execute(
        "SELECT id, session_id, started_at, escalation_reason FROM helpdesk.conversations"
        " WHERE tenant_id = %s AND id = %s FOR UPDATE",
        [tenant_id, conversation_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404, "no such conversation")
    return row


async def add_message(
    connection: Connection,
    tenant_id: UUID,
    conversation_id: UUID,
    role: Literal["user", "assistant"],
    body: str,
    *,
    confidence: float | None = None,
    sent_at: datetime | None = None,
) -> None:
    await connection.execute(
        "INSERT INTO helpdesk.messages"
        " (tenant_id, conversation_id, role, body, confidence, sent_at)"
        " VALUES (%s, %s, %s, %s, %s, coalesce(%s, now()))",
        [tenant_id, conversation_id, role, body, confidence, sent_at],
    )
