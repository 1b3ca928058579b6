"""What both type checkers must agree on of the public names; read by them, never run."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, assert_type

import tenantry
from tenantry import (
    PLATFORM,
    ContextExecutor,
    Event,
    FlushReport,
    Operation,
    Pipeline,
    Sampling,
    Scope,
    Stats,
    alog_event,
    bind_tenant,
    emits,
    log_event,
    propagate,
    reset,
    tenant,
)
from tenantry.exporters.memory import MemoryExporter
from tenantry.record import Record, Reject
from tenantry.testing import CapturedEvents, FrozenClock, SequentialIds, capture


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


@emits("work", on_close="cancelled")
def chunks(item: str, size: int = 1) -> Generator[str, int, float]:
    sent = yield item
    return float(size + sent)


assert_type(chunks("a"), Generator[str, int, float])
assert_type(chunks("a").send(1), str)
chunks(size="a")  # type: ignore[call-arg, arg-type]  # checked as those of the function itself
emits("work", on_close="failed")  # type: ignore[arg-type]  # 'completed' or 'cancelled'


@emits("work")
async def stream(item: str) -> AsyncGenerator[bytes, int]:
    yield item.encode()


assert_type(stream("a"), AsyncGenerator[bytes, int])


@contextmanager
@emits("work")
def opened(item: str) -> Generator[int]:
    yield len(item)


@asynccontextmanager
@emits("work")
async def opened_later(item: str) -> AsyncGenerator[int]:
    yield len(item)


@emits("work")
def begin(item: str) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(asyncio.create_task(fetch(item)))


with opened("a") as length:
    assert_type(length, int)


async def use() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type([each async for each in stream("a")], list[bytes])
    assert_type(await begin("a"), bytes)
    async with opened_later("a") as number:
        assert_type(number, int)
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


@tenant("session.tenant_id")
def each_key(session: Mapping[str, str]) -> Iterator[str]:
    yield from session


assert_type(each_key({}), Iterator[str])

# Contexts.

propagated: Callable[[int], Coroutine[Any, Any, str]] = propagate(nightly)
propagate(3)  # type: ignore[type-var]  # what cannot be called is refused
with ContextExecutor(ThreadPoolExecutor()) as pool:
    assert_type(pool.submit(len, "a"), Future[int])
    assert_type(pool.map(str, [1]), Iterator[str])
reset(bind_tenant("acme", actor="user:1"))

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

block: AbstractContextManager[CapturedEvents] = capture(
    [InvoiceSent], clock=FrozenClock(), new_id=SequentialIds()
)
with block as events:
    assert_type(events, CapturedEvents)
    assert_type(events.records, list[Record])
    assert_type(events[0], Record)
    assert_type(events[:2], list[Record])
    assert_type(events.one(InvoiceSent, invoice_id="1"), Record)
    assert_type(events.rejected, list[Reject])
