"""Webhooks as Stripe sends them, in tests."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from helpdesk.demo.world import make_stripe_event, sign_as_stripe

from tests.helpdesk.desk import WEBHOOK_SECRET, Customer, Desk


def post_webhook(desk: Desk, body: bytes, signature: str | None, **options: Any) -> httpx.Response:
    headers = options.pop("headers", {})
    if signature is not None:
        headers = {**headers, "Stripe-Signature": signature}
    return desk.request("POST", "/webhooks/stripe", content=body, headers=headers, **options)


@dataclass(frozen=True)
class Webhook:
    """An event of Stripe's; sent again, it is the same one."""

    kind: str
    object: dict[str, Any]
    created: int
    id: str
    previous: dict[str, Any] | None = None

    @property
    def body(self) -> bytes:
        return make_stripe_event(
            self.id, self.kind, self.object, created=self.created, previous=self.previous
        )

    def send(self, desk: Desk, **options: Any) -> httpx.Response:
        return post_webhook(desk, self.body, sign_as_stripe(self.body, WEBHOOK_SECRET), **options)


def customer_id(customer: Customer) -> str:
    """Give what Stripe calls the tenant."""
    return f"cus_{customer.id.hex[:14]}"


def checkout_completed(
    customer: Customer,
    *,
    created: int | None = None,
    plan: str = "business",
    reference: str | None = None,
) -> Webhook:
    session = {
        "id": f"cs_test_{uuid4().hex}",
        "object": "checkout.session",
        "client_reference_id": str(customer.id) if reference is None else reference,
        "customer": customer_id(customer),
        "metadata": {"plan": plan},
        "mode": "subscription",
        "status": "complete",
    }
    return Webhook("checkout.session.completed", session, created or int(time.time()), new_id())


def subscription_updated(
    customer: Customer,
    *,
    created: int | None = None,
    plan: str = "business",
    previous: str | None = None,
    status: str = "active",
    stripe_customer: str | None = None,
) -> Webhook:
    subscription = {
        "id": f"sub_{uuid4().hex}",
        "object": "subscription",
        "customer": stripe_customer or customer_id(customer),
        "status": status,
        "items": _items(plan),
    }
    changed = None if previous is None else {"items": _items(previous)}
    return Webhook(
        "customer.subscription.updated",
        subscription,
        created or int(time.time()),
        new_id(),
        changed,
    )


def _items(plan: str) -> dict[str, Any]:
    price = {"id": f"price_{plan}", "object": "price", "lookup_key": plan}
    item = {"id": "si_1", "object": "subscription_item", "price": price, "quantity": 1}
    return {"object": "list", "data": [item]}


def new_id() -> str:
    return f"evt_{uuid4().hex}"
