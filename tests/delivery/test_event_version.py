"""The version of a declaration arrives with each row, on every way that an event can take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tenantry import Event, Pipeline, emits, log_event, tenant
from tenantry.exporters.memory import MemoryExporter
from tests.delivery.deliveries import wait_until
from tests.fix_postgres import Database

TENANT = "018f6f0e-0000-7000-8000-000000000001"


class MailStarted(Event, version=2):
    to: str


class MailCompleted(Event, version=3):
    to: str
    size: int


class MailFailed(Event, version=4):
    to: str


class MailOpened(Event, version=5):
    to: str


class MailRead(Event):
    to: str


TAXONOMY = [MailStarted, MailCompleted, MailFailed, MailOpened, MailRead]


@pytest.fixture
def pipeline(database18: Database, tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(
        dsn=database18.writer, taxonomy=TAXONOMY, ship_interval=0.01, journal=tmp_path
    )
    with pipeline, tenant(TENANT):
        yield pipeline
    pipeline.shutdown()


def versions(database: Database, table: str = "events") -> list[tuple[object, ...]]:
    return database.execute(
        f"SELECT name, event_version FROM tenantry.{table} ORDER BY created_at, id"
    )


def test_phases_of_a_decorated_function_and_of_a_block(database18: Database, pipeline: Pipeline):
    @emits("mail")
    def send(to: str) -> dict[str, int]:
        if not to:
            raise ValueError
        return {"size": 1}

    send("a")
    with pytest.raises(ValueError):  # noqa: PT011  # it has no text
        send("")
    with emits("mail", to="b") as operation:
        operation.set(size=3)
    assert pipeline.flush()
    assert versions(database18) == [
        ("mail_started", 2),
        ("mail_completed", 3),
        ("mail_started", 2),
        ("mail_failed", 4),
        ("mail_started", 2),
        ("mail_completed", 3),
    ]


def test_facts_by_name_and_by_class(database18: Database, pipeline: Pipeline):
    log_event("mail_opened", to="a")
    log_event(MailOpened(to="a"))
    log_event("mail_read", to="a")
    assert pipeline.flush()
    assert versions(database18) == [("mail_opened", 5), ("mail_opened", 5), ("mail_read", 1)]


def test_events_in_the_callers_own_transaction(database18: Database, pipeline: Pipeline):
    with psycopg.connect(database18.writer) as connection:
        log_event("mail_opened", to="a", conn=connection)
        with emits("mail", to="b", size=1, conn=connection):
            pass
    assert pipeline.flush()
    assert sorted(versions(database18)) == [
        ("mail_completed", 3),
        ("mail_opened", 5),
        ("mail_started", 2),
    ]


def test_refused_events(database18: Database, pipeline: Pipeline):
    log_event("mail_opened")
    with emits("mail", to="a"):
        pass
    log_event("mail_lost", to="a")
    assert pipeline.flush()
    assert versions(database18, "rejected_events") == [
        ("mail_opened", 5),
        ("mail_completed", 3),
        ("mail_lost", None),
    ]


@pytest.fixture
def refusing(database18: Database) -> Iterator[None]:
    """Have the database refuse every event of these."""
    database18.execute(
        "ALTER TABLE tenantry.events ADD CONSTRAINT no_mail CHECK (name NOT LIKE 'mail_%')"
    )
    yield
    database18.execute("ALTER TABLE tenantry.events DROP CONSTRAINT no_mail")


@pytest.mark.usefixtures("refusing")
def test_events_that_the_database_refuses(database18: Database, pipeline: Pipeline):
    log_event("mail_opened", to="a")
    log_event("mail_read", to="a")
    assert pipeline.flush()
    assert versions(database18, "rejected_events") == [("mail_opened", 5), ("mail_read", 1)]


def test_end_that_is_written_for_a_dead_process(database18: Database, tmp_path: Path):
    root = tmp_path / "dead"
    child = os.fork()
    if child == 0:  # it dies within its operation
        made = Pipeline(dsn=database18.writer, taxonomy=TAXONOMY, ship_interval=60, journal=root)
        with made, tenant(TENANT), emits("mail", to="a"):
            os._exit(0)
    os.waitpid(child, 0)
    heir = Pipeline(dsn=database18.writer, taxonomy=TAXONOMY, ship_interval=0.01, journal=root)
    try:
        with heir, tenant(TENANT):
            log_event("mail_read", to="heir")
        expected = [("mail_failed", 4), ("mail_read", 1), ("mail_started", 2)]
        wait_until(lambda: sorted(versions(database18)) == expected)
    finally:
        heir.shutdown()


def test_records_in_memory():
    exporter = MemoryExporter()
    with Pipeline(exporter=exporter, taxonomy=TAXONOMY) as pipeline, tenant(TENANT):
        log_event("mail_opened", to="a")
        log_event("mail_opened")
        assert [each.event_version for each in exporter.records] == [5]
        assert [each.event_version for each in exporter.rejected] == [5]
    pipeline.shutdown()
