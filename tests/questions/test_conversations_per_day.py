"""How many conversations each tenant had on each day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from psycopg.conninfo import make_conninfo

from tenantry import Pipeline, Sampling, log_event, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking

FILE = "conversations_per_day"


def start(asking: Asking, conversation: str, **options) -> None:
    asking.add("conversation_started", sessionId="s", conversationId=conversation, **options)


def counts(asking: Asking, tenant: str = ACME) -> dict[str, int]:
    """Give the days that have conversations."""
    rows = [row for row in asking.ask(FILE) if row["tenant_id"] == tenant]
    assert len(rows) in {0, 30}
    return {row["day"]: row["conversations"] for row in rows if row["conversations"]}


def test_days_without_conversations_are_shown_as_zero_and_the_newest_is_first(asking: Asking):
    start(asking, "a", days=3)
    rows = asking.ask(FILE)
    assert [row["day"] for row in rows[:4]] == [f"2026-03-{day}" for day in (15, 14, 13, 12)]
    assert [row["conversations"] for row in rows] == [0, 0, 0, 1, *[0] * 26]


def test_days_are_those_of_utc(asking: Asking):
    start(asking, "a", at=datetime(2026, 3, 14, 23, 59, 59, 999999, tzinfo=UTC))
    start(asking, "b", at=datetime(2026, 3, 15, 0, 0, tzinfo=UTC))
    assert counts(asking) == {"2026-03-14": 1, "2026-03-15": 1}


def test_days_are_those_of_utc_in_a_session_of_another_time_zone(asking: Asking):
    asking.connection.execute("SET LOCAL TIME ZONE 'America/New_York'")  # DST since 8 March
    start(asking, "first", at=datetime(2026, 2, 14, 0, 0, tzinfo=UTC))
    start(asking, "before", at=datetime(2026, 2, 13, 23, 59, 59, tzinfo=UTC))
    start(asking, "last", at=datetime(2026, 3, 15, 0, 0, tzinfo=UTC))
    assert counts(asking) == {"2026-02-14": 1, "2026-03-15": 1}


def test_window_is_thirty_whole_days(asking: Asking):
    start(asking, "too old", at=datetime(2026, 2, 13, 23, 59, 59, tzinfo=UTC))
    assert asking.ask(FILE) == []
    start(asking, "oldest", at=datetime(2026, 2, 14, tzinfo=UTC))
    start(asking, "later today", hours=-11)
    start(asking, "of a clock that is fast", at=datetime(2026, 3, 16, tzinfo=UTC))
    assert counts(asking) == {"2026-02-14": 1, "2026-03-15": 1}


def test_tenant_whose_only_conversation_is_of_a_clock_that_is_fast_is_left_out(asking: Asking):
    start(asking, "a", days=-1)
    assert asking.ask(FILE) == []


def test_conversation_counts_once_on_its_first_day(asking: Asking):
    start(asking, "a", days=2)
    start(asking, "a", days=1, times=3)
    assert counts(asking) == {"2026-03-13": 1}


def test_same_conversation_id_of_two_tenants_is_two_conversations(asking: Asking):
    start(asking, "a", days=2)
    start(asking, "a", days=1, tenant=GLOBEX)
    assert counts(asking) == {"2026-03-13": 1}
    assert counts(asking, GLOBEX) == {"2026-03-14": 1}


@pytest.mark.parametrize(
    "rates, expected",
    [
        pytest.param([0.1, 0.1, 0.1], 30, id="one rate"),
        pytest.param([0.1, 0.5, 1], 13, id="mixed rates"),
        pytest.param([0.3, 0.3, 0.3], 10, id="rounded"),
    ],
)
def test_rows_are_weighed(rates: list[float], expected: int, asking: Asking):
    for number, rate in enumerate(rates):
        start(asking, f"c-{number}", rate=rate)
    assert counts(asking) == {"2026-03-15": expected}


def test_rows_of_one_conversation_at_two_rates_weigh_by_the_higher_one(asking: Asking):
    """Sampled by the conversation, its rows are seen together: as often as the higher rate says."""
    start(asking, "a", rate=0.1)
    start(asking, "a", rate=0.5)
    assert counts(asking) == {"2026-03-15": 2}


def test_sampled_conversations_that_an_application_emitted_are_estimated(
    asking: Asking, database18: Database
):
    rule = Sampling(0.25, key="conversation_id")
    pipeline = Pipeline(
        dsn=make_conninfo(database18.writer),
        taxonomy="tenantry.taxonomies.saas",
        sampling={"conversation_started": rule},
        clock=FrozenClock(NOON.timestamp()),
    )
    names = [f"c-{number}" for number in range(400)]
    with pipeline, tenant(ACME):
        for name in names:
            log_event("conversation_started", session_id="s", conversation_id=name)
    assert pipeline.shutdown()

    kept = sum(rule.keeps(name) for name in names)
    assert 0 < kept < 400
    assert counts(asking) == {"2026-03-15": 4 * kept}
