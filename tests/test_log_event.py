"""``log_event``: facts, by instance and by name."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from uuid import UUID

import pytest
from pydantic import field_validator

from tenantry import Event, alog_event, emits, log_event, tenant
from tenantry.exceptions import (
    ConfigurationError,
    InvalidEvent,
    InvalidTenant,
    TenantNotSet,
    UnknownEvent,
)
from tenantry.taxonomies import saas
from tenantry.testing import FrozenClock, SequentialIds
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"
SAAS = "tenantry.taxonomies.saas"
THEN = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)


class NoOffset(tzinfo):
    def utcoffset(self, when):
        return None


class Unprintable:
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


@pytest.fixture
def events():
    with capture_events(SAAS, strict=False) as pipeline, tenant(ACME, actor="user:1"):
        yield pipeline


@pytest.fixture
def strict_events():
    with capture_events(SAAS) as pipeline, tenant(ACME):
        yield pipeline


def quota(**more):
    return log_event("quota_exceeded", quota_type="m", limit=1, attempted=2, **more)


STORED = {"quotaType": "m", "limit": 1, "attempted": 2}


@pytest.mark.parametrize(
    "log",
    [
        lambda: log_event(saas.QuotaExceeded(quota_type="m", limit=1, attempted=2)),
        lambda: log_event("quota_exceeded", quota_type="m", limit=1, attempted=2),
        lambda: log_event("quota_exceeded", quotaType="m", limit="1", attempted=2),
        lambda: log_event("quota_exceeded", fields={"quota_type": "m"}, limit=1, attempted=2),
        lambda: log_event(
            saas.QuotaExceeded(quota_type="m", limit=1, attempted=0), fields={"attempted": 2}
        ),
        lambda: asyncio.run(alog_event("quota_exceeded", quota_type="m", limit=1, attempted=2)),
    ],
    ids=["instance", "snake", "camel", "fields", "instance and keys", "asynchronous"],
)
def test_event_is_recorded_and_its_id_given(events, log):
    event_id = log()
    (record,) = events.records
    assert (record.id, record.name, record.data) == (event_id, "quota_exceeded", STORED)
    assert (record.tenant_id, record.actor_id) == (ACME, "user:1")
    assert record.phase is record.operation_id is record.parent_operation_id is None
    assert UUID(event_id).version == 7


def test_instance_is_stored_as_its_class_validated_it():
    class Masked(Event):
        card: str

        @field_validator("card")
        @classmethod
        def mask(cls, value: str) -> str:
            return f"<{value[-2:]}>"

    with capture_events([Masked]) as events, tenant(ACME):
        log_event(Masked(card="1234"))
        log_event("masked", card="1234")
        assert [record.data for record in events.records] == [{"card": "<34>"}] * 2


def test_tenant_and_actor_may_be_given(events):
    quota(tenant=OTHER)
    quota(tenant=ACME)
    quota(actor="job:1")
    found = [(record.tenant_id, record.actor_id) for record in events.records]
    assert found == [(OTHER, None), (ACME, "user:1"), (ACME, "job:1")]


def test_error_code_and_duration_fill_their_columns(events):
    quota(error_code="full", duration_ms=1)
    log_event("integration_failed", integrationId="i", type="t", errorCode="e", durationMs=2.5)
    first, second = events.records
    assert (first.error_code, first.duration_ms, first.data) == ("full", 1.0, STORED)
    assert (second.error_code, second.duration_ms) == ("e", 2.5)
    assert second.data == {"integrationId": "i", "type": "t", "errorCode": "e"}
    assert events.stats().undeclared == 0


def test_error_code_of_any_text_leaves_the_duration_alone(events):
    quota(error_code="no duration_ms", duration_ms=3)
    assert (events.records[0].error_code, events.records[0].duration_ms) == ("no duration_ms", 3.0)


@pytest.mark.parametrize("duration", [-1, math.nan, math.inf, "1", True, 1e16, Unprintable()])
def test_impossible_duration_is_refused(events, duration):
    assert quota(duration_ms=duration) is None
    assert "is not a duration: milliseconds, 0 or more" in events.rejected[0].detail


# When it happened.


@pytest.mark.parametrize(
    "occurred_at", [THEN, THEN.astimezone(timezone(timedelta(hours=5, minutes=30)))]
)
def test_occurred_at_is_the_time(events, occurred_at):
    quota(occurred_at=occurred_at)
    assert events.records[0].created_at == THEN


@pytest.mark.parametrize(
    "occurred_at",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001
        datetime(2026, 1, 1, tzinfo=NoOffset()),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        "2026-01-01T00:00:00Z",
        5,
    ],
    ids=["naive", "no offset", "before all", "after all", "text", "number"],
)
def test_time_that_is_none_is_refused(events, occurred_at):
    assert quota(occurred_at=occurred_at) is None
    assert [reject.reason for reject in events.rejected] == ["occurred_at_invalid"]
    assert "is no time with a time zone; pass an aware" in events.rejected[0].detail


# Replays.


def test_replay_has_the_same_pinned_id_whoever_replays(events):
    ids = {quota(occurred_at=THEN, idempotency_key="k")}
    with tenant(UUID(ACME), actor="user:2", correlation="another request"):
        ids.add(quota(occurred_at=THEN, idempotency_key="k"))
        ids.add(quota(occurred_at=THEN.astimezone(timezone(timedelta(1 / 3))), idempotency_key="k"))
    assert ids == {"019cb73d-3218-7e1f-a35f-53d86745a24c"}


def test_another_tenant_name_time_or_key_has_another_id(events):
    given = dict(occurred_at=THEN, idempotency_key="k")  # noqa: C408
    ids = [
        quota(**given),
        quota(**given, tenant=OTHER),
        quota(**given | {"idempotency_key": "l"}),
        quota(**given | {"occurred_at": THEN + timedelta(seconds=1)}),
        log_event("integration_succeeded", integration_id="i", type="t", **given),
    ]
    assert len(set(ids)) == 5


def test_replay_from_before_1970_has_an_id_too(events):
    old = datetime(1950, 1, 1, tzinfo=UTC)
    first = quota(occurred_at=old, idempotency_key=5)
    assert first is not None
    assert first == quota(occurred_at=old, idempotency_key="5")
    assert events.records[0].created_at == old


def test_idempotency_key_needs_occurred_at(events):
    assert quota(idempotency_key="k") is None
    assert events.rejected[0].reason == "occurred_at_missing"
    assert "idempotency_key needs occurred_at" in events.rejected[0].detail


# Operations.


def test_fact_inside_an_operation_names_it_as_parent(events):
    with emits("ingest", source_type="web", url="u") as operation:
        quota()
        operation.set(docs=1, chunks=1)
    fact = events.records[1]
    assert fact.parent_operation_id == operation.id
    assert fact.operation_id is None


# Refusals.


def test_refused_event_keeps_declared_values_and_only_types_of_others(events):
    assert quota(tenant="nobody", password="secret", n=1) is None
    (reject,) = events.rejected
    assert (reject.name, reject.reason, reject.tenant_id) == (
        "quota_exceeded",
        "invalid_tenant",
        None,
    )
    assert reject.data == STORED
    assert reject.other_keys == {"password": "str", "n": "int"}


def test_refused_event_keeps_values_in_either_spelling(events):
    log_event("quota_exceeded", quotaType="m", attempted=2, limit="many", duration_ms="no")
    (reject,) = events.rejected
    assert reject.data == {"quotaType": "m", "attempted": 2, "limit": "many"}


def test_refused_event_of_an_unknown_name_keeps_no_values(events):
    assert log_event("quota_exeeded", limit="secret") is None
    (reject,) = events.rejected
    assert (reject.name, reject.reason) == ("quota_exeeded", "unknown_event")
    assert (reject.data, reject.other_keys) == ({}, {"limit": "str"})


def test_refused_instance_keeps_its_values():
    with capture_events(SAAS, strict=False) as events:
        assert log_event(saas.QuotaExceeded(quota_type="m", limit=1, attempted=2)) is None
        (reject,) = events.rejected
        assert (reject.reason, reject.data) == ("tenant_not_set", STORED)


def test_undeclared_keys_are_removed_counted_and_warned_of(events, caplog):
    assert quota(colour=1, taste=2) is not None
    assert events.records[0].data == STORED
    assert events.stats().undeclared == 2
    assert "'quota_exceeded' declares no key 'colour', 'taste'; it declares" in caplog.text


@pytest.mark.parametrize("what", [saas.QuotaExceeded, None, 5, Unprintable()])
def test_what_is_no_event_is_refused(events, what):
    assert log_event(what) is None
    assert [reject.reason for reject in events.rejected] == ["unknown_event"]
    assert "takes an instance of a declared Event, or an event's" in events.rejected[0].detail


def test_event_class_that_only_shares_the_name_is_refused(events):
    class Impostor(Event, name="quota_exceeded"):
        pass

    assert log_event(Impostor()) is None
    assert "is not the class that the taxonomy declares" in events.rejected[0].detail


@pytest.mark.parametrize(
    "name", ["tenant", "actor", "conn", "fields", "result", "errors", "failed_if", "on_close"]
)
def test_key_that_is_an_option_goes_through_fields(name):
    with capture_events(open_taxonomy=["x_*"]) as events, tenant(ACME):
        if name not in {"tenant", "actor", "conn", "fields"}:  # those are options of its own
            with pytest.raises(ConfigurationError, match=f"'{name}' is the name of an option"):
                log_event("x_y", **{name: 1})
        assert log_event("x_y", fields={name: 1}) is not None
        assert events.records[0].data == {name: 1}


@pytest.mark.parametrize(
    "log, kind",
    [
        (lambda: quota(colour=1), InvalidEvent),
        (lambda: log_event("quota_exceeded", limit=1), InvalidEvent),
        (lambda: log_event("unknown"), UnknownEvent),
        (lambda: quota(tenant="nobody"), InvalidTenant),
        (lambda: quota(idempotency_key="k"), InvalidEvent),
        (lambda: quota(occurred_at=5), InvalidEvent),
        (lambda: quota(duration_ms=-1), InvalidEvent),
        (lambda: log_event(5), UnknownEvent),
        (lambda: asyncio.run(alog_event("unknown")), UnknownEvent),
    ],
    ids=[
        "undeclared",
        "missing",
        "unknown",
        "tenant",
        "no time",
        "bad time",
        "duration",
        "no event",
        "asynchronous",
    ],
)
def test_mistakes_raise_in_strict_mode(strict_events, log, kind):
    with pytest.raises(kind):
        log()
    assert strict_events.records == []


def test_no_tenant_raises_in_strict_mode():
    with capture_events(SAAS), pytest.raises(TenantNotSet, match=r"^quota_exceeded: no tenant"):
        quota()


def test_hostile_values_do_no_harm(events):
    odd = Unprintable()
    assert quota(actor=odd, error_code=odd) is not None
    assert quota(tenant=odd) is None
    assert log_event("quota_exceeded", quota_type=odd, limit=odd, attempted=odd) is None
    assert quota(occurred_at=THEN, idempotency_key=odd) is None
    assert events.records[0].actor_id == "<Unprintable>"
    assert len(events.records) == 1


# The caller's own transaction, and the books.


def test_conn_hands_the_event_over_and_counts_it(events):
    assert quota(conn=object()) is not None
    assert asyncio.run(alog_event(saas.IntegrationSucceeded(integration_id="i", type="t"), conn=1))
    stats = events.stats()
    assert (stats.emitted, stats.handed, stats.accepted) == (2, 2, 0)
    assert events.names == ["quota_exceeded", "integration_succeeded"]


def test_refused_event_is_not_handed_over(events):
    assert quota(conn=object(), tenant="nobody") is None
    assert events.stats().handed == 0


def test_books_balance(events):
    quota()
    quota(tenant="nobody")
    quota(conn=object())
    assert events.flush()
    stats = events.stats()
    assert stats.emitted == stats.accepted + stats.handed + sum(stats.dropped.values()) == 3
    assert (stats.stored, stats.rejected, stats.pending) == (1, 1, 0)


def test_times_and_ids_are_injected():
    with (
        capture_events(SAAS, clock=FrozenClock(), new_id=SequentialIds()) as events,
        tenant(ACME),
    ):
        assert quota() == "00000000-0000-7000-8000-000000000001"
        assert events.records[0].created_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_too_large_event_is_cut_and_counted(events):
    log_event(saas.QuotaExceeded(quota_type="x" * 5000, limit=1, attempted=2))
    assert events.records[0].data["quotaType"].endswith("]")
    assert events.stats().truncated == 1


class HostileFields(dict):
    def keys(self):
        raise RuntimeError

    __iter__ = items = keys


@pytest.mark.parametrize("fields", [[("limit", 1)], 5, HostileFields(limit=1)])
def test_fields_that_are_no_mapping_refuse_the_event(events, fields):
    assert log_event("quota_exceeded", fields=fields) is None
    assert asyncio.run(alog_event("quota_exceeded", fields=fields)) is None
    assert [reject.reason for reject in events.rejected] == ["invalid"] * 2
    assert "fields= takes a mapping of keys to values" in events.rejected[0].detail


def test_fields_that_are_no_mapping_raise_in_strict_mode(strict_events):
    with pytest.raises(ConfigurationError, match="the given list cannot be read as one"):
        log_event("quota_exceeded", fields=[("limit", 1)])


def test_refused_values_are_not_quoted(events):
    quota(duration_ms="hunter2")
    log_event({"password": "hunter2"})
    duration, event = (reject.detail for reject in events.rejected)
    assert "duration_ms, a value of type str, is not a duration" in duration
    assert "not a value of type dict" in event
    assert "hunter2" not in duration + event
