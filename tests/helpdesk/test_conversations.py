"""Conversations: rows and events stand or fall together, sampled whole, imported once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.helpdesk.desk import SAMPLE_RATE, Customer, is_sampled

PAST = datetime(2025, 3, 4, 5, 6, 7, 891234, UTC)


def test_request_that_fails_at_commit_leaves_neither_row_nor_event(customer: Customer):
    answer = customer.post("/v1/conversations", {"session_id": "refused at commit"})
    assert answer.status_code == 500
    assert customer.rows("conversations") == []
    assert customer.events() == []
    customer.start_conversation()
    assert len(customer.rows("conversations")) == len(customer.events()) == 1


def test_escalation_that_is_rolled_back_tells_nobody(customer: Customer):
    """The whole message is one transaction: a failing outbox takes the escalation back."""
    conversation_id = customer.start_conversation()
    customer.integrate("http://127.0.0.1:9/")
    customer.desk.database.execute(
        f"ALTER TABLE helpdesk.outbox ADD CONSTRAINT refused_{customer.id.hex}"
        f" CHECK (tenant_id <> '{customer.id}')"
    )
    answer = customer.say(conversation_id, "a human, please")
    customer.desk.database.execute(
        f"ALTER TABLE helpdesk.outbox DROP CONSTRAINT refused_{customer.id.hex}"
    )
    assert answer.status_code == 500
    assert [row["name"] for row in customer.events()] == ["conversation_started"]
    conversation = customer.get(f"/v1/conversations/{conversation_id}").json()
    assert (conversation["escalation_reason"], conversation["messages"]) == (None, [])
    assert [row for row in customer.rows("usage") if row["used"]] == []


def test_conversation_can_be_read(customer: Customer):
    customer.teach("Opening hours are nine to five.")
    conversation_id = customer.start_conversation()
    customer.say(conversation_id, "opening hours")
    conversation = customer.get(f"/v1/conversations/{conversation_id}").json()
    assert (conversation["id"], conversation["session_id"]) == (conversation_id, "s-1")
    assert conversation["escalation_reason"] is None
    asked, answered = conversation["messages"]
    assert (asked["role"], asked["body"], asked["confidence"]) == ("user", "opening hours", None)
    assert (answered["role"], answered["confidence"]) == ("assistant", 1.0)
    assert answered["body"] == "Opening hours are nine to five."


@pytest.mark.parametrize("text", ["", "\0", "x" * 8_001, None, 7, ["text"]], ids=repr)
def test_message_that_is_no_text_is_refused(customer: Customer, text: object):
    path = f"/v1/conversations/{customer.start_conversation()}/messages"
    assert customer.post(path, {"text": text}).status_code == 422
    assert [row["name"] for row in customer.events()] == ["conversation_started"]


@pytest.mark.parametrize("text", ["???", "the of and", "' OR 1=1 --", "a & !b | (", "🤷", "\u202e"])
def test_question_without_searchable_words_escalates(customer: Customer, text: str):
    customer.teach("Something to know.")
    outcome = customer.say(customer.start_conversation(), text)
    assert outcome.status_code == 200, outcome.text
    assert outcome.json()["reason"] == "nothing_found"


def test_messages_are_recorded_for_whole_conversations_or_not_at_all(customer: Customer):
    customer.teach("Opening hours are nine to five.")
    conversations = [customer.start_conversation() for _ in range(12)]
    for _ in range(2):
        for conversation_id in conversations:
            assert not customer.say(conversation_id, "opening hours").json()["escalated"]
    rows = customer.events("message_sent")
    counts = {
        conversation_id: sum(row["data"]["conversationId"] == conversation_id for row in rows)
        for conversation_id in conversations
    }
    assert counts == {each: 4 if is_sampled(each) else 0 for each in conversations}
    assert {row["sample_rate"] for row in rows} <= {SAMPLE_RATE}
    started = customer.events("conversation_started")
    assert [row["sample_rate"] for row in started] == [1.0] * 12


def past_conversation(number: int = 1, **others: object) -> dict:
    return {
        "external_id": f"old-{number}",
        "session_id": f"s-{number}",
        "started_at": (PAST + timedelta(days=number)).isoformat(),
        "messages": [{"role": "user", "text": "Hello"}, {"role": "assistant", "text": "Hello you"}],
        **others,
    }


def imported(customer: Customer, *conversations: dict) -> dict:
    answer = customer.post("/v1/imports/conversations", {"conversations": conversations})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_imported_conversation_is_recorded_at_the_time_at_which_it_happened(customer: Customer):
    assert imported(customer, past_conversation()) == {"imported": 1, "known": 0}
    row = customer.event("conversation_started")
    (conversation,) = customer.rows("conversations")
    assert row["created_at"] == conversation["started_at"] == PAST + timedelta(days=1)
    assert row["recorded_at"] > row["created_at"] + timedelta(days=365)
    assert row["data"] == {"sessionId": "s-1", "conversationId": str(conversation["id"])}
    assert {each["created_at"] for each in customer.events()} == {row["created_at"]}
    read = customer.get(f"/v1/conversations/{conversation['id']}").json()
    assert [each["body"] for each in read["messages"]] == ["Hello", "Hello you"]


def test_import_that_is_repeated_is_stored_once(customer: Customer):
    first = [past_conversation(number) for number in range(3)]
    assert imported(customer, *first) == {"imported": 3, "known": 0}
    before = [row["id"] for row in customer.events()]
    assert imported(customer, *first, past_conversation(3)) == {"imported": 1, "known": 3}
    assert imported(customer, *first) == {"imported": 0, "known": 3}
    assert len(customer.events("conversation_started")) == 4
    assert before == [row["id"] for row in customer.events()][: len(before)]


def test_conversation_that_is_named_twice_is_imported_once(customer: Customer):
    twice = [past_conversation(), past_conversation()]
    assert imported(customer, *twice) == {"imported": 1, "known": 1}
    assert len(customer.events("conversation_started")) == 1


def test_conversation_that_was_deleted_and_imported_again_is_recorded_once(customer: Customer):
    imported(customer, past_conversation())
    customer.desk.database.execute(
        "DELETE FROM helpdesk.conversations WHERE tenant_id = %s", [customer.id]
    )
    assert imported(customer, past_conversation()) == {"imported": 1, "known": 0}
    assert len(customer.events("conversation_started")) == 1


def test_same_conversation_of_two_tenants_is_two(customer: Customer):
    other = Customer.join(customer.desk)
    for each in (customer, other):
        assert imported(each, past_conversation()) == {"imported": 1, "known": 0}
        assert len(each.events("conversation_started")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"started_at": "2025-03-04T05:06:07"},
        {"started_at": "yesterday"},
        {"external_id": ""},
        {"messages": [{"role": "system", "text": "Hello"}]},
        {"messages": None},
    ],
    ids=["no time zone", "no time", "no id", "role", "no messages"],
)
def test_import_that_is_no_conversation_is_refused_whole(customer: Customer, change: dict):
    body = {"conversations": [past_conversation(1), past_conversation(2, **change)]}
    assert customer.post("/v1/imports/conversations", body).status_code == 422
    assert customer.rows("conversations") == []
    assert customer.events() == []


def test_import_of_more_than_500_is_refused(customer: Customer):
    body = {"conversations": [past_conversation(n, messages=[]) for n in range(501)]}
    assert customer.post("/v1/imports/conversations", body).status_code == 422


@pytest.mark.parametrize(
    "odd", ["not-a-uuid", "018f6f0e-0000-7000-8000-00000000dead"], ids=["no id", "nobody's"]
)
def test_unknown_conversation_is_not_found(customer: Customer, odd: str):
    expected = {404, 422}
    assert customer.get(f"/v1/conversations/{odd}").status_code in expected
    assert customer.say(odd, "Hello").status_code in expected
    assert customer.events() == []
