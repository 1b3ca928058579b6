"""Why ingestions failed."""

from __future__ import annotations

from tests.questions.asking import ACME, GLOBEX, Asking

FILE = "ingestion_failures"


def fail(asking: Asking, error_code: str | None, **options) -> None:
    asking.add("ingest_failed", phase="failed", error_code=error_code, **options)


def lines(asking: Asking) -> list[tuple[object, ...]]:
    return [tuple(row.values())[:4] for row in asking.ask(FILE)]


def test_codes_of_each_tenant_the_most_frequent_first(asking: Asking):
    fail(asking, "gone")
    fail(asking, "TimeoutError", times=3)
    fail(asking, "gone", tenant=GLOBEX)
    assert lines(asking) == [
        (ACME, "TimeoutError", 3, 75.0),
        (ACME, "gone", 1, 25.0),
        (GLOBEX, "gone", 1, 100.0),
    ]


def test_last_failure_is_told_in_utc(asking: Asking):
    asking.connection.execute("SET LOCAL TIME ZONE 'Asia/Tokyo'")
    fail(asking, "gone", days=2)
    fail(asking, "gone", days=1, minutes=30)
    assert asking.ask(FILE)[0]["last_failed"] == "2026-03-14 11:30"


def test_failures_without_a_code_are_one_line(asking: Asking):
    fail(asking, None, times=2)
    assert lines(asking) == [(ACME, "-", 2, 100.0)]


def test_window_is_thirty_days(asking: Asking):
    fail(asking, "gone", days=30)
    fail(asking, "gone", days=30, minutes=1)
    assert lines(asking) == [(ACME, "gone", 1, 100.0)]


def test_rows_are_weighed(asking: Asking):
    """Failures are kept at rate 1 unless something else wrote them."""
    fail(asking, "gone", rate=0.25)
    fail(asking, "gone")
    fail(asking, "slow", times=5)
    assert lines(asking) == [(ACME, "gone", 5, 50.0), (ACME, "slow", 5, 50.0)]


def test_completed_ingestions_are_none(asking: Asking):
    asking.add("ingest_completed", phase="completed", docs=1, chunks=1)
    assert asking.ask(FILE) == []
