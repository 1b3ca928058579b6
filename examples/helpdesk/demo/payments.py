"""How customers pay: the checkout that they start, and what Stripe tells the help desk of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from helpdesk.demo.ledger import Customer, Ledger, Session, Webhook, send
from helpdesk.demo.world import make_stripe_event, sign_as_stripe

Checkout = dict[str, Any]

Then = Callable[[Customer, Checkout], Awaitable[None]]
"""What follows a checkout."""

_MOMENT: Final = 2.0
"""Seconds that a customer takes to pay. Stripe tells times in whole seconds."""


async def check_out(
    session: Session, world: httpx.AsyncClient, plan: str, then: Sequence[Then]
) -> None:
    """Start to pay, and after a moment let follow what follows."""
    answer = await session.call("start checkout", "POST", "/v1/checkout", json={"plan": plan})
    if answer is None or answer.status_code != 201:
        return
    checkout = await world.get(
        f"/v1/checkout/sessions/{answer.json()['stripe_session_id']}",
        headers={"Authorization": "Bearer sk_test_stripe_itself"},
    )
    for follow in then:
        await asyncio.sleep(_MOMENT)
        await follow(session.customer, checkout.json())


@dataclass(frozen=True, slots=True)
class Stripe:
    """Sends webhooks to the help desk, signed as Stripe does; a forger guesses the secret."""

    client: httpx.AsyncClient
    ledger: Ledger
    secret: str
    is_forger: bool = False

    def completes(self, *, times: int = 1) -> Then:
        """Give what tells that a checkout was paid; ``times`` above 1 for replays."""

        async def follow(customer: Customer, checkout: Checkout) -> None:
            paid = {**checkout, "status": "complete", "customer": customer_id(customer)}
            event = Webhook(
                event_id=f"evt_{checkout['id']}",
                customer=customer,
                name="checkout_completed",
                created=int(time.time()),
                status=None,
                data={"plan": checkout["metadata"]["plan"], "stripeSessionId": checkout["id"]},
                is_forged=self.is_forger,
            )
            body = make_stripe_event(
                event.event_id, "checkout.session.completed", paid, created=event.created
            )
            await self._send(event, body, times)

        return follow

    def updates(self, previous: str, plan: str, status: str, *, times: int = 1) -> Then:
        """Give what tells that a subscription was changed."""

        async def follow(customer: Customer, checkout: Checkout) -> None:
            subscription = {
                "id": f"sub_{customer.id.hex[:14]}",
                "object": "subscription",
                "customer": customer_id(customer),
                "status": status,
                "items": _items(plan),
            }
            event = Webhook(
                event_id=f"evt_{checkout['id']}_{plan}_{status}",
                customer=customer,
                name="plan_updated",
                created=int(time.time()),
                status=None,
                data={"previousPlan": previous, "newPlan": plan, "status": status},
                is_forged=self.is_forger,
            )
            body = make_stripe_event(
                event.event_id,
                "customer.subscription.updated",
                subscription,
                created=event.created,
                previous={"items": _items(previous)} if previous != plan else {},
            )
            await self._send(event, body, times)

        return follow

    async def _send(self, event: Webhook, body: bytes, times: int) -> None:
        for _ in range(times):
            headers = {"Stripe-Signature": sign_as_stripe(body, self.secret)}
            response = await send(
                self.client, "POST", "/webhooks/stripe", content=body, headers=headers
            )
            status = None if response is None else response.status_code
            self.ledger.webhooks.append(replace(event, status=status))


def customer_id(customer: Customer) -> str:
    """Give the id by which Stripe knows a tenant."""
    return f"cus_{customer.id.hex[:14]}"


def _items(plan: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"price": {"id": f"price_{plan}", "lookup_key": plan}}]}
