"""Forging through data: nothing that an event carries decides whose it is, or its name."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import Event, Pipeline, emits, log_event, tenant
from tenantry.exporters.memory import MemoryExporter
from tenantry.propagation import extract
from tests.security.tenants import OURS, THEIRS

RESERVED = (
    *("tenant_id", "tenantId", "tenant", "name", "event", "actor", "actor_id", "actorId"),
    *("correlation", "correlation_id", "phase", "id", "operation", "operation_id", "operationId"),
    *("parent_operation_id", "created_at", "occurred_at", "idempotency_key", "conn", "service"),
    *("environment", "sample_rate", "trace_id", "span_id", "event_version", "recorded_at"),
)
"""Names of columns and of options, as somebody would write them who hopes for more."""

VALUES = st.sampled_from([THEIRS, "login_forged", "failed", "1970-01-01T00:00:00Z", "0", "*"])
DATA = st.dictionaries(
    st.sampled_from(RESERVED), VALUES | st.text("ab ;'\"%{}", max_size=20), min_size=1
)


class Report(Event, name="work_completed"):
    """Declares one key."""

    docs: int


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(
        exporter=MemoryExporter(),
        taxonomy=[Report],
        open_taxonomy=["noted", "work_started"],
        service="shop",
        environment="live",
    ) as made:
        yield made
    made.shutdown()


def columns_of(record) -> tuple:
    return (
        *(record.tenant_id, record.actor_id, record.correlation_id, record.service),
        *(record.environment, record.sample_rate, record.event_version),
    )


OWN = (OURS, "user:42", "request-7", "shop", "live", 1.0, 1)


@settings(max_examples=60, deadline=None)
@given(data=DATA)
def test_no_key_of_the_data_fills_a_column(pipeline: Pipeline, data: dict[str, str]):
    @emits("work")
    def work(**arguments: object) -> dict[str, str]:
        log_event("noted", fields=data)
        return {**data, "docs": 3}

    pipeline.exporter.clear()
    with tenant(OURS, actor="user:42", correlation="request-7"):
        work(**data)
    assert pipeline.flush()
    assert pipeline.exporter.rejected == []
    started, noted, completed = pipeline.exporter.records
    assert [columns_of(each) for each in (started, noted, completed)] == [OWN] * 3
    assert [(each.name, each.phase) for each in (started, noted, completed)] == [
        ("work_started", "started"),
        ("noted", None),
        ("work_completed", "completed"),
    ]
    assert started.operation_id == completed.operation_id == noted.parent_operation_id
    assert noted.data == data, "an open payload is kept as it was given, as data"
    assert completed.data == {"docs": 3}


@pytest.mark.parametrize("name", ["login_forged", "noted; DROP TABLE x", "", "Noted", "noted\n"])
def test_name_that_an_end_user_chose_is_no_event(pipeline: Pipeline, name: str):
    """An application that passes one on makes a rejected event of it, and never one of the name."""
    pipeline.exporter.clear()
    with tenant(OURS):
        assert log_event(name, fields={"a": 1}) is None
    assert pipeline.flush()
    assert pipeline.exporter.records == []
    assert [each.tenant_id for each in pipeline.exporter.rejected] == [OURS]


@settings(max_examples=40, deadline=None)
@given(
    members=st.dictionaries(
        st.sampled_from(["tenant", "actor", "correlation", "operation", "exp", "key", "sig"]).map(
            lambda member: f"tenantry.{member}"
        )
        | st.sampled_from(["tenant_id", "tenant", "actor"]),
        VALUES,
        min_size=1,
    )
)
def test_baggage_that_nobody_signed_names_no_tenant(pipeline: Pipeline, members: dict[str, str]):
    pipeline.exporter.clear()
    baggage = ",".join(f"{name}={quote(value)}" for name, value in members.items())
    with tenant(OURS), extract({"baggage": baggage}):
        log_event("noted")
    assert pipeline.flush()
    assert pipeline.exporter.records == []
    assert [each.tenant_id for each in pipeline.exporter.rejected] == [None]
    with tenant(OURS, actor="user:42"):
        log_event("noted", fields={"baggage": baggage})
    assert pipeline.flush()
    (record,) = pipeline.exporter.records
    assert (record.tenant_id, record.actor_id) == (OURS, "user:42")
