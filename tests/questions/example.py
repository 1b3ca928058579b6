"""The rows behind the results that the pages show: two tenants, in the middle of March 2026."""

from __future__ import annotations

from tests.questions.asking import ACME, GLOBEX, Rows

OPERATION = "019cf1a0-1f00-7000-8000-00000000000"


def add_example(rows: Rows) -> None:
    _add_conversations(rows)
    _add_checkouts(rows)
    _add_ingestions(rows)
    _add_integrations(rows)
    _add_quotas(rows)
    _add_operations(rows)


def _add_conversations(rows: Rows) -> None:
    for number in range(40):
        conversation = {"sessionId": f"s-{number}", "conversationId": f"c-{number}"}
        rows.add("conversation_started", **conversation, days=number**2 % 23, hours=1)
    for number in [*range(6), 3]:
        reason = "low_confidence" if number < 4 else "asked_for_a_person"
        data = {"conversationId": f"c-{number}", "reason": reason}
        rows.add("escalation_triggered", **data, days=number**2 % 23)
    for number in range(12):
        sampled = {"conversationId": f"g-{number}", "tenant": GLOBEX, "rate": 0.1}
        rows.add("conversation_started", sessionId="s", **sampled, days=number % 4, hours=1)
        if number < 3:
            rows.add("escalation_triggered", reason="refund", **sampled, days=number)


def _add_checkouts(rows: Rows) -> None:
    for number in range(8):
        tenant = GLOBEX if number == 7 else ACME
        plan = "team" if number in {2, 5} else "pro"
        checkout = {"tenant": tenant, "plan": plan, "stripeSessionId": f"cs_{number}"}
        rows.add("checkout_started", **checkout, days=2 + number)
        if number % 2 == 0 or number == 7:
            rows.add("checkout_completed", **checkout, days=2 + number, minutes=-2 - number)
    change = {"previousPlan": "free", "newPlan": "pro"}
    rows.add("plan_updated", **change, status="active", days=8, minutes=-10)
    rows.add("plan_updated", **change, status="incomplete", tenant=GLOBEX, days=9, minutes=-10)
    rows.add(
        "plan_updated", previousPlan="pro", newPlan="team", status="active", days=4, minutes=-5
    )


def _add_ingestions(rows: Rows) -> None:
    source = {"sourceType": "web", "url": "https://example.com"}
    for number in range(20):
        done = {"docs": 2, "chunks": 10 + number, "duration_ms": 800 + 50 * number}
        rows.add("ingest_completed", phase="completed", **source, **done, days=number)
    for number, code in enumerate(["TimeoutError", "TimeoutError", "abandoned", "too_large"]):
        rows.add("ingest_failed", phase="failed", **source, error_code=code, days=number, hours=3)
    for number in range(30):
        done = {"docs": 1, "chunks": 4, "duration_ms": 90 + number}
        sampled = {"tenant": GLOBEX, "rate": 0.1, **source}
        rows.add("ingest_completed", phase="completed", **sampled, **done, days=number % 7)
    failed = {"tenant": GLOBEX, "phase": "failed", "error_code": "TimeoutError"}
    rows.add("ingest_failed", **failed, **source, days=1, hours=2, times=6)


def _add_integrations(rows: Rows) -> None:
    crm = {"integrationId": "i-7", "type": "crm", "duration_ms": 210}
    rows.add("integration_succeeded", phase="completed", **crm, days=3, times=57)
    for code, times in [("rate_limited", 2), ("TimeoutError", 1)]:
        slow = {**crm, "duration_ms": 5000}
        rows.add("integration_failed", phase="failed", error_code=code, **slow, days=2, times=times)
    mail = {"integrationId": "i-9", "type": "mail", "duration_ms": 35, "tenant": GLOBEX}
    rows.add("integration_succeeded", phase="completed", **mail, days=1, times=25, rate=0.05)
    rows.add("integration_failed", phase="failed", error_code="auth", **mail, days=1, times=4)


def _add_quotas(rows: Rows) -> None:
    for day in [9, 9, 5, 4, 1]:
        rows.add("quota_exceeded", quotaType="messages", limit=1000, attempted=1000 + day, days=day)
    rows.add("quota_exceeded", quotaType="seats", limit=5, attempted=8, tenant=GLOBEX, days=20)
    rows.add("quota_exceeded", quotaType="storage", limit=50, attempted=51, tenant=GLOBEX, days=3)


def _add_operations(rows: Rows) -> None:
    started = {"phase": "started", "sourceType": "web", "url": "u"}
    rows.add(
        "ingest_started", **started, operation_id=f"{OPERATION}1", minutes=4, actor_id="user:42"
    )
    rows.add("export_started", phase="started", operation_id=f"{OPERATION}2", hours=27, minutes=8)
