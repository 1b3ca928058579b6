"""Billing: what Stripe signed is recorded once; what it did not sign leaves no trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest
from helpdesk.demo.world import sign_as_stripe

from tests.helpdesk.billing import (
    Webhook,
    checkout_completed,
    customer_id,
    new_id,
    post_webhook,
    subscription_updated,
)
from tests.helpdesk.desk import WEBHOOK_SECRET, Customer, Desk


@pytest.fixture
def payer(customer: Customer) -> Customer:
    """Give a tenant that Stripe knows."""
    assert checkout_completed(customer).send(customer.desk).status_code == 200
    return customer


def sign(body: bytes, secret: str = WEBHOOK_SECRET, age: float = 0) -> str:
    return sign_as_stripe(body, secret, at=time.time() - age)


def everything_recorded(desk: Desk) -> int:
    """Count the rows of all tenants; the dispatcher may still retry what other tests began."""
    desk.settle()
    (row,) = desk.database.execute(
        "SELECT (SELECT count(*) FROM tenantry.events WHERE service = 'helpdesk')"
        " + (SELECT count(*) FROM tenantry.rejected_events) AS n"
    )
    return row["n"]


def test_completed_checkout_makes_the_customer_known(payer: Customer):
    (row,) = payer.desk.database.execute(
        "SELECT stripe_customer_id FROM helpdesk.tenants WHERE id = %s", [payer.id]
    )
    assert row["stripe_customer_id"] == customer_id(payer)


@pytest.mark.parametrize("times", [2, 5])
def test_replayed_webhooks_are_stored_once(payer: Customer, times: int):
    completed = checkout_completed(payer)
    updated = subscription_updated(payer)
    for _ in range(times):
        for event in (completed, updated):
            assert event.send(payer.desk).json() == {"received": True}
    sessions = [row["data"]["stripeSessionId"] for row in payer.events("checkout_completed")]
    assert sorted(sessions) == sorted({*sessions})
    assert len(sessions) == 2  # that of the fixture, and this one
    assert len(payer.events("plan_updated")) == 1


def test_two_events_of_the_same_second_are_two(payer: Customer):
    now = int(time.time())
    for _ in range(2):
        assert subscription_updated(payer, created=now).send(payer.desk).status_code == 200
    assert len(payer.events("plan_updated")) == 2


def refusal(make: Callable[[bytes], str | None], name: str):
    return pytest.param(make, id=name)


@pytest.mark.parametrize(
    "signature",
    [
        refusal(lambda _: None, "missing"),
        refusal(lambda _: "", "empty"),
        refusal(lambda _: "t=,v1=", "no values"),
        refusal(lambda _: f"t={int(time.time())},v1={'0' * 64}", "forged"),
        refusal(lambda body: sign(body, "whsec_of_somebody_else"), "wrong secret"),
        refusal(lambda body: sign(body, ""), "empty secret"),
        refusal(lambda body: sign(body, age=400), "stale"),
        refusal(lambda body: sign(body + b" "), "body changed after signing"),
        refusal(lambda body: sign(body).replace("v1=", "v0="), "another scheme"),
        refusal(
            lambda body: sign(body, age=400).replace("t=", f"t={int(time.time())},t="),
            "stale with a fresh time added",
        ),
    ],
)
def test_webhook_that_stripe_did_not_sign_lately_is_refused(payer: Customer, signature):
    before = everything_recorded(payer.desk)
    plan = payer.plan()
    event = subscription_updated(payer, plan="business", created=int(time.time()) + 60)
    answer = post_webhook(payer.desk, event.body, signature(event.body))
    assert answer.status_code == 400
    assert everything_recorded(payer.desk) == before
    assert payer.plan() == plan


def test_body_changed_after_signing_is_refused(payer: Customer):
    before = everything_recorded(payer.desk)
    event = subscription_updated(payer, plan="team")
    changed = event.body.replace(b'"team"', b'"business"')
    assert changed != event.body
    assert post_webhook(payer.desk, changed, sign(event.body)).status_code == 400
    assert everything_recorded(payer.desk) == before


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"{}", b"null", b'{"id": 7}', b"\xff\xfe", b'{"object": "event"}'],
    ids=["empty", "no JSON", "a list", "an empty object", "null", "id", "no text", "no data"],
)
def test_malformed_body_is_refused_though_it_is_signed(payer: Customer, body: bytes):
    before = everything_recorded(payer.desk)
    assert post_webhook(payer.desk, body, sign(body)).status_code == 400
    assert everything_recorded(payer.desk) == before


@pytest.mark.parametrize(
    "given, stored",
    [
        *[(s, s) for s in ("trialing", "active", "past_due", "canceled", "paused", "incomplete")],
        ("unpaid", "past_due"),
        ("incomplete_expired", "canceled"),
        ("made_up_tomorrow", "other"),
    ],
)
def test_status_is_normalised(payer: Customer, given: str, stored: str):
    event = subscription_updated(payer, status=given, plan="team")
    assert event.send(payer.desk).status_code == 200
    assert payer.event("plan_updated")["data"]["status"] == stored
    assert payer.plan() == ("team", stored)


def test_update_without_an_earlier_plan_keeps_the_plan(payer: Customer):
    subscription_updated(payer, plan="team", status="past_due").send(payer.desk)
    data = payer.event("plan_updated")["data"]
    assert data == {"previousPlan": "team", "newPlan": "team", "status": "past_due"}


def test_late_webhook_is_recorded_and_does_not_undo_a_newer_one(payer: Customer):
    now = int(time.time())
    newer = subscription_updated(payer, plan="business", previous="team", created=now)
    older = subscription_updated(payer, plan="team", previous="free", created=now - 60)
    for event in (newer, older):
        assert event.send(payer.desk).status_code == 200
    assert payer.plan() == ("business", "active")
    recorded = [row["data"]["newPlan"] for row in payer.events("plan_updated")]
    assert recorded == ["team", "business"]  # in the order in which it happened


def unusable(customer: Customer) -> dict[str, Webhook]:
    now = int(time.time())
    completed = checkout_completed(customer).object
    return {
        "unknown customer": subscription_updated(customer, stripe_customer="cus_nobody"),
        "unknown tenant": checkout_completed(
            customer, reference="018f6f0e-0000-7000-8000-00000000dead"
        ),
        "no tenant id": checkout_completed(customer, reference="1 OR 1=1"),
        "another type": Webhook("invoice.paid", {"customer": customer_id(customer)}, now, new_id()),
        "no plan": Webhook(
            "checkout.session.completed", {**completed, "metadata": {}}, now, new_id()
        ),
        "no items": Webhook(
            "customer.subscription.updated",
            {"customer": customer_id(customer), "status": "active", "items": {"data": []}},
            now,
            new_id(),
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["unknown customer", "unknown tenant", "no tenant id", "another type", "no plan", "no items"],
)
def test_webhook_of_no_use_is_taken_and_nothing_is_recorded(payer: Customer, case: str):
    before = everything_recorded(payer.desk)
    answer = unusable(payer)[case].send(payer.desk)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert everything_recorded(payer.desk) == before


def test_webhook_for_a_customer_of_another_tenant_changes_neither(payer: Customer):
    other = Customer.join(payer.desk)
    event = checkout_completed(payer, reference=str(other.id))
    assert event.send(payer.desk).status_code == 200
    assert other.events() == []
    subscription_updated(payer, plan="team").send(payer.desk)
    assert (payer.plan()[0], len(payer.events("plan_updated"))) == ("team", 1)


def test_stripe_is_told_whose_checkout_it_is(customer: Customer):
    session_id = customer.post("/v1/checkout", {"plan": "business"}).json()["stripe_session_id"]
    session = session_at_stripe(customer.desk, session_id)
    assert session["client_reference_id"] == str(customer.id)
    assert session["metadata"] == {"plan": "business"}


def session_at_stripe(desk: Desk, session_id: str) -> dict:
    url = f"{desk.world}/v1/checkout/sessions/{session_id}"
    answer = httpx.get(url, headers={"Authorization": "Bearer sk_test_1"})
    return json.loads(answer.text)


@pytest.mark.parametrize("body", [{}, {"plan": "free"}, {"plan": "platinum"}, {"plan": None}])
def test_plan_that_nobody_can_buy_is_refused(customer: Customer, body: dict):
    assert customer.post("/v1/checkout", body).status_code == 422
    assert customer.events() == []
