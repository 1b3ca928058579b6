"""A forked process starts without a tenant: a stale one is impossible, a missing one is loud."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import threading

import pytest

from tenantry import (
    PLATFORM,
    bind_tenant,
    context,
    current_operation,
    current_scope,
    emits,
    inject,
    log_event,
    propagate,
    reset,
    tenant,
)
from tenantry.exceptions import TenantNotSet
from tests.contexts.scenes import A, B, happen, in_child, tenant_now

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FORKED = "no tenant is set: the process was forked inside a tenant scope, which stays with the"


def refused(events) -> list[tuple[str, object]]:
    return [(reject.reason, reject.tenant_id) for reject in events.rejected]


def assert_nothing_is_usable(events) -> None:
    assert current_scope() is None
    assert current_operation() is None
    before = len(events.rejected)
    assert happen() is None
    assert "quota_exceeded" not in events.names
    assert refused(events)[before:] == [("tenant_not_set", None)]
    assert events.rejected[-1].detail.startswith(FORKED)
    assert events.rejected[-1].parent_operation_id is None


def test_fork_counts_its_generation():
    before = context.fork_generation

    def check() -> None:
        assert context.fork_generation == before + 1

    assert in_child(check) == 0
    assert context.fork_generation == before


def test_child_has_neither_tenant_nor_operation_and_says_why(events):
    with tenant(A), emits("ingest", source_type="web", url="u", docs=1, chunks=1):
        assert in_child(lambda: assert_nothing_is_usable(events)) == 0
        assert tenant_now() == A
    assert events.names == ["ingest_started", "ingest_completed"]


def test_scope_that_emitted_before_the_fork_does_not_emit_after_it(events):
    def check() -> None:
        happen()
        assert len(events.records) == 0
        assert refused(events) == [("tenant_not_set", None)]

    with tenant(A):
        happen()
        assert in_child(check) == 0
    assert len(events.records) == 1


def test_strict_child_raises(strict_events):
    def check() -> None:
        with pytest.raises(TenantNotSet, match=f"^quota_exceeded: {FORKED}"):
            happen()
        with pytest.raises(TenantNotSet, match=f"^ingest: {FORKED}"):
            emits("ingest", source_type="web", url="u").__enter__()

    with tenant(A):
        assert in_child(check) == 0


def test_child_of_no_scope_says_only_that_none_is_set(events):
    def check() -> None:
        happen()
        assert events.rejected[0].detail.startswith("no tenant is set: emit within")

    assert in_child(check) == 0


def test_actor_given_in_the_child_makes_no_usable_scope_of_a_stale_one(events):
    def check() -> None:
        log_event("quota_exceeded", quota_type="q", limit=1, attempted=2, actor="user:1")
        assert refused(events) == [("tenant_not_set", None)]

    with tenant(A, actor="user:0"):
        assert in_child(check) == 0


def test_leaving_blocks_of_before_the_fork_brings_nothing_back(events):
    outer, inner = tenant(A), tenant(B)
    binding = bind_tenant(PLATFORM)
    outer.__enter__()
    inner.__enter__()

    def check() -> None:
        for leave in (inner.__exit__, outer.__exit__):
            leave(None, None, None)
            assert_nothing_is_usable(events)
        reset(binding)
        assert current_scope() is None

    assert in_child(check) == 0
    inner.__exit__(None, None, None)
    assert tenant_now() == A
    outer.__exit__(None, None, None)
    reset(binding)


def test_copied_context_of_before_the_fork_is_not_usable(events):
    with tenant(A), emits("ingest", source_type="web", url="u"):
        copied = contextvars.copy_context()
    assert in_child(lambda: copied.run(assert_nothing_is_usable, events)) == 0


def test_generator_of_before_the_fork_is_not_usable(events):
    @tenant(A)
    def body():
        yield tenant_now()
        yield tenant_now(), happen()

    generator = body()
    assert next(generator) == A

    def check() -> None:
        assert next(generator) == (None, None)
        assert refused(events) == [("tenant_not_set", None)]

    assert in_child(check) == 0


def test_task_of_before_the_fork_is_not_usable(events):
    async def work() -> int:
        with tenant(A):
            await asyncio.sleep(0)
            return in_child(lambda: assert_nothing_is_usable(events))

    async def main() -> int:
        return await asyncio.create_task(work())

    assert asyncio.run(main()) == 0


def test_fork_in_another_thread_leaves_nothing_usable(events):
    statuses = []

    def work() -> None:
        with events, tenant(A):
            statuses.append(in_child(lambda: assert_nothing_is_usable(events)))

    with tenant(B):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert statuses == [0]


def test_new_block_in_the_child_works_also_inside_a_stale_one(events):
    def check() -> None:
        with tenant(A) as scope:
            assert (scope.actor, scope.correlation) == (None, None)
            assert happen() is not None
            with emits("ingest", source_type="web", url="u") as operation:
                assert current_operation() is operation
                operation.set(docs=1, chunks=1)
        assert current_scope() is None
        binding = bind_tenant(B)
        happen()
        reset(binding)
        assert current_scope() is None
        found = [(r.name, r.tenant_id, r.parent_operation_id) for r in events.records]
        assert found == [
            ("quota_exceeded", A, None),
            ("ingest_started", A, None),
            ("ingest_completed", A, None),
            ("quota_exceeded", B, None),
        ]

    with tenant(A, actor="user:1", correlation="r"), emits("ingest", source_type="web", url="u"):
        assert in_child(check) == 0


def test_fixed_tenants_go_on_in_the_child(events):
    @emits("ingest", tenant=PLATFORM)
    def platform(source_type, url):
        return {"docs": 1, "chunks": 1}

    @tenant(B)
    def of_b():
        return happen()

    def check() -> None:
        platform("web", "u")
        of_b()
        with tenant(PLATFORM):
            happen()
        assert [r.tenant_id[-1] for r in events.records] == ["0", "0", "b", "0"]

    with tenant(A):
        assert in_child(check) == 0


def test_child_passes_no_stale_tenant_on(events):
    def check() -> None:
        carrier = {}
        inject(carrier)
        assert carrier == {}

    with tenant(A):
        assert in_child(check) == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_propagated_function_takes_the_scope_to_a_process_of_any_start_method(method):
    processes = multiprocessing.get_context(method)
    queue = processes.SimpleQueue()
    with tenant(A, actor="user:1", correlation="r"):
        process = processes.Process(target=propagate(tell), args=(queue,))
        process.start()
        plain = processes.Process(target=tell, args=(queue,))
        told = queue.get()
        plain.start()
        plain_told = queue.get()
    process.join(20)
    plain.join(20)
    assert told == (A, "user:1", "r")
    assert plain_told is None


def tell(queue) -> None:
    scope = current_scope()
    queue.put(scope and (scope.tenant, scope.actor, scope.correlation))


def test_stale_scope_is_not_handed_over(events):
    def check() -> None:
        assert propagate(tenant_now)() is None
        assert in_child(lambda: assert_none(propagate(tenant_now))) == 0
        with tenant(B):
            carried = propagate(tenant_now)
        assert carried() == B
        assert in_child(lambda: assert_tenant(carried, B)) == 0

    with tenant(A):
        assert in_child(check) == 0


def assert_none(function) -> None:
    assert function() is None


def assert_tenant(function, expected) -> None:
    assert function() == expected
