"""What both type checkers must agree on of the public names; read by them, never run."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, assert_type

import tenantry
from tenantry import (
    PLATFORM,
    Event,
    FlushReport,
    Operation,
    Pipeline,
    Sampling,
    Scope,
    Stats,
    alog_event,
    emits,
    log_event,
    tenant,
)
from tenantry.exporters.memory import MemoryExporter
from tenantry.record import Record, Reject
from tenantry.testing import CapturingPipeline, FrozenClock, SequentialIds, capture_events


class InvoiceSent(Event, name="invoice_sent", version=2):
    invoice_id: str
    amount: float | None = None


# Decorated functions keep their exact types.


@emits("work", errors={ValueError: "bad"}, failed_if=bool, size=1)
def count(item: str, /, times: int = 1, *, loud: bool = False) -> int:
    return len(item) * times + loud


assert_type(count("a", 2, loud=True), int)
checked: Callable[[str, int], int] = count
count(1)  # type: ignore[arg-type]  # arguments are checked as those of the function itself


@emits("work", result="size", tenant="item")
async def fetch(item: str) -> bytes:
    return item.encode()


coroutine: Coroutine[Any, Any, bytes] = fetch("a")


async def use() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type(await Desk().asynchronous("a"), list[str])
    assert_type(await nightly(1), str)


class Desk:
    @emits("work")
    def method(self, item: str) -> list[str]:
        return [item]

    @emits("work")
    async def asynchronous(self, item: str) -> list[str]:
        return [item]

    @emits("work")
    @staticmethod
    def static_below(item: str) -> float:
        return float(item)

    @staticmethod
    @emits("work")
    def static_above(item: str) -> float:
        return float(item)

    @emits("work")
    @classmethod
    def class_below(cls, item: str) -> complex:
        return complex(item)

    @classmethod
    @emits("work")
    def class_above(cls, item: str) -> complex:
        return complex(item)

    @property
    @emits("work")
    def name(self) -> str:
        return "desk"

    @tenant("acme")
    def scoped(self, item: str) -> list[str]:
        return [item]


assert_type(Desk().method("a"), list[str])
assert_type(Desk.method(Desk(), "a"), list[str])
assert_type(Desk.static_below("1"), float)
assert_type(Desk().static_below("1"), float)
assert_type(Desk.static_above("1"), float)
assert_type(Desk.class_below("1"), complex)
assert_type(Desk().class_below("1"), complex)
assert_type(Desk.class_above("1"), complex)
assert_type(Desk().name, str)
assert_type(Desk().scoped("a"), list[str])


@tenant(PLATFORM, actor="job:1")
async def nightly(day: int) -> str:
    return str(day)


# Blocks.

with tenant("acme", correlation="r") as scope:
    assert_type(scope, Scope)

with emits("work", item="a") as operation:
    checked_operation: Operation = operation
    assert_type(operation.id, str)
    operation.set(size=1)
    operation.fail("refused")


async def use_block() -> None:
    async with emits("work") as operation:
        checked_operation: Operation = operation
        checked_operation.set(size=1)


# Facts.

assert_type(log_event(InvoiceSent(invoice_id="1")), str | None)
assert_type(log_event("invoice_sent", invoice_id="1"), str | None)
assert_type(InvoiceSent(invoice_id="1").amount, float | None)
assert_type(asyncio.run(alog_event("invoice_sent")), str | None)

# The pipeline.

assert_type(
    tenantry.configure(exporter=MemoryExporter(), sampling={"work": Sampling(0.5)}), Pipeline
)
assert_type(tenantry.flush(), FlushReport)
assert_type(tenantry.shutdown(), FlushReport)
assert_type(tenantry.stats(), Stats)
assert_type(tenantry.current_scope(), Scope | None)
assert_type(tenantry.current_operation(), Operation | None)

# Testing.

block: AbstractContextManager[CapturingPipeline] = capture_events(
    [InvoiceSent], clock=FrozenClock(), new_id=SequentialIds()
)
with block as events:
    assert_type(events, CapturingPipeline)
    assert_type(events.records, list[Record])
    assert_type(events.rejected, list[Reject])
