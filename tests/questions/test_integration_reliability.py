"""How reliable each integration of each tenant is."""

from __future__ import annotations

import pytest

from tenantry import Pipeline, Sampling, emits, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking

FILE = "integration_reliability"


def succeed(asking: Asking, integration: str = "i-1", type_: str = "crm", **options) -> None:
    data = {"integrationId": integration, "type": type_, **options}
    asking.add("integration_succeeded", phase="completed", **data)


def fail(asking: Asking, code: str | None, integration: str = "i-1", **options) -> None:
    data = {"integrationId": integration, "type": "crm", **options}
    asking.add("integration_failed", phase="failed", error_code=code, **data)


def test_line_of_an_integration(asking: Asking):
    succeed(asking, duration_ms=100, times=17)
    fail(asking, "TimeoutError", duration_ms=3000, times=2)
    fail(asking, "auth", duration_ms=20)
    assert asking.ask(FILE) == [
        {
            "tenant_id": ACME,
            "type": "crm",
            "integration": "i-1",
            "calls": 20,
            "succeeded": 17,
            "failed": 3,
            "success_pct": 85.0,
            "p95_ms": 3000,
            "top_error": "TimeoutError",
        }
    ]


def test_only_successes(asking: Asking):
    succeed(asking)
    (row,) = asking.ask(FILE)
    assert (row["success_pct"], row["p95_ms"], row["top_error"]) == (100.0, None, None)


def test_only_failures(asking: Asking):
    fail(asking, None)
    (row,) = asking.ask(FILE)
    assert (row["succeeded"], row["success_pct"], row["top_error"]) == (0, 0.0, None)


def test_integrations_are_apart_by_tenant_type_and_id_the_worst_first(asking: Asking):
    succeed(asking, "i-1", times=4)
    succeed(asking, "i-1", "mail", times=3)
    succeed(asking, "i-1", tenant=GLOBEX, times=2)
    fail(asking, "auth", "i-2")
    keys = ("tenant_id", "type", "integration", "calls", "success_pct")
    assert [tuple(row[key] for key in keys) for row in asking.ask(FILE)] == [
        (ACME, "crm", "i-2", 1, 0.0),
        (ACME, "crm", "i-1", 4, 100.0),
        (ACME, "mail", "i-1", 3, 100.0),
        (GLOBEX, "crm", "i-1", 2, 100.0),
    ]


def test_percentile_and_error_are_of_the_one_integration(asking: Asking):
    for duration_ms in (900, 950, 990):
        succeed(asking, duration_ms=duration_ms)
    fail(asking, "a", times=2)
    fail(asking, "b")
    for other in [{"integration": "i-2"}, {"tenant": GLOBEX}]:
        fail(asking, "b", duration_ms=1, times=50, **other)
    (row,) = [
        row for row in asking.ask(FILE) if (row["tenant_id"], row["integration"]) == (ACME, "i-1")
    ]
    assert (row["calls"], row["p95_ms"], row["top_error"]) == (6, 990, "a")


def test_calls_without_a_duration_are_left_out_of_the_percentile(asking: Asking):
    succeed(asking, duration_ms=10)
    succeed(asking, duration_ms=70)
    succeed(asking, times=50)
    assert asking.ask(FILE)[0]["p95_ms"] == 70


def test_window_is_thirty_days(asking: Asking):
    succeed(asking, days=30)
    succeed(asking, days=30, minutes=1)
    fail(asking, "auth", days=31)
    assert [(row["calls"], row["top_error"]) for row in asking.ask(FILE)] == [(1, None)]


def test_failures_at_rate_one_beside_sampled_successes_give_the_true_rate(asking: Asking):
    succeed(asking, rate=0.1, duration_ms=100, times=9)
    fail(asking, "auth", duration_ms=800, times=4)
    fail(asking, "TimeoutError", duration_ms=900, times=6)
    (row,) = asking.ask(FILE)
    assert (row["calls"], row["succeeded"], row["failed"]) == (100, 90, 10)
    assert (row["success_pct"], row["p95_ms"]) == (90.0, 900)


def test_most_frequent_error_is_by_weight(asking: Asking):
    fail(asking, "frequent", rate=0.1)
    fail(asking, "often stored", times=9)
    assert asking.ask(FILE)[0]["top_error"] == "frequent"


@pytest.mark.parametrize("codes", [("a", "b"), ("b", "a")])
def test_errors_of_the_same_frequency_are_taken_by_name(codes, asking: Asking):
    for code in codes:
        fail(asking, code)
    assert asking.ask(FILE)[0]["top_error"] == "a"


def test_calls_of_an_application(asking: Asking, database18: Database):
    rule = Sampling(0.5, key="integration_id")
    clock = FrozenClock(NOON.timestamp() - 3600)
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy="tenantry.taxonomies.saas",
        sampling={"integration": rule},
        clock=clock,
    )
    kept = next(name for name in map(str, range(100)) if rule.keeps(name))

    @emits("integration")
    def call(integration_id: str, type: str, succeeds: bool) -> None:  # noqa: A002
        clock.tick(0.04)
        if not succeeds:
            raise ConnectionResetError

    with pipeline, tenant(ACME):
        for number in range(10):
            if number < 8:
                call(kept, "crm", True)
            else:
                with pytest.raises(ConnectionResetError):
                    call(kept, "crm", False)
    assert pipeline.shutdown()

    (row,) = asking.ask(FILE)
    assert (row["integration"], row["calls"], row["succeeded"], row["failed"]) == (kept, 18, 16, 2)
    assert (row["success_pct"], row["p95_ms"]) == (88.9, 40)
    assert row["top_error"] == "ConnectionResetError"
