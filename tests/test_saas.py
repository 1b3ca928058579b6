"""The starter taxonomy: exactly these events, with exactly these keys."""

import json

import pytest

from tenantry.registry import load_taxonomy

EXPECTED = {
    "conversation_started": "sessionId conversationId",
    "message_sent": "conversationId role confidence?",
    "escalation_triggered": "conversationId reason integrationId?",
    "plan_updated": "previousPlan newPlan status",
    "checkout_completed": "plan stripeSessionId",
    "ingest_started": "sourceType url",
    "ingest_completed": "sourceType url docs chunks",
    "ingest_failed": "sourceType url errorCode",
    "integration_failed": "integrationId type errorCode",
    "integration_succeeded": "integrationId type",
    "quota_exceeded": "quotaType limit attempted",
}
INTEGERS = {"docs", "chunks", "limit", "attempted"}


def starter():
    return load_taxonomy("tenantry.taxonomies.saas")


def sample(key: str) -> object:
    if key in INTEGERS:
        return 3
    return {"role": "user", "confidence": 0.5}.get(key, f"some {key}")


def keys_of(event) -> str:
    return " ".join(
        key if event.model.model_fields[field].is_required() else f"{key}?"
        for field, key in event.stored_keys.items()
    )


def test_the_events_and_their_keys_are_these():
    assert {event.name: keys_of(event) for event in starter()} == EXPECTED
    assert {event.version for event in starter()} == {1}


@pytest.mark.parametrize("name", EXPECTED)
def test_event_with_all_keys_is_stored_with_exactly_them(name):
    event = starter().get(name)
    stored = {key.rstrip("?"): sample(key.rstrip("?")) for key in EXPECTED[name].split()}
    values = {event.keys[key]: value for key, value in stored.items()}
    assert json.loads(event.freeze(values, 2048)[0]) == stored


@pytest.mark.parametrize("name", EXPECTED)
def test_none_of_an_optional_key_is_left_out(name):
    event = starter().get(name)
    stored = {key: sample(key) for key in EXPECTED[name].split() if not key.endswith("?")}
    values = dict.fromkeys(event.fields) | {event.keys[k]: v for k, v in stored.items()}
    assert json.loads(event.freeze(values, 2048)[0]) == stored


@pytest.mark.parametrize("name", EXPECTED)
def test_both_spellings_mean_the_same_field(name):
    event = starter().get(name)
    for field, key in event.stored_keys.items():
        assert event.keys[field] == event.keys[key] == field


def test_role_is_of_user_or_assistant():
    event = starter().get("message_sent")
    with pytest.raises(ValueError, match="role: Input should be 'user' or 'assistant'"):
        event.freeze({"conversation_id": "c", "role": "system"}, 2048)
