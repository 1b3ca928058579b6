"""Integrations: an endpoint is told of each escalation, signed, and again where it failed."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.helpdesk.desk import Customer, Program, Reply, Site, wait_until


def wait_for_state(customer: Customer, state: str) -> dict:
    """Wait until the only delivery has come that far."""

    def look() -> dict | None:
        (row,) = customer.rows("outbox")
        return row if row["state"] == state else None

    return wait_until(look)


def forget(customer: Customer) -> None:
    """Take the integration away, and its deliveries with it: what fails for ever ends here."""
    customer.desk.database.execute(
        "DELETE FROM helpdesk.integrations WHERE tenant_id = %s", [customer.id]
    )


def test_delivery_tells_what_happened(customer: Customer, site: Site):
    customer.integrate(site.serve("/hook", Reply(204)))
    conversation_id = customer.escalate()
    wait_for_state(customer, "delivered")
    (received,) = site.received
    (outbox,) = customer.rows("outbox")
    assert outbox["payload"] == {
        "type": "conversation.escalated",
        "conversation_id": conversation_id,
        "session_id": "s-1",
        "reason": "asked_for_a_person",
        "text": "May I speak to a human?",
    }
    headers = {name.lower(): value for name, value in received.headers.items()}
    assert headers["webhook-id"] == str(outbox["id"])
    assert headers["content-type"] == "application/json"
    assert [row["name"] for row in customer.events() if "integration" in row["name"]] == [
        "integration_succeeded"
    ]


def test_signature_verifies_with_the_secret_that_was_given_out(customer: Customer, site: Site):
    integration = customer.integrate(site.serve("/hook", Reply(204)))
    other = Customer.join(customer.desk).integrate(site.serve("/other", Reply(204)))
    customer.escalate()
    wait_for_state(customer, "delivered")
    (received,) = site.received
    assert integration["secret"].startswith("whsec_")
    webhook = Webhook(integration["secret"])
    payload = webhook.verify(received.body, received.headers)
    assert payload["type"] == "conversation.escalated"
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        webhook.verify(received.body.replace(b"human", b"robot"), received.headers)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(other["secret"]).verify(received.body, received.headers)


def test_all_integrations_are_told(customer: Customer, site: Site):
    ids = {
        kind: customer.integrate(site.serve(f"/{kind}", Reply(200, b"{}")), kind)["id"]
        for kind in ("webhook", "slack", "crm")
    }
    customer.escalate()
    rows = customer.wait_for_events(3, "integration_succeeded")
    assert {row["data"]["type"]: row["data"]["integrationId"] for row in rows} == ids
    assert sorted(received.path for received in site.received) == ["/crm", "/slack", "/webhook"]


def test_tenant_without_an_integration_escalates_all_the_same(customer: Customer):
    customer.escalate()
    assert customer.rows("outbox") == []
    assert "integrationId" not in customer.event("escalation_triggered")["data"]


def test_endpoint_that_is_broken_is_given_up_after_five_attempts(customer: Customer):
    customer.integrate(f"{customer.desk.world}/hooks/broken")
    customer.escalate()
    outbox = wait_for_state(customer, "given_up")
    assert (outbox["attempts"], outbox["last_error_code"]) == (5, "http_500")
    rows = customer.events("integration_failed", "integration_succeeded")
    assert [row["error_code"] for row in rows] == ["http_500"] * 5


def test_endpoint_that_is_slow_fails_with_timeout(customer: Customer):
    customer.integrate(f"{customer.desk.world}/hooks/slow")
    customer.escalate()
    row = customer.wait_for_events(1, "integration_failed", "integration_succeeded")[0]
    forget(customer)
    assert row["data"]["errorCode"] == row["error_code"] == "timeout"
    assert row["duration_ms"] >= 1000


def test_endpoint_where_nobody_listens_is_unreachable(customer: Customer, closed_port: str):
    customer.integrate(closed_port)
    customer.escalate()
    outbox = wait_for_state(customer, "given_up")
    assert (outbox["attempts"], outbox["last_error_code"]) == (5, "unreachable")
    rows = customer.events("integration_failed", "integration_succeeded")
    assert {row["error_code"] for row in rows} == {"unreachable"}


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_endpoint_that_does_not_want_it_is_given_up_at_once(
    customer: Customer, site: Site, status: int
):
    customer.integrate(site.serve("/hook", Reply(status)))
    customer.escalate()
    outbox = wait_for_state(customer, "given_up")
    assert (outbox["attempts"], outbox["last_error_code"]) == (1, f"http_{status}")
    (row,) = customer.events("integration_failed", "integration_succeeded")
    assert row["error_code"] == f"http_{status}"
    assert len(site.received) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_delivery_is_made_again_where_that_may_help(customer: Customer, site: Site, status: int):
    integration = customer.integrate(site.serve("/hook", Reply(status), Reply(204)))
    customer.escalate()
    outbox = wait_for_state(customer, "delivered")
    assert (outbox["attempts"], outbox["last_error_code"]) == (2, None)
    rows = customer.events("integration_failed", "integration_succeeded")
    assert [(row["name"], row["error_code"]) for row in rows] == [
        ("integration_failed", f"http_{status}"),
        ("integration_succeeded", None),
    ]
    assert len({row["operation_id"] for row in rows}) == 2
    first, second = site.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]  # the receiver can tell
    for received in (first, second):
        Webhook(integration["secret"]).verify(received.body, received.headers)


def test_flaky_endpoint_is_told_of_everything_in_the_end(customer: Customer):
    customer.integrate(f"{customer.desk.world}/hooks/flaky")
    for _ in range(4):  # of which one at least is refused
        customer.escalate()
    wait_until(lambda: {row["state"] for row in customer.rows("outbox")} == {"delivered"})
    rows = customer.events("integration_failed", "integration_succeeded")
    assert sum(row["name"] == "integration_succeeded" for row in rows) == 4
    assert {row["error_code"] for row in rows} == {None, "http_503"}


def test_redirects_are_not_followed(customer: Customer, site: Site):
    site.serve("/elsewhere", Reply(204))
    customer.integrate(site.serve("/hook", Reply(307, headers={"Location": "/elsewhere"})))
    customer.escalate()
    (row, *_) = customer.wait_for_events(1, "integration_failed", "integration_succeeded")
    forget(customer)
    assert row["error_code"] == "http_307"
    assert {received.path for received in site.received} == {"/hook"}


def test_silent_endpoint_does_not_hold_up_others(customer: Customer, site: Site):
    silent = Customer.join(customer.desk)
    silent.integrate(site.serve("/silent", Reply(hangs=True)))
    for _ in range(3):
        silent.escalate()
    customer.integrate(site.serve("/hook", Reply(204)))
    began = time.monotonic()
    customer.escalate()
    wait_for_state(customer, "delivered")
    forget(silent)
    assert {row["state"] for row in silent.rows("outbox")} <= {"waiting"}
    assert time.monotonic() - began < 30  # a bound, not a measurement


def test_two_dispatchers_share_the_work(customer: Customer, site: Site, tmp_path: Path):
    integration = customer.integrate(site.serve("/hook", Reply(204)))
    second = Program("second", tmp_path, customer.desk.variables, "helpdesk.dispatcher")
    try:
        second.wait_for_line("dispatcher ready")
        customer.desk.database.execute(  # all at once, so that both reach for each of them
            "INSERT INTO helpdesk.outbox (tenant_id, integration_id, payload)"
            " SELECT %s, %s, '{}' FROM generate_series(1, 80)",
            [customer.id, integration["id"]],
        )
        wait_until(lambda: {row["state"] for row in customer.rows("outbox")} == {"delivered"})
    finally:
        code = second.stop()
    assert code == 0
    ids = [received.headers["webhook-id"] for received in site.received]
    assert sorted(ids) == sorted(str(row["id"]) for row in customer.rows("outbox"))
    assert len(customer.events("integration_succeeded")) == len(ids) == 80


def test_integration_that_is_set_again_keeps_its_id_and_its_secret(customer: Customer, site: Site):
    first = customer.integrate(site.serve("/old", Reply(204)))
    second = customer.integrate(site.serve("/new", Reply(204)))
    assert first == second
    UUID(first["id"])
    customer.escalate()
    wait_for_state(customer, "delivered")
    assert [received.path for received in site.received] == ["/new"]


@pytest.mark.parametrize(
    "url",
    ["", "hook", "ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "http://"],
)
def test_address_that_is_not_of_the_web_is_refused(customer: Customer, url: str):
    assert customer.put("/v1/integrations/webhook", {"url": url}).status_code == 422
    assert customer.rows("integrations") == []


def test_integration_of_an_unknown_type_is_refused(customer: Customer, site: Site):
    answer = customer.put("/v1/integrations/telegraph", {"url": site.serve("/", Reply(204))})
    assert answer.status_code == 422
    assert customer.rows("integrations") == []
