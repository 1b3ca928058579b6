"""Which tenants run into their quotas, and whether they pay for more."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking

FILE = "quota_friction"


def hit(asking: Asking, quota: str = "messages", attempted: int = 101, **options) -> None:
    data = {"quotaType": quota, "limit": 100, "attempted": attempted, **options}
    asking.add("quota_exceeded", **data)


def pay(asking: Asking, **options) -> None:
    asking.add("checkout_completed", plan="pro", stripeSessionId="cs_1", **options)


def test_line_of_a_quota(asking: Asking):
    hit(asking, attempted=150, days=9)
    hit(asking, attempted=120, days=9, hours=1)
    hit(asking, attempted=101, days=8)
    assert asking.ask(FILE) == [
        {
            "tenant_id": ACME,
            "quota_type": "messages",
            "times_hit": 3,
            "days_hit": 2,
            "largest_pct": 150,
            "paid_in_7d": "no",
        }
    ]


def test_quotas_are_apart_by_tenant_and_type_the_most_frequent_first(asking: Asking):
    hit(asking, "seats")
    hit(asking, "messages", times=3)
    hit(asking, "seats", tenant=GLOBEX, times=2)
    assert [tuple(row.values())[:3] for row in asking.ask(FILE)] == [
        (ACME, "messages", 3),
        (GLOBEX, "seats", 2),
        (ACME, "seats", 1),
    ]


def test_limit_of_nothing_divides_nothing_by_zero(asking: Asking):
    hit(asking, limit=0, attempted=1)
    assert asking.ask(FILE)[0]["largest_pct"] is None
    hit(asking, limit=2, attempted=3)
    assert asking.ask(FILE)[0]["largest_pct"] == 150


def test_largest_is_relative_to_the_limit_of_its_time(asking: Asking):
    hit(asking, limit=10, attempted=30)
    hit(asking, limit=1000, attempted=1100)
    assert asking.ask(FILE)[0]["largest_pct"] == 300


def test_days_are_those_of_utc(asking: Asking):
    asking.connection.execute("SET LOCAL TIME ZONE 'Asia/Tokyo'")
    for hour in (0, 14, 16, 23):
        hit(asking, at=datetime(2026, 3, 10, hour, tzinfo=UTC))
    assert asking.ask(FILE)[0]["days_hit"] == 1


@pytest.mark.parametrize(
    "paid, expected",
    [
        pytest.param({"days": 10}, "yes", id="at once"),
        pytest.param({"days": 3, "minutes": 1}, "yes", id="within 7 days"),
        pytest.param({"days": 3}, "no", id="after 7 days"),
        pytest.param({"days": 11}, "no", id="before"),
        pytest.param({"days": 9, "tenant": GLOBEX}, "no", id="another tenant"),
    ],
)
def test_checkout_within_seven_days_of_a_hit_counts(paid, expected: str, asking: Asking):
    hit(asking, days=10)
    pay(asking, **paid)
    assert asking.ask(FILE)[0]["paid_in_7d"] == expected


def test_seven_days_are_168_hours_also_where_the_clocks_change(asking: Asking):
    asking.connection.execute(
        "SET LOCAL TIME ZONE 'America/New_York'"
    )  # a day of 23 hours: 8 March
    hit(asking, days=10)
    pay(asking, days=3, minutes=30)
    assert asking.ask(FILE)[0]["paid_in_7d"] == "yes"


def test_recent_hit_without_a_checkout_is_open(asking: Asking):
    hit(asking, days=20)
    hit(asking, days=6, hours=23)
    assert asking.ask(FILE)[0]["paid_in_7d"] == "open"


def test_checkout_answers_for_every_quota_that_was_hit_before(asking: Asking):
    hit(asking, "messages", days=3)
    hit(asking, "seats", days=1)
    pay(asking, days=2)
    assert {row["quota_type"]: row["paid_in_7d"] for row in asking.ask(FILE)} == {
        "messages": "yes",
        "seats": "open",
    }


def test_two_checkouts_do_not_double_the_hits(asking: Asking):
    hit(asking, days=3)
    pay(asking, days=2, times=2)
    assert asking.ask(FILE)[0]["times_hit"] == 1


def test_window_is_thirty_days(asking: Asking):
    hit(asking, days=30)
    hit(asking, days=30, minutes=1, attempted=999)
    (row,) = asking.ask(FILE)
    assert (row["times_hit"], row["largest_pct"]) == (1, 101)


def test_rows_are_weighed(asking: Asking):
    hit(asking, rate=0.1, times=2)
    hit(asking, rate=0.5)
    hit(asking)
    (row,) = asking.ask(FILE)
    assert (row["times_hit"], row["days_hit"]) == (23, 1)


def test_hits_of_an_application(asking: Asking, database18: Database):
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy="tenantry.taxonomies.saas",
        clock=FrozenClock(NOON.timestamp() - 60),
    )
    with pipeline, tenant(ACME):
        log_event("quota_exceeded", quota_type="messages", limit=100, attempted=125)
        log_event("checkout_completed", plan="pro", stripe_session_id="cs_1")
    assert pipeline.shutdown()
    assert tuple(asking.ask(FILE)[0].values()) == (ACME, "messages", 1, 1, 125, "yes")
