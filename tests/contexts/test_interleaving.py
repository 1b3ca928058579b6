"""A hundred tenants, ten thousand pieces of work of every kind at once: no event goes astray."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from tenantry import (
    ContextExecutor,
    bind_tenant,
    current_scope,
    emits,
    instrument_threads,
    log_event,
    propagate,
    reset,
    tenant,
    uninstrument_threads,
)
from tests.capturing import capture_events

TENANTS = [str(UUID(int=n + 1)) for n in range(100)]
WORK = 10_000


def happen(expected: str) -> None:
    log_event("x_done", expected=expected)


async def in_task(expected: str) -> None:
    await asyncio.sleep(0)
    happen(expected)


async def in_child_task(expected: str) -> None:
    task = asyncio.create_task(in_task(expected))
    await asyncio.sleep(0)
    await task


async def in_to_thread(expected: str) -> None:
    await asyncio.to_thread(happen, expected)


async def in_context_executor(expected: str, executor: ContextExecutor) -> None:
    await asyncio.get_running_loop().run_in_executor(executor, happen, expected)


async def in_pool(expected: str, pool: ThreadPoolExecutor) -> None:
    await asyncio.get_running_loop().run_in_executor(pool, propagate(happen), expected)


async def in_thread(expected: str) -> None:
    thread = threading.Thread(target=propagate(happen), args=(expected,))
    thread.start()
    await asyncio.sleep(0)
    thread.join()


async def in_instrumented_thread(expected: str) -> None:
    thread = threading.Thread(target=happen, args=(expected,))
    thread.start()
    await asyncio.sleep(0)
    thread.join()


async def in_generator(expected: str) -> None:
    @tenant("expected")
    def body(expected: str):
        yield
        happen(expected)

    for _ in body(expected):
        await asyncio.sleep(0)


async def in_operation(expected: str) -> None:
    @emits("x_work")
    async def body(expected: str):
        yield
        await asyncio.sleep(0)
        happen(expected)

    async for _ in body(expected):
        await asyncio.sleep(0)


async def in_binding(expected: str) -> None:
    binding = bind_tenant(expected)
    await asyncio.sleep(0)
    happen(expected)
    reset(binding)


@pytest.mark.timeout(120)
def test_every_event_is_in_its_own_tenant():
    pool = ThreadPoolExecutor(8)
    executor = ContextExecutor(ThreadPoolExecutor(8))
    kinds = [
        in_task,
        in_child_task,
        in_to_thread,
        functools.partial(in_context_executor, executor=executor),
        functools.partial(in_pool, pool=pool),
        in_thread,
        in_instrumented_thread,
        in_generator,
        in_operation,
        in_binding,
    ]
    chance = random.Random(5)
    plan = [(kinds[n % len(kinds)], TENANTS[chance.randrange(100)]) for n in range(WORK)]
    chance.shuffle(plan)

    async def work(kind, tenant_id: str) -> None:
        with tenant(tenant_id):
            await kind(tenant_id)
            assert current_scope().tenant == tenant_id

    async def main() -> None:
        for start in range(0, WORK, 1000):  # a thousand at once
            async with asyncio.TaskGroup() as group:
                for kind, tenant_id in plan[start : start + 1000]:
                    group.create_task(work(kind, tenant_id))
        assert current_scope() is None

    instrument_threads()
    try:
        with capture_events(open_taxonomy=["x_*"]) as events, executor, pool:
            asyncio.run(main())
            records = events.records
    finally:
        uninstrument_threads()
    done = [record for record in records if record.name == "x_done"]
    assert len(done) == WORK
    assert [r for r in done if r.tenant_id != r.data["expected"]] == []
    assert Counter(r.tenant_id for r in done) == Counter(tenant_id for _, tenant_id in plan)
    operations = {r.operation_id: r.tenant_id for r in records if r.phase == "started"}
    assert len(operations) == WORK // len(kinds)
    inside = [r for r in done if r.parent_operation_id is not None]
    assert len(inside) == len(operations)
    assert [r for r in inside if operations[r.parent_operation_id] != r.tenant_id] == []
    assert events.rejected == []
