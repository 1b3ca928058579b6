"""What may be recorded: Tenantry's starter taxonomy, and one event of the help desk's own."""

from tenantry import Event
from tenantry.taxonomies.saas import (
    CheckoutCompleted,
    ConversationStarted,
    EscalationTriggered,
    IngestCompleted,
    IngestFailed,
    IngestStarted,
    IntegrationFailed,
    IntegrationSucceeded,
    MessageSent,
    PlanUpdated,
    QuotaExceeded,
)

__all__ = [
    "CheckoutCompleted",
    "CheckoutStarted",
    "ConversationStarted",
    "EscalationTriggered",
    "IngestCompleted",
    "IngestFailed",
    "IngestStarted",
    "IntegrationFailed",
    "IntegrationSucceeded",
    "MessageSent",
    "PlanUpdated",
    "QuotaExceeded",
]


class CheckoutStarted(Event):
    """A tenant was sent to Stripe to pay; ``checkout_completed`` tells whether it did."""

    plan: str
    stripe_session_id: str
