"""The starter taxonomy of a software-as-a-service product: eleven events."""

from __future__ import annotations

from typing import Literal

from tenantry.taxonomy import Event


class ConversationStarted(Event):
    """A visitor or customer opened a conversation."""

    session_id: str
    conversation_id: str


class MessageSent(Event):
    """A message was added to a conversation, by the user or by the assistant."""

    conversation_id: str
    role: Literal["user", "assistant"]
    confidence: float | None = None
    """How sure the assistant was of its answer, from 0 to 1."""


class EscalationTriggered(Event):
    """A conversation was passed on to people."""

    conversation_id: str
    reason: str
    integration_id: str | None = None


class PlanUpdated(Event):
    """A tenant's subscription changed."""

    previous_plan: str
    new_plan: str
    status: str


class CheckoutCompleted(Event):
    """A tenant paid for a plan."""

    plan: str
    stripe_session_id: str


class IngestStarted(Event):
    """The ingestion of a source began."""

    source_type: str
    url: str


class IngestCompleted(Event):
    """A source was ingested."""

    source_type: str
    url: str
    docs: int
    chunks: int


class IngestFailed(Event):
    """A source could not be ingested."""

    source_type: str
    url: str
    error_code: str


class IntegrationFailed(Event):
    """A call to a tenant's integration failed."""

    integration_id: str
    type: str
    error_code: str


class IntegrationSucceeded(Event):
    """A call to a tenant's integration succeeded."""

    integration_id: str
    type: str


class QuotaExceeded(Event):
    """A tenant tried to use more than its plan allows."""

    quota_type: str
    limit: int
    attempted: int
