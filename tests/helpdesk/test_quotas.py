"""Quotas: what is above the plan is refused, undone, and recorded once for each refusal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpdesk.tenants import LIMITS

from tests.helpdesk.billing import checkout_completed, subscription_updated
from tests.helpdesk.desk import Customer, Desk

MESSAGES = LIMITS["free"]["messages"]
DOCUMENTS = LIMITS["free"]["documents"]


@pytest.fixture
def customer(desk: Desk) -> Customer:
    return Customer.join(desk, plan="free")


def use_up(customer: Customer, *, leaving: int) -> None:
    """Have this month's messages used, but for so many."""
    customer.desk.database.execute(
        "INSERT INTO helpdesk.usage (tenant_id, quota_type, period, used) VALUES"
        " (%s, 'messages', date_trunc('month', now() AT TIME ZONE 'UTC'), %s)",
        [customer.id, MESSAGES - leaving],
    )


def used(customer: Customer, quota_type: str) -> int:
    return sum(r["used"] for r in customer.rows("usage") if r["quota_type"] == quota_type)


def test_message_above_the_quota_is_refused_and_recorded_once(customer: Customer):
    use_up(customer, leaving=1)
    conversation_id = customer.start_conversation()
    assert customer.say(conversation_id, "Hello").status_code == 200
    answer = customer.say(conversation_id, "Hello again")
    assert answer.status_code == 429
    assert answer.json() == {
        "detail": f"the plan includes {MESSAGES} messages, and this would be {MESSAGES + 1}",
        "quota_type": "messages",
        "limit": MESSAGES,
        "attempted": MESSAGES + 1,
    }
    row = customer.event("quota_exceeded")
    assert row["data"] == {
        "quotaType": "messages",
        "limit": MESSAGES,
        "attempted": MESSAGES + 1,
    }


def test_refused_message_is_undone_and_its_refusal_is_not(customer: Customer):
    use_up(customer, leaving=0)
    conversation_id = customer.start_sampled_conversation()
    for _ in range(3):
        assert customer.say(conversation_id, "a human, please").status_code == 429
    assert customer.rows("messages") == []
    assert used(customer, "messages") == MESSAGES
    names = {row["name"] for row in customer.events()}
    assert names == {"conversation_started", "quota_exceeded"}
    attempts = [row["data"]["attempted"] for row in customer.events("quota_exceeded")]
    assert attempts == [MESSAGES + 1] * 3


def test_last_message_is_never_shared(customer: Customer):
    use_up(customer, leaving=2)
    conversations = [customer.start_conversation() for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(lambda c: customer.say(c, "Hello").status_code, conversations))
    assert sorted(codes) == [200] * 2 + [429] * 6
    assert len(customer.events("quota_exceeded")) == 6
    assert used(customer, "messages") == MESSAGES


def test_messages_of_last_month_do_not_count(customer: Customer):
    use_up(customer, leaving=0)
    customer.desk.database.execute(
        "UPDATE helpdesk.usage SET period = period - interval '1 month' WHERE tenant_id = %s",
        [customer.id],
    )
    assert customer.say(customer.start_conversation(), "Hello").status_code == 200


def upload(customer: Customer, folder: str, count: int) -> str:
    for number in range(count):
        customer.upload(f"{folder}/{number}.txt", b"Something to know.")
    return folder


def test_documents_above_the_quota_are_refused_and_recorded_once(customer: Customer):
    assert customer.ingest("file", upload(customer, "a", 3)).status_code == 201
    answer = customer.ingest("file", upload(customer, "b", DOCUMENTS - 2))
    assert answer.status_code == 429
    assert (answer.json()["quota_type"], answer.json()["limit"]) == ("documents", DOCUMENTS)
    row = customer.event("quota_exceeded")
    assert row["data"]["attempted"] == DOCUMENTS + 1
    assert len(customer.rows("documents")) == used(customer, "documents") == 3


def test_refused_documents_are_not_recorded_as_ingested(customer: Customer):
    customer.ingest("file", upload(customer, "a", DOCUMENTS + 1))
    assert customer.events("ingest_completed") == []
    started = customer.events("ingest_started")
    failed = customer.events("ingest_failed")
    assert [row["operation_id"] for row in started] == [row["operation_id"] for row in failed]


def test_documents_up_to_the_quota_are_ingested(customer: Customer):
    assert customer.ingest("file", upload(customer, "a", DOCUMENTS)).status_code == 201
    assert customer.events("quota_exceeded") == []


def test_plan_that_stripe_tells_of_raises_the_quota(customer: Customer):
    use_up(customer, leaving=0)
    conversation_id = customer.start_conversation()
    assert customer.say(conversation_id, "Hello").status_code == 429
    checkout_completed(customer, plan="team").send(customer.desk)
    subscription_updated(customer, plan="team", previous="free").send(customer.desk)
    assert customer.say(conversation_id, "Hello").status_code == 200


def test_quota_of_one_tenant_is_not_used_by_another(customer: Customer):
    use_up(customer, leaving=0)
    other = Customer.join(customer.desk, plan="free")
    assert other.say(other.start_conversation(), "Hello").status_code == 200
    assert customer.events("quota_exceeded") == other.events("quota_exceeded") == []
