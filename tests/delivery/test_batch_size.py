"""Batches that take too long: they are sent in smaller parts, so that each gets through in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tenantry import batches, shipper
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.exporters.postgres import PostgresExporter
from tests.delivery.deliveries import assert_books_balance, wait_until
from tests.delivery.pipelines import Destination, make_pipeline, tick
from tests.fix_postgres import Database, Server, _empty_database, _migrated


class Patient(Destination):
    """Takes only so many rows at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def export(self, batch: Batch, deadline: float) -> Outcome:
        self.sizes.append(len(batch.events))
        if len(batch.events) > self.most:
            return Outcome(retry=Retry("backoff", "too much at once", smaller=True))
        return super().export(batch, deadline)


def fill(pipeline, destination: Destination, count: int) -> None:
    """Let events pile up while the destination is away, so that they are one batch."""
    destination.is_open.clear()
    for n in range(count):
        tick(pipeline, n=n)
    destination.is_open.set()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "LONGEST_BACKOFF", 0.02)


@pytest.mark.parametrize("most", [1, 7, 100])
def test_batch_is_halved_until_it_gets_through(most: int, tmp_path: Path):
    destination = Patient(most)
    pipeline = make_pipeline(destination, tmp_path)
    fill(pipeline, destination, 400)
    assert pipeline.flush(30)
    pipeline.shutdown()
    assert len(destination.events) == 400
    assert [b'"n":%d}' % n in event for n, event in enumerate(destination.events)] == [True] * 400


def test_batches_grow_again(tmp_path: Path):
    destination = Patient(10)
    pipeline = make_pipeline(destination, tmp_path)
    fill(pipeline, destination, 400)
    assert pipeline.flush(30)
    own = pipeline._shipper._own
    assert own.batch_bytes < batches.BATCH_BYTES
    destination.most = 10_000
    for _ in range(60):
        tick(pipeline)
        assert pipeline.flush(30)
    assert own.batch_bytes == batches.BATCH_BYTES
    pipeline.shutdown()


def test_trouble_that_is_not_of_the_size_leaves_the_size(tmp_path: Path):
    destination = Destination()
    pipeline = make_pipeline(destination, tmp_path)
    fill(pipeline, destination, 10)
    assert pipeline.flush(30)
    assert pipeline._shipper._own.batch_bytes == batches.BATCH_BYTES
    pipeline.shutdown()


@pytest.fixture
def own18(postgres18: Server) -> Database:
    return _migrated(_empty_database(postgres18))


SLOW = """
    CREATE FUNCTION tenantry.slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON tenantry.events
    FOR EACH ROW EXECUTE FUNCTION tenantry.slow()
"""


@pytest.mark.parametrize("limit", ["statement_timeout", "transaction_timeout"])
def test_rows_that_are_slow_to_store_get_through(own18: Database, tmp_path: Path, limit: str):
    """400 rows take a second, and a tenth of it is allowed."""
    own18.execute(SLOW)
    own18.execute(f"ALTER DATABASE {own18.name} SET {limit} = '100ms'")
    pipeline = make_pipeline(PostgresExporter(own18.writer), tmp_path, ship_interval=60)
    for n in range(400):
        tick(pipeline, n=n)
    assert pipeline.flush(40)
    own18.execute("DROP FUNCTION tenantry.slow() CASCADE")
    pipeline.shutdown()
    rows = own18.execute("SELECT (data->>'n')::int FROM tenantry.events ORDER BY id")
    assert [n for (n,) in rows] == list(range(400))
    assert_books_balance(own18)


def test_mostly_bad_batch_gets_through_in_less_time_than_it_needs(
    own18: Database, tmp_path: Path, monkeypatch
):
    """Each row that is refused costs round trips of its own: no deadline would allow them all."""
    monkeypatch.setattr(shipper, "EXPORT_TIMEOUT", 0.25)
    own18.execute("ALTER TABLE tenantry.events ADD CHECK ((data->>'n')::int % 10 = 0)")
    pipeline = make_pipeline(PostgresExporter(own18.writer), tmp_path, ship_interval=60)
    for n in range(1500):
        tick(pipeline, n=n)
    begun = time.monotonic()
    wait_until(lambda: pipeline.flush(5))
    assert time.monotonic() - begun < 60
    pipeline.shutdown()
    rows = own18.execute("SELECT (data->>'n')::int FROM tenantry.events ORDER BY id")
    assert [n for (n,) in rows] == list(range(0, 1500, 10))
    assert own18.execute("SELECT count(*) FROM tenantry.rejected_events") == [(1350,)]
    assert_books_balance(own18)
