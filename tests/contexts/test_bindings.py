"""``bind_tenant`` and ``reset``, as middlewares use them; and blocks that end out of order."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context

import pytest

from tenantry import bind_tenant, current_scope, emits, reset, tenant
from tenantry.context import DEPTH_LIMIT
from tenantry.scopes import _left_early
from tests.contexts.scenes import A, B, tenant_now

C = "018f6f0e-0000-7000-8000-00000000000c"
ELSEWHERE = r"^reset\(\) of the scope of .* was called in another context \(task or thread\) than b"


@pytest.fixture(autouse=True)
def nothing_remains():
    yield
    assert current_scope() is None
    assert _left_early.get() == ()


@pytest.mark.usefixtures("events")
def test_reset_in_another_context_leaves_what_is_current_there():
    binding = copy_context().run(bind_tenant, A)
    reset(binding)
    with tenant(B):
        reset(binding)
        assert tenant_now() == B


@pytest.mark.usefixtures("events")
def test_reset_in_a_task_that_inherited_the_scope_leaves_it():
    async def end(binding):
        reset(binding)
        return tenant_now()

    async def main():
        binding = bind_tenant(A)
        inherited = await asyncio.create_task(end(binding))
        here = tenant_now()
        reset(binding)
        return inherited, here, tenant_now()

    assert asyncio.run(main()) == (A, A, None)


@pytest.mark.usefixtures("events")
def test_reset_in_another_thread_does_nothing():
    binding = bind_tenant(A)
    thread = threading.Thread(target=reset, args=(binding,))
    thread.start()
    thread.join(20)
    assert tenant_now() == A
    reset(binding)


@pytest.mark.usefixtures("strict_events")
def test_strict_reset_in_another_context_is_told():
    binding = copy_context().run(bind_tenant, A)
    with pytest.raises(ValueError, match=ELSEWHERE):
        reset(binding)


@pytest.mark.usefixtures("strict_events")
def test_second_reset_does_nothing():
    binding = bind_tenant(A)
    reset(binding)
    with tenant(B):
        reset(binding)
        assert tenant_now() == B


def test_resets_in_the_wrong_order_bring_nothing_back():
    first, second = bind_tenant(A), bind_tenant(B)
    reset(first)
    assert current_scope() is None
    reset(second)
    assert current_scope() is None


def test_bindings_nest():
    first = bind_tenant(A)
    second = bind_tenant(B)
    reset(second)
    assert tenant_now() == A
    reset(first)


def test_reset_after_the_block_around_it_brings_nothing_back():
    with tenant(A):
        binding = bind_tenant(B)
    assert current_scope() is None
    reset(binding)
    assert current_scope() is None


def test_reset_after_the_block_around_it_leaves_a_later_binding():
    with tenant(A):
        binding = bind_tenant(B)
    later = bind_tenant(C)
    reset(binding)
    assert tenant_now() == C
    reset(later)


def test_block_that_is_open_outlives_the_binding_around_it():
    binding = bind_tenant(A)
    with tenant(B):
        reset(binding)
        assert tenant_now() == B
    assert current_scope() is None


def test_binding_between_two_blocks_ends_with_the_outer_one():
    outer, inner = tenant(A), tenant(C)
    outer.__enter__()
    bind_tenant(B)
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert tenant_now() == C
    inner.__exit__(None, None, None)
    assert current_scope() is None


def hold(tenant_id):
    with tenant(tenant_id):
        yield
    yield


def test_any_order_in_which_three_blocks_end_leaves_the_open_ones():
    for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        ids = [A, B, C]
        held = [hold(tenant_id) for tenant_id in ids]
        for each in held:
            next(each)
        is_open = {0, 1, 2}
        for index in order:
            next(held[index])
            is_open.remove(index)
            assert tenant_now() == (ids[max(is_open)] if is_open else None)


def test_blocks_that_end_elsewhere_leave_no_trace_in_a_long_lived_context():
    async def pages():
        with tenant(A):
            yield 1

    async def main():
        with tenant(B):
            for _ in range(3):
                generator = pages()
                await asyncio.create_task(anext(generator))
                await generator.aclose()
                assert tenant_now() == B
            assert _left_early.get() == ()

    asyncio.run(main())


def test_block_that_a_task_took_along_ends_there():
    async def work():
        with tenant(A):
            yield tenant_now()
        yield tenant_now()

    async def main():
        generator = work()
        before = await anext(generator)
        return before, await asyncio.create_task(anext(generator))

    async def elsewhere():
        assert await asyncio.create_task(main()) == (A, None)

    asyncio.run(elsewhere())


def test_bindings_that_are_never_reset_are_forgotten():
    def work():
        for _ in range(10 * DEPTH_LIMIT):
            bind_tenant(A)
        return count_around()

    assert copy_context().run(work) <= DEPTH_LIMIT


def test_scopes_of_tasks_that_each_start_the_next_are_forgotten():
    def work(context):
        with tenant(A):
            return copy_context()

    context = copy_context()
    for _ in range(3 * DEPTH_LIMIT):
        context = context.run(work, context)
    assert context.run(count_around) <= DEPTH_LIMIT


def count_around() -> int:
    count, scope = 0, current_scope()
    while scope is not None:
        count, scope = count + 1, scope.outer
    return count


def hold_operation(tenant_id):
    with emits("ingest", tenant=tenant_id, source_type="web", url="u", docs=1, chunks=1):
        yield
    yield


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    "first, second",
    [(hold, hold_operation), (hold_operation, hold), (hold_operation, hold_operation)],
    ids=["operation in block", "block in operation", "operation in operation"],
)
def test_tenant_of_an_operation_ends_in_any_order(first, second):
    outer, inner = first(A), second(B)
    next(outer)
    next(inner)
    next(outer)
    assert tenant_now() == B
    next(inner)
    assert current_scope() is None
