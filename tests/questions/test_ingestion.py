"""How much each tenant ingested, how fast, and how often it failed."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import Pipeline, Sampling, emits, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking, open_asking

FILE = "ingestion"


def complete(asking: Asking, duration_ms: float | None, **options) -> None:
    options = {"docs": 1, "chunks": 2, "days": 1, **options}
    asking.add("ingest_completed", phase="completed", duration_ms=duration_ms, **options)


def fail(asking: Asking, **options) -> None:
    asking.add("ingest_failed", phase="failed", error_code="TimeoutError", **options)


def test_totals_of_a_tenant(asking: Asking):
    complete(asking, 1000, docs=2, chunks=30)
    complete(asking, 3000, docs=1, chunks=10)
    complete(asking, 2000, docs=0, chunks=0)
    fail(asking, duration_ms=90_000)
    assert asking.ask(FILE) == [
        {
            "tenant_id": ACME,
            "ingestions": 4,
            "completed": 3,
            "failed": 1,
            "failed_pct": 25.0,
            "docs": 3,
            "chunks": 40,
            "chunks_s": 6.7,
            "p50_ms": 2000,
            "p95_ms": 3000,
        }
    ]


def test_tenant_whose_ingestions_all_failed(asking: Asking):
    fail(asking, times=2)
    (row,) = asking.ask(FILE)
    assert (row["ingestions"], row["completed"], row["failed_pct"]) == (2, 0, 100.0)
    assert (row["docs"], row["chunks"]) == (0, 0)
    assert (row["chunks_s"], row["p50_ms"], row["p95_ms"]) == (None, None, None)


def test_ingestion_that_took_no_measurable_time_divides_nothing_by_zero(asking: Asking):
    complete(asking, 0)
    (row,) = asking.ask(FILE)
    assert (row["chunks"], row["chunks_s"], row["p50_ms"]) == (2, None, 0)


def test_ingestion_without_a_duration_counts_and_is_left_out_of_speed_and_percentiles(
    asking: Asking,
):
    complete(asking, 1000, chunks=5)
    complete(asking, None, chunks=100, times=9)
    (row,) = asking.ask(FILE)
    assert (row["completed"], row["chunks"]) == (10, 905)
    assert (row["chunks_s"], row["p50_ms"], row["p95_ms"]) == (5.0, 1000, 1000)


def test_window_is_thirty_days_of_ends(asking: Asking):
    complete(asking, 1, days=30)
    complete(asking, 1, days=30, minutes=1)
    fail(asking, days=31)
    (row,) = asking.ask(FILE)
    assert row["ingestions"] == 1


def test_started_rows_are_not_counted(asking: Asking):
    asking.add("ingest_started", phase="started", times=5)
    assert asking.ask(FILE) == []


def test_failures_at_rate_one_beside_sampled_successes_give_the_true_rate(asking: Asking):
    complete(asking, 100, rate=0.05, times=19)
    fail(asking, times=20)
    (row,) = asking.ask(FILE)
    assert (row["ingestions"], row["completed"], row["failed"]) == (400, 380, 20)
    assert row["failed_pct"] == 5.0
    assert (row["docs"], row["chunks"], row["chunks_s"]) == (380, 760, 20.0)


def test_percentiles_are_weighted_where_rates_mix(asking: Asking):
    complete(asking, 100, rate=0.1, times=9)
    complete(asking, 700, rate=0.2)
    complete(asking, 900, times=5)
    (row,) = asking.ask(FILE)
    # The weights are 90, 5 and 5. By number of rows the 95th percentile would be 900.
    assert (row["p50_ms"], row["p95_ms"]) == (100, 700)


def test_largest_tenant_is_first_and_no_tenant_is_in_another_line(asking: Asking):
    complete(asking, 100, times=2)
    for duration_ms in (900, 950, 990):
        complete(asking, duration_ms, tenant=GLOBEX)
    rows = asking.ask(FILE)
    assert [(row["tenant_id"], row["ingestions"], row["p50_ms"]) for row in rows] == [
        (GLOBEX, 3, 950),
        (ACME, 2, 100),
    ]


def percentile(rows: list[tuple[int, int]], share: Fraction) -> int:
    """Write every row out as often as its weight says, and count."""
    values = sorted(value for value, weight in rows for _ in range(weight))
    place = -(-share * len(values) // 1)  # rounded up
    return values[int(place) - 1]


ROWS = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from([1, 2, 4, 20])), min_size=1, max_size=12
)


def test_percentile_is_that_of_all_events_that_the_rows_stand_for(database18: Database):
    with open_asking(database18) as asking:

        @settings(max_examples=40, deadline=None)
        @given(ROWS)
        def check(rows: list[tuple[int, int]]) -> None:
            asking.forget()
            for duration_ms, weight in rows:
                complete(asking, duration_ms, rate=1 / weight)
            fail(asking, duration_ms=25, times=3)
            (row,) = asking.ask(FILE)
            assert row["p50_ms"] == percentile(rows, Fraction(1, 2))
            assert row["p95_ms"] == percentile(rows, Fraction(95, 100))

        check()


def test_sampled_operations_of_an_application_are_estimated(asking: Asking, database18: Database):
    rule = Sampling(0.25, key="url")
    clock = FrozenClock((NOON.timestamp()) - 3600)
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy="tenantry.taxonomies.saas",
        sampling={"ingest": rule},
        clock=clock,
    )
    urls = [f"https://example.com/{number}" for number in range(200)]
    with pipeline, tenant(ACME):
        for number, url in enumerate(urls):
            with emits("ingest", source_type="web", url=url) as operation:
                clock.tick(0.5)
                operation.set(docs=1, chunks=4)
                if number % 10 == 0:
                    operation.fail("too_large")
    assert pipeline.shutdown()

    kept = sum(rule.keeps(url) for number, url in enumerate(urls) if number % 10)
    assert 0 < kept < 180
    (row,) = asking.ask(FILE)
    assert row == {
        "tenant_id": ACME,
        "ingestions": 4 * kept + 20,
        "completed": 4 * kept,
        "failed": 20,
        "failed_pct": round(100 * 20 / (4 * kept + 20), 1),
        "docs": 4 * kept,
        "chunks": 16 * kept,
        "chunks_s": 8.0,
        "p50_ms": 500,
        "p95_ms": 500,
    }
