"""``with emits(…)`` and ``async with emits(…)``."""

from __future__ import annotations

import asyncio

import pytest

from tenantry import Event, Operation, current_operation, current_scope, emits, tenant
from tenantry.exceptions import ConfigurationError, InvalidEvent, TenantNotSet, UnknownOperation
from tenantry.testing import FrozenClock
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"


class WorkStarted(Event):
    item: str


class WorkCompleted(Event):
    item: str
    size: int | None = None


class WorkFailed(Event):
    error_code: str


TAXONOMY = [WorkStarted, WorkCompleted, WorkFailed]


@pytest.fixture
def events():
    with capture_events(TAXONOMY, strict=False) as pipeline, tenant(ACME):
        yield pipeline


def test_block_is_an_operation(events):
    with emits("work", item="i") as operation:
        assert current_operation() is operation
        operation.set(size=3)
    assert current_operation() is None
    start, end = events.records
    assert start.operation_id == end.operation_id == operation.id
    assert (start.name, start.data) == ("work_started", {"item": "i"})
    assert (end.name, end.data) == ("work_completed", {"item": "i", "size": 3})


def test_asynchronous_block_is_an_operation(events):
    async def main():
        async with emits("work", item="i") as operation:
            await asyncio.sleep(0)
            assert current_operation() is operation

    asyncio.run(main())
    assert events.names == ["work_started", "work_completed"]


def test_exception_passes_and_is_the_failure(events):
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught, emits("work", item="i"):
        raise error
    assert caught.value is error
    assert error.__context__ is None
    assert {entry.path.name for entry in caught.traceback} == {"test_emits_block.py"}
    assert events.records[-1].error_code == "LookupError"
    assert current_operation() is None


def test_cancelled_block_is_a_failure_with_code_cancelled(events):
    async def main():
        async with asyncio.timeout(0):
            async with emits("work", item="i"):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert events.records[-1].error_code == "cancelled"


def test_fail_makes_it_fail_without_an_exception(events):
    with emits("work", item="i") as operation:
        operation.fail("refused")
    assert events.records[-1].error_code == "refused"
    assert events.names == ["work_started", "work_failed"]


def test_errors_and_error_code_name_the_failure(events):
    with pytest.raises(KeyError), emits("work", item="i", errors={LookupError: "missing"}):
        raise KeyError
    with pytest.raises(KeyError), emits("work", item="i") as operation:  # noqa: PT012
        operation.set(errorCode="by_hand")
        raise KeyError
    codes = [record.error_code for record in events.records if record.phase == "failed"]
    assert codes == ["missing", "by_hand"]
    assert events.stats().undeclared == 0


def test_set_takes_any_key_as_data(events):
    with emits("work", item="i") as operation:
        operation.set(self=1, size=2)
    assert events.records[-1].data == {"item": "i", "size": 2}


@pytest.mark.parametrize("nested", [False, True])
def test_block_entered_twice_is_refused(events, nested):
    block = emits("work", item="i")
    text = r"emits\('work'\) object was entered before; each block takes a fresh one"
    with block:
        if nested:
            with pytest.raises(RuntimeError, match=text):
                block.__enter__()
    with pytest.raises(RuntimeError, match=text):
        block.__enter__()
    assert events.names == ["work_started", "work_completed"]
    assert current_operation() is None


def test_tenant_and_actor_are_values(events):
    with emits("work", item="i", tenant=OTHER, actor="job:1"):
        assert current_scope().tenant == OTHER
    assert current_scope().tenant == ACME
    with emits("work", item="i", actor="job:2"):
        assert current_scope().tenant == ACME
    found = [(record.tenant_id, record.actor_id) for record in events.records]
    assert found == [(OTHER, "job:1")] * 2 + [(ACME, "job:2")] * 2


def test_callable_actor_is_warned_of_and_passed_over(events, caplog):
    for _ in range(2):
        with emits("work", item="i", actor=str):
            pass
    assert {record.actor_id for record in events.records} == {None}
    assert len(events.records) == 4
    (warning,) = caplog.messages
    assert "a block takes actor= as text" in warning
    assert "the scope's actor is recorded" in warning


def test_callable_actor_raises_in_strict_mode():
    with (
        capture_events(TAXONOMY),
        tenant(ACME),
        pytest.raises(ConfigurationError, match="a block takes actor= as text"),
    ):
        emits("work", item="i", actor=str).__enter__()


def test_bad_tenant_rejects_the_events_and_the_body_runs(events):
    with emits("work", item="i", tenant="nobody") as operation:
        operation.set(size=1)
    assert [r.reason for r in events.rejected] == ["invalid_tenant"] * 2
    assert {r.operation_id for r in events.rejected} == {operation.id}
    assert current_scope().tenant == ACME


def test_duration_is_of_the_block():
    clock = FrozenClock()
    with capture_events(TAXONOMY, clock=clock) as events, tenant(ACME):
        with emits("work", item="i"):
            clock.tick(0.25)
        assert events.records[-1].duration_ms == 250.0


def test_unrecorded_operation_takes_data_all_the_same(events):
    with emits("nothing") as operation:
        operation.set(a=1)
        operation.fail("x")
        assert current_operation() is None
        assert isinstance(operation, Operation)
        assert operation.id == ""
    assert events.stats().emitted == 0


def test_conn_hands_the_completed_event_over(events):
    with emits("work", item="i", conn=object()):
        pass

    async def main():
        async with emits("work", item="i", conn=object()):
            pass

    asyncio.run(main())
    assert events.stats().handed == 2


@pytest.mark.parametrize(
    "block, kind",
    [
        pytest.param(lambda: emits("nothing"), UnknownOperation, id="operation"),
        pytest.param(lambda: emits("work"), InvalidEvent, id="required key"),
        pytest.param(lambda: emits("work", item="i", colour=1), InvalidEvent, id="undeclared"),
        pytest.param(lambda: emits("work", item=object()), InvalidEvent, id="no text"),
    ],
)
def test_mistakes_raise_in_strict_mode_before_the_body(block, kind):
    with capture_events(TAXONOMY), tenant(ACME):
        with pytest.raises(kind):
            block().__enter__()
        assert current_operation() is None


def test_no_tenant_raises_in_strict_mode_before_the_body():
    with capture_events(TAXONOMY), pytest.raises(TenantNotSet):
        emits("work", item="i").__enter__()
