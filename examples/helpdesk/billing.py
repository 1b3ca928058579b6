"""Billing: tenants pay at Stripe, and Stripe's webhooks tell what became of it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import psycopg
import stripe
from fastapi import APIRouter, Header, HTTPException, Request
from pydantic import AliasPath, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from helpdesk.database import Connection, pool_of
from helpdesk.events import CheckoutStarted
from helpdesk.middleware import Tenant
from helpdesk.settings import settings
from tenantry import alog_event, log_event, tenant
from tenantry.taxonomies.saas import CheckoutCompleted, PlanUpdated

logger = logging.getLogger(__name__)

Word = Annotated[str, Field(pattern=r"^[\w.:-]{1,200}$")]

_PLAN: Final = ("items", "data", 0, "price", "lookup_key")

_STATUSES: Final = {
    **{
        status: status
        for status in ("trialing", "active", "past_due", "canceled", "paused", "incomplete")
    },
    "unpaid": "past_due",
    "incomplete_expired": "canceled",
}


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[dict[str, stripe.StripeClient]]:
    """Have one client of Stripe's for the application, as ``request.state.stripe``."""
    http_client = stripe.HTTPXClient(timeout=10)
    yield {
        "stripe": stripe.StripeClient(
            settings().stripe_api_key.get_secret_value(),
            base_addresses={"api": settings().stripe_api},
            http_client=http_client,
            max_network_retries=2,
        )
    }
    await http_client.close_async()  # type: ignore[no-untyped-call]  # the library's own


router = APIRouter(lifespan=lifespan)


class Order(BaseModel):
    plan: Literal["team", "business"]


class Checkout(BaseModel):
    """Where the customer goes to pay."""

    url: str
    stripe_session_id: str


@router.post("/v1/checkout", status_code=201)
async def start_checkout(order: Order, request: Request, tenant_id: Tenant) -> Checkout:
    client: stripe.StripeClient = request.state.stripe
    try:
        session = await client.v1.checkout.sessions.create_async(
            {
                "mode": "subscription",
                "client_reference_id": str(tenant_id),
                "metadata": {"plan": order.plan},
                # Webhooks come in any order: the subscription's may be the first.
                "subscription_data": {"metadata": {"tenant_id": str(tenant_id)}},
                "line_items": [{"price": f"price_{order.plan}", "quantity": 1}],
                "success_url": f"{settings().public_url}/?checkout=completed",
                "cancel_url": f"{settings().public_url}/?checkout=canceled",
            }
        )
    except stripe.StripeError as error:
        logger.warning("no checkout: %s", type(error).__name__)
        raise HTTPException(502, "Stripe does not answer as it should; try again later") from error
    if session.url is None:
        raise HTTPException(502, "Stripe gave no page to pay at")
    log_event(CheckoutStarted(plan=order.plan, stripe_session_id=session.id))
    return Checkout(url=session.url, stripe_session_id=session.id)


class StripeEvent(BaseModel):
    id: Word
    type: str
    created: AwareDatetime
    data: dict[str, Any]


class StripeData(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)  # for mypy's plug-in


class CompletedSession(StripeData):
    """What is used of the data of ``checkout.session.completed``."""

    id: Word = Field(validation_alias=AliasPath("object", "id"))
    tenant_id: UUID = Field(validation_alias=AliasPath("object", "client_reference_id"))
    customer: Word | None = Field(None, validation_alias=AliasPath("object", "customer"))
    plan: Word = Field(validation_alias=AliasPath("object", "metadata", "plan"))


class UpdatedSubscription(StripeData):
    """What is used of the data of ``customer.subscription.updated``."""

    customer: Word = Field(validation_alias=AliasPath("object", "customer"))
    tenant_id: UUID | None = Field(
        None, validation_alias=AliasPath("object", "metadata", "tenant_id")
    )
    status: str = Field(validation_alias=AliasPath("object", "status"))
    plan: Word = Field(validation_alias=AliasPath("object", *_PLAN))
    previous_plan: Word | None = Field(
        None, validation_alias=AliasPath("previous_attributes", *_PLAN)
    )


@router.post("/webhooks/stripe")
async def receive(
    request: Request, stripe_signature: Annotated[str, Header()] = ""
) -> dict[str, bool]:
    """Take what Stripe tells. Anything but 200 makes Stripe send it again, for days.

    So does a lost answer: each event may come several times, and in any order.
    """
    body = await request.body()
    secret = settings().stripe_webhook_secret.get_secret_value()
    try:
        # Not Webhook.construct_event, which goes on to make an object of whatever was signed.
        stripe.WebhookSignature.verify_header(
            body, stripe_signature, secret, stripe.Webhook.DEFAULT_TOLERANCE
        )
        event = StripeEvent.model_validate_json(body)
    except (stripe.SignatureVerificationError, ValueError, TypeError) as error:
        # TypeError: of a signature that is not ASCII.
        raise HTTPException(400, "not a webhook that Stripe signed lately") from error
    handle = _HANDLERS.get(event.type)
    if handle is None:
        logger.info("%s: no use for %s", event.id, event.type)
        return {"received": True}
    try:
        async with pool_of(request).connection() as connection:
            await handle(connection, event)
    except (ValidationError, psycopg.errors.UniqueViolation) as error:
        # Nothing was recorded, and it would be no better the next time.
        logger.warning("%s: %s cannot be used: %s", event.id, event.type, type(error).__name__)
    return {"received": True}


async def complete_checkout(connection: Connection, event: StripeEvent) -> None:
    """Remember the tenant's customer id: webhooks of subscriptions made elsewhere have no other."""
    session = CompletedSession.model_validate(event.data)
    cursor = await connection.execute(
        "UPDATE helpdesk.tenants SET stripe_customer_id = coalesce(%s, stripe_customer_id)"
        " WHERE id = %s",
        [session.customer, session.tenant_id],
    )
    if cursor.rowcount == 0:
        logger.warning("%s: no tenant %s", event.id, session.tenant_id)
        return
    with tenant(session.tenant_id, actor="stripe"):
        await alog_event(
            CheckoutCompleted(plan=session.plan, stripe_session_id=session.id),
            conn=connection,
            idempotency_key=event.id,
            occurred_at=event.created,
        )


async def update_plan(connection: Connection, event: StripeEvent) -> None:
    """Change the tenant's plan, unless a later change is known; it is recorded in either case."""
    subscription = UpdatedSubscription.model_validate(event.data)
    status = _STATUSES.get(subscription.status, "other")
    cursor = await connection.execute(
        "SELECT id FROM helpdesk.tenants"
        " WHERE id = coalesce(%s, (SELECT id FROM helpdesk.tenants WHERE stripe_customer_id = %s))",
        [subscription.tenant_id, subscription.customer],
    )
    row = await cursor.fetchone()
    if row is None:
        logger.warning("%s: no tenant is customer %s", event.id, subscription.customer)
        return
    await connection.execute(
        "UPDATE helpdesk.tenants SET plan = %s, plan_status = %s, plan_as_of = %s"
        " WHERE id = %s AND plan_as_of <= %s",
        [subscription.plan, status, event.created, row["id"], event.created],
    )
    with tenant(row["id"], actor="stripe"):
        await alog_event(
            PlanUpdated(
                # Without one, it was not the plan that was updated.
                previous_plan=subscription.previous_plan or subscription.plan,
                new_plan=subscription.plan,
                status=status,
            ),
            conn=connection,
            idempotency_key=event.id,
            occurred_at=event.created,
        )


_HANDLERS: Final = {
    "checkout.session.completed": complete_checkout,
    "customer.subscription.updated": update_plan,
}
