"""Which operations began and have no end."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from tenantry import Event, Pipeline, Sampling, emits, tenant
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking

FILE = "operations_in_flight"


def start(asking: Asking, **options) -> str:
    operation_id = str(uuid4())
    asking.add("ingest_started", phase="started", operation_id=operation_id, **options)
    return operation_id


def states(asking: Asking) -> list[tuple[object, object]]:
    return [(row["operation_id"], row["state"]) for row in asking.ask(FILE)]


def test_line_of_an_operation(asking: Asking):
    operation_id = start(asking, minutes=2.51, actor_id="user:42")
    assert asking.ask(FILE) == [
        {
            "tenant_id": ACME,
            "operation": "ingest",
            "operation_id": operation_id,
            "state": "in flight",
            "age": timedelta(minutes=2, seconds=30),
            "actor": "user:42",
        }
    ]


def test_operation_is_unresolved_after_an_hour_and_the_latest_is_first(asking: Asking):
    old = start(asking, hours=1, minutes=1)
    young = start(asking, hours=1)
    assert states(asking) == [(young, "in flight"), (old, "unresolved")]


@pytest.mark.parametrize(
    "name, phase", [("ingest_completed", "completed"), ("ingest_failed", "failed")]
)
@pytest.mark.parametrize("minutes", [1, 121], ids=["after", "before it by the clock"])
def test_operation_that_ended_is_not_listed(name: str, phase: str, minutes: int, asking: Asking):
    operation_id = start(asking, hours=2)
    asking.add(name, phase=phase, operation_id=operation_id, minutes=minutes)
    assert asking.ask(FILE) == []


@pytest.mark.parametrize("phase", ["completed", "failed"])
@pytest.mark.parametrize("tenant", [ACME, ACME.upper(), None], ids=["its", "upper case", "none"])
def test_operation_whose_end_was_refused_is_not_listed(phase: str, tenant, asking: Asking):
    operation_id = start(asking)
    asking.reject("ingest_completed", phase=phase, operation_id=operation_id, tenant=tenant)
    assert asking.ask(FILE) == []


def test_reader_is_not_shown_an_operation_whose_end_was_refused(asking: Asking):
    operation_id = start(asking)
    asking.reject("ingest_completed", phase="completed", operation_id=operation_id, tenant=ACME)
    assert asking.ask(FILE, role="tenantry_reader", tenant=ACME) == []


def test_refused_start_beside_a_stored_one_is_no_end(asking: Asking):
    operation_id = start(asking)
    asking.reject("ingest_started", phase="started", operation_id=operation_id, tenant=ACME)
    assert states(asking) == [(operation_id, "in flight")]


def test_end_of_another_operation_or_tenant_is_no_end(asking: Asking):
    operation_id = start(asking)
    end = {"phase": "completed", "docs": 1, "chunks": 1}
    asking.add("ingest_completed", operation_id=str(uuid4()), **end)
    asking.add("ingest_completed", operation_id=operation_id, tenant=GLOBEX, **end)
    assert states(asking) == [(operation_id, "in flight")]


def test_facts_and_ends_without_a_start_are_not_listed(asking: Asking):
    asking.add("conversation_started", conversationId="c", sessionId="s")
    asking.add("ingest_failed", phase="failed", operation_id=str(uuid4()))
    assert asking.ask(FILE) == []


def test_window_is_seven_days_of_starts(asking: Asking):
    within = start(asking, days=7)
    start(asking, days=7, minutes=1)
    assert states(asking) == [(within, "unresolved")]


def test_end_by_a_clock_that_was_set_back_across_the_window_is_found(asking: Asking):
    operation_id = start(asking, days=7)
    asking.add("ingest_failed", phase="failed", operation_id=operation_id, days=7, minutes=5)
    assert asking.ask(FILE) == []


class SaveStarted(Event):
    item: str


class SaveCompleted(Event):
    item: str


class SaveFailed(Event):
    item: str
    error_code: str


SAVE = [SaveStarted, SaveCompleted, SaveFailed]


def test_operation_whose_transaction_did_not_commit_is_unresolved(
    asking: Asking, database18: Database
):
    clock = FrozenClock(NOON.timestamp() - 2 * 3600)
    pipeline = Pipeline(dsn=database18.writer, taxonomy=SAVE, clock=clock)
    with pipeline, tenant(ACME, actor="user:7"), psycopg.connect(database18.writer) as connection:
        with emits("save", item="kept", conn=connection):
            pass
        connection.commit()
        with emits("save", item="lost", conn=connection) as operation:
            pass
        connection.rollback()
    assert pipeline.shutdown()
    assert [tuple(row.values()) for row in asking.ask(FILE)] == [
        (ACME, "save", operation.id, "unresolved", timedelta(hours=2), "user:7")
    ]


def test_operation_is_listed_until_its_end_is_stored(asking: Asking, database18: Database):
    clock = FrozenClock(NOON.timestamp() - 60)
    pipeline = Pipeline(dsn=database18.writer, taxonomy=SAVE, clock=clock)
    with pipeline, tenant(ACME):
        with emits("save", item="i") as operation:
            assert pipeline.flush()
            assert states(asking) == [(operation.id, "in flight")]
        assert pipeline.flush()
        assert states(asking) == []
    assert pipeline.shutdown()


def test_operation_whose_end_an_application_got_wrong_is_not_listed(
    asking: Asking, database18: Database
):
    clock = FrozenClock(NOON.timestamp() - 60)
    pipeline = Pipeline(dsn=database18.writer, taxonomy="tenantry.taxonomies.saas", clock=clock)
    with pipeline, tenant(ACME), emits("ingest", source_type="web", url="u") as operation:
        operation.set(docs="many", chunks=1)
    assert pipeline.shutdown()
    assert database18.execute("SELECT phase FROM tenantry.rejected_events") == [("completed",)]
    assert asking.ask(FILE) == []


def test_failure_that_is_kept_while_its_start_was_left_out_is_not_listed(
    asking: Asking, database18: Database
):
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy=SAVE,
        sampling={"save": Sampling(1e-18)},
        clock=FrozenClock(NOON.timestamp() - 60),
    )
    with pipeline, tenant(ACME), emits("save", item="i") as operation:
        operation.fail("full")
    assert pipeline.shutdown()
    assert database18.execute("SELECT name FROM tenantry.events") == [("save_failed",)]
    assert asking.ask(FILE) == []
