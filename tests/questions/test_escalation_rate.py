"""Which share of the conversations was passed on to people, and why."""

from __future__ import annotations

from tenantry import Pipeline, Sampling, log_event, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking

FILE = "escalation_rate"


def start(asking: Asking, *conversations: str, **options) -> None:
    for each in conversations:
        asking.add("conversation_started", sessionId="s", conversationId=each, **options)


def escalate(asking: Asking, conversation: str, reason: str = "r", **options) -> None:
    asking.add("escalation_triggered", conversationId=conversation, reason=reason, **options)


def line(tenant: str, conversations: int, escalated: int, pct: float, reasons: str | None):
    return {
        "tenant_id": tenant,
        "conversations": conversations,
        "escalated": escalated,
        "escalated_pct": pct,
        "top_reasons": reasons,
    }


def test_rate_and_reasons(asking: Asking):
    start(asking, *"abcdefgh", days=2)
    escalate(asking, "a", "refund", days=1)
    escalate(asking, "b", "angry", days=1)
    escalate(asking, "c", "refund", days=1)
    assert asking.ask(FILE) == [line(ACME, 8, 3, 37.5, "refund 2, angry 1")]


def test_conversation_that_escalates_twice_counts_once(asking: Asking):
    start(asking, "a", "b")
    escalate(asking, "a", times=2)
    assert asking.ask(FILE) == [line(ACME, 2, 1, 50.0, "r 1")]


def test_conversation_counts_for_each_of_its_reasons(asking: Asking):
    start(asking, "a")
    escalate(asking, "a", "x")
    escalate(asking, "a", "y")
    assert asking.ask(FILE) == [line(ACME, 1, 1, 100.0, "x 1, y 1")]


def test_no_escalation_is_a_rate_of_zero(asking: Asking):
    start(asking, "a")
    assert asking.ask(FILE) == [line(ACME, 1, 0, 0.0, None)]


def test_escalation_of_a_conversation_that_began_earlier_does_not_count(asking: Asking):
    start(asking, "old", days=30, minutes=1)
    start(asking, "new", days=30)
    escalate(asking, "old")
    escalate(asking, "never recorded")
    assert asking.ask(FILE) == [line(ACME, 1, 0, 0.0, None)]


def test_escalation_of_another_tenant_with_the_same_conversation_id_does_not_count(asking: Asking):
    start(asking, "a")
    start(asking, "a", tenant=GLOBEX)
    escalate(asking, "a", tenant=GLOBEX)
    assert asking.ask(FILE) == [line(GLOBEX, 1, 1, 100.0, "r 1"), line(ACME, 1, 0, 0.0, None)]


def test_three_reasons_are_shown_the_most_frequent_first(asking: Asking):
    for reason, times in {"a": 1, "b": 4, "c": 2, "d": 3, "e": 1}.items():
        for number in range(times):
            start(asking, f"{reason}{number}")
            escalate(asking, f"{reason}{number}", reason)
    assert asking.ask(FILE)[0]["top_reasons"] == "b 4, d 3, c 2"


def test_kept_conversations_weigh_by_their_rate(asking: Asking):
    start(asking, "a", "b", "c", rate=0.1)
    start(asking, "d", "e", rate=0.5)
    escalate(asking, "a", rate=0.1)
    escalate(asking, "d", rate=0.5)
    assert asking.ask(FILE) == [line(ACME, 34, 12, 35.3, "r 12")]


def test_escalations_sampled_more_than_conversations_weigh_by_the_lower_rate(asking: Asking):
    start(asking, *"abcdefghij")
    escalate(asking, "a", rate=0.2)
    assert asking.ask(FILE) == [line(ACME, 10, 5, 50.0, "r 5")]


def test_rate_that_changed_between_two_escalations_of_a_conversation_is_the_higher_one(
    asking: Asking,
):
    start(asking, "a", rate=0.5)
    escalate(asking, "a", "x", rate=0.1)
    escalate(asking, "a", "y", rate=0.5)
    assert asking.ask(FILE) == [line(ACME, 2, 2, 100.0, "x 10, y 2")]


def test_rate_that_changed_between_two_escalations_for_one_reason_is_the_higher_one(asking: Asking):
    start(asking, "a", rate=0.5)
    escalate(asking, "a", rate=0.1)
    escalate(asking, "a", rate=0.5)
    assert asking.ask(FILE) == [line(ACME, 2, 2, 100.0, "r 2")]


def test_tenants_with_the_highest_rate_are_first(asking: Asking):
    start(asking, "a", "b")
    start(asking, "c", tenant=GLOBEX)
    escalate(asking, "a")
    escalate(asking, "c", tenant=GLOBEX)
    assert [row["tenant_id"] for row in asking.ask(FILE)] == [GLOBEX, ACME]


def test_whole_conversations_that_an_application_sampled_give_the_rate(
    asking: Asking, database18: Database
):
    rule = Sampling(0.2, key="conversation_id")
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy="tenantry.taxonomies.saas",
        sampling={"conversation_started": rule, "escalation_triggered": rule},
        clock=FrozenClock(NOON.timestamp()),
    )
    names = [f"c-{number}" for number in range(500)]
    with pipeline, tenant(ACME):
        for number, name in enumerate(names):
            log_event("conversation_started", session_id="s", conversation_id=name)
            for _ in range(2 if number % 4 == 0 else 0):
                log_event("escalation_triggered", conversation_id=name, reason="refund")
    assert pipeline.shutdown()

    kept = [number for number, name in enumerate(names) if rule.keeps(name)]
    escalated = [number for number in kept if number % 4 == 0]
    assert 0 < len(escalated) < len(kept) < 500
    rate = round(100 * len(escalated) / len(kept), 1)
    expected = line(ACME, 5 * len(kept), 5 * len(escalated), rate, f"refund {5 * len(escalated)}")
    assert asking.ask(FILE) == [expected]
