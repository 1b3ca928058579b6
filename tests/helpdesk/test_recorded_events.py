"""Each event that the help desk records: the whole row, made by a request as customers make it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import pytest
from helpdesk.tenants import LIMITS

from tests.helpdesk.billing import checkout_completed, subscription_updated
from tests.helpdesk.desk import Customer, Desk, Reply, Row, Site

REQUEST_ID = "order-4711"

GUIDE = "To reset your password, open the settings page and choose the reset link."


@pytest.fixture
def trace_id() -> str:
    return secrets.token_hex(16)


@pytest.fixture
def traced(trace_id: str) -> dict[str, str]:
    """Give the headers of a request in a trace, with an id of its own."""
    return {"traceparent": f"00-{trace_id}-{'1' * 16}-01", "X-Request-ID": REQUEST_ID}


def context_of(row: Row) -> dict:
    return {
        key: row[key]
        for key in ("tenant_id", "actor_id", "correlation_id", "service", "trace_id", "sample_rate")
    }


def requested_by(customer: Customer, trace_id: str) -> dict:
    return {
        "tenant_id": customer.id,
        "actor_id": "key:default",
        "correlation_id": REQUEST_ID,
        "service": "helpdesk",
        "trace_id": trace_id,
        "sample_rate": 1.0,
    }


def assert_is_fact(row: Row) -> None:
    assert row["phase"] is None
    assert row["operation_id"] is None
    assert row["duration_ms"] is None
    assert row["error_code"] is None
    assert row["event_version"] == 1


def test_conversation_started(customer: Customer, trace_id: str, traced: dict[str, str]):
    answer = customer.post("/v1/conversations", {"session_id": "s-1"}, headers=traced)
    assert answer.status_code == 201
    (row,) = customer.events()
    assert_is_fact(row)
    assert row["name"] == "conversation_started"
    assert context_of(row) == requested_by(customer, trace_id)
    assert row["data"] == {"sessionId": "s-1", "conversationId": answer.json()["id"]}


def test_message_sent_by_both_sides(customer: Customer, trace_id: str, traced: dict[str, str]):
    customer.teach(GUIDE)
    conversation_id = customer.start_sampled_conversation()
    before = datetime.now(UTC)
    answer = customer.say(conversation_id, "reset password?", headers=traced)
    assert answer.json() == {
        "answer": GUIDE,
        "source": "guide.txt",
        "confidence": 1.0,
        "escalated": False,
        "reason": None,
    }
    asked, answered = customer.events("message_sent")
    for row in (asked, answered):
        assert_is_fact(row)
        assert context_of(row) == {**requested_by(customer, trace_id), "sample_rate": 0.5}
        assert before <= row["created_at"] <= datetime.now(UTC)
    assert asked["data"] == {"conversationId": conversation_id, "role": "user"}
    assert answered["data"] == {
        "conversationId": conversation_id,
        "role": "assistant",
        "confidence": 1.0,
    }


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Get me a human, please", "asked_for_a_person"),
        ("Gibt es Rabatt?", "nothing_found"),
        ("reset of invoices, contracts, and the weather", "low_confidence"),
    ],
    ids=["asked for", "nothing found", "low confidence"],
)
def test_escalation_triggered(
    customer: Customer, trace_id: str, traced: dict[str, str], text: str, reason: str
):
    customer.teach(GUIDE)
    conversation_id = customer.start_conversation()
    answer = customer.say(conversation_id, text, headers=traced).json()
    assert (answer["escalated"], answer["reason"], answer["answer"]) == (True, reason, None)
    row = customer.event("escalation_triggered")
    assert_is_fact(row)
    assert context_of(row) == requested_by(customer, trace_id)
    assert row["data"] == {"conversationId": conversation_id, "reason": reason}
    conversation = customer.get(f"/v1/conversations/{conversation_id}").json()
    assert conversation["escalation_reason"] == reason


def test_escalation_names_the_integration_that_is_told_first(customer: Customer, site: Site):
    url = site.serve("/", Reply(204))
    ids = {type_: customer.integrate(url, type_)["id"] for type_ in ("webhook", "slack")}
    customer.escalate()
    row = customer.event("escalation_triggered")
    assert row["data"]["integrationId"] == ids["slack"]
    customer.wait_for_events(2, "integration_succeeded")


def test_ingest_that_completes(customer: Customer, trace_id: str, traced: dict[str, str]):
    customer.upload("guide.txt", GUIDE.encode())
    answer = customer.ingest("file", "guide.txt", headers=traced)
    assert (answer.status_code, answer.json()) == (201, {"docs": 1, "chunks": 1})
    started, completed = customer.events()
    source = {"sourceType": "file", "url": "guide.txt"}
    assert (started["name"], started["phase"]) == ("ingest_started", "started")
    assert (completed["name"], completed["phase"]) == ("ingest_completed", "completed")
    assert started["data"] == source
    assert completed["data"] == {**source, "docs": 1, "chunks": 1}
    assert started["operation_id"] == completed["operation_id"] is not None
    assert started["duration_ms"] is None
    assert 0 < completed["duration_ms"] < 60_000
    for row in (started, completed):
        assert context_of(row) == requested_by(customer, trace_id)
        assert row["error_code"] is None


def test_ingest_that_fails(customer: Customer, trace_id: str, traced: dict[str, str]):
    answer = customer.ingest("file", "nowhere.txt", headers=traced)
    assert (answer.status_code, answer.json()["code"]) == (422, "source_missing")
    started, failed = customer.events()
    source = {"sourceType": "file", "url": "nowhere.txt"}
    assert (started["name"], started["phase"]) == ("ingest_started", "started")
    assert (failed["name"], failed["phase"]) == ("ingest_failed", "failed")
    assert failed["data"] == {**source, "errorCode": "source_missing"}
    assert failed["error_code"] == "source_missing"
    assert started["error_code"] is None
    assert started["operation_id"] == failed["operation_id"] is not None
    assert 0 < failed["duration_ms"] < 60_000
    for row in (started, failed):
        assert context_of(row) == requested_by(customer, trace_id)


def test_checkout_started(customer: Customer, trace_id: str, traced: dict[str, str]):
    answer = customer.post("/v1/checkout", {"plan": "team"}, headers=traced)
    assert answer.status_code == 201
    session_id = answer.json()["stripe_session_id"]
    assert session_id.startswith("cs_")
    assert session_id in answer.json()["url"]
    (row,) = customer.events()
    assert row["name"] == "checkout_started"
    assert_is_fact(row)
    assert context_of(row) == requested_by(customer, trace_id)
    assert row["data"] == {"plan": "team", "stripeSessionId": session_id}


def told_by_stripe(customer: Customer, trace_id: str) -> dict:
    return {**requested_by(customer, trace_id), "actor_id": "stripe", "correlation_id": None}


def test_checkout_completed(customer: Customer, trace_id: str, traced: dict[str, str]):
    event = checkout_completed(customer, created=1_790_000_000)
    assert event.send(customer.desk, headers=traced).json() == {"received": True}
    (row,) = customer.events()
    assert row["name"] == "checkout_completed"
    assert_is_fact(row)
    assert context_of(row) == told_by_stripe(customer, trace_id)
    assert row["data"] == {"plan": "business", "stripeSessionId": event.object["id"]}
    assert row["created_at"] == datetime.fromtimestamp(1_790_000_000, UTC)


def test_plan_updated(customer: Customer, trace_id: str, traced: dict[str, str]):
    checkout_completed(customer, created=1_790_000_000).send(customer.desk)
    event = subscription_updated(customer, created=1_790_000_100, plan="business", previous="team")
    assert event.send(customer.desk, headers=traced).status_code == 200
    row = customer.event("plan_updated")
    assert_is_fact(row)
    assert context_of(row) == told_by_stripe(customer, trace_id)
    assert row["data"] == {"previousPlan": "team", "newPlan": "business", "status": "active"}
    assert row["created_at"] == datetime.fromtimestamp(1_790_000_100, UTC)


def test_quota_exceeded(desk: Desk, trace_id: str, traced: dict[str, str]):
    customer = Customer.join(desk, plan="free")
    limit = LIMITS["free"]["documents"]
    for number in range(limit + 1):
        customer.upload(f"many/{number}.txt", b"Something to know.")
    assert customer.ingest("file", "many", headers=traced).status_code == 429
    row = customer.event("quota_exceeded")
    assert row["phase"] is None
    assert row["operation_id"] is None
    assert context_of(row) == requested_by(customer, trace_id)
    assert row["data"] == {"quotaType": "documents", "limit": limit, "attempted": limit + 1}


def delivered_for(customer: Customer, trace_id: str) -> dict:
    return {
        **requested_by(customer, trace_id),
        "actor_id": "dispatcher",
        "service": "helpdesk-dispatcher",
    }


def test_integration_succeeded_in_the_trace_of_the_request_that_caused_it(
    customer: Customer, trace_id: str, traced: dict[str, str]
):
    integration = customer.integrate(f"{customer.desk.world}/hooks/ok", "crm")
    customer.escalate(headers=traced)
    (row,) = customer.wait_for_events(1, "integration_succeeded", "integration_failed")
    assert (row["name"], row["phase"]) == ("integration_succeeded", "completed")
    assert context_of(row) == delivered_for(customer, trace_id)
    assert row["data"] == {"integrationId": integration["id"], "type": "crm"}
    assert 0 < row["duration_ms"] < 60_000
    assert row["error_code"] is None
    assert row["operation_id"] is not None


def test_integration_failed_in_the_trace_of_the_request_that_caused_it(
    customer: Customer, trace_id: str, traced: dict[str, str]
):
    integration = customer.integrate(f"{customer.desk.world}/hooks/gone", "slack")
    customer.escalate(headers=traced)
    (row,) = customer.wait_for_events(1, "integration_succeeded", "integration_failed")
    assert (row["name"], row["phase"]) == ("integration_failed", "failed")
    assert context_of(row) == delivered_for(customer, trace_id)
    assert row["data"] == {
        "integrationId": integration["id"],
        "type": "slack",
        "errorCode": "http_410",
    }
    assert row["error_code"] == "http_410"
    assert 0 < row["duration_ms"] < 60_000
