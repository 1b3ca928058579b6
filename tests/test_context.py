"""Scopes: which tenant an event belongs to, and that none leaks into another's."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
import pickle
import threading
from contextvars import Context, copy_context
from enum import Enum
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenantry import PLATFORM, Pipeline, bind_tenant, current_scope, emits, log_event, reset, tenant
from tenantry.context import TENANT_TYPES, canonical_tenant, tenant_of
from tenantry.exceptions import InvalidTenant, TenantNotSet, UnsupportedCallable
from tenantry.exporters.memory import MemoryExporter
from tests.capturing import capture_events

A = "018f6f0e-0000-7000-8000-00000000000a"
B = "018f6f0e-0000-7000-8000-00000000000b"
SAAS = "tenantry.taxonomies.saas"


class Customer(str, Enum):  # noqa: UP042  # the kind whose str() is not its value
    ACME = "acme"


class OwnUUID(UUID):
    pass


class Hostile:
    def __eq__(self, other):
        raise RuntimeError("not comparable")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("not printable")

    __str__ = __repr__


@pytest.fixture
def events():
    with capture_events(SAAS, strict=False) as pipeline:
        yield pipeline


@pytest.fixture
def strict_events():
    with capture_events(SAAS) as pipeline:
        yield pipeline


def happen(name: str = "m") -> str | None:
    return log_event("quota_exceeded", quota_type=name, limit=1, attempted=2)


def tenant_now() -> object:
    scope = current_scope()
    return scope and scope.tenant


# Ids.


@settings(deadline=None)
@given(st.uuids())
def test_every_spelling_of_a_uuid_is_one_tenant(value):
    spellings = [
        value,
        OwnUUID(int=value.int),
        uuid_utils.UUID(int=value.int),
        str(value),
        str(value).upper(),
        value.hex,
        value.urn,
        f"{{{value}}}",
    ]
    if value.int:
        assert {canonical_tenant(spelling, "uuid") for spelling in spellings} == {str(value)}


@settings(deadline=None)
@given(st.integers(1, 2**63 - 1))
def test_bigint_and_its_decimal_text_are_one_tenant(value):
    assert canonical_tenant(value, "bigint") == canonical_tenant(f"{value:019d}", "bigint") == value


@settings(deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=210))
def test_text_tenant_is_itself_or_refused(value):
    if 0 < len(value) <= 200 and value.isprintable() and value != "_platform":
        assert canonical_tenant(value, "text") == value
    else:
        with pytest.raises(InvalidTenant):
            canonical_tenant(value, "text")


def test_text_tenant_from_an_enum_is_its_value():
    assert type(canonical_tenant(Customer.ACME, "text")) is str
    assert canonical_tenant(Customer.ACME, "text") == "acme"


@pytest.mark.parametrize(
    "tenant_type, value",
    [
        ("uuid", ""),
        ("uuid", "acme"),
        ("uuid", 1),
        ("uuid", None),
        ("uuid", A[:-1]),
        ("bigint", -1),
        ("bigint", 2**63),
        ("bigint", True),
        ("bigint", 1.0),
        ("bigint", " 1"),
        ("bigint", "+1"),
        ("bigint", "\u0661"),
        ("bigint", 10**5000),
        ("text", ""),
        ("text", "a" * 201),
        ("text", "a\nb"),
        ("text", "\0"),
        ("text", "\ud800"),
        ("text", 1),
        ("text", b"acme"),
    ],
    ids=lambda value: (
        f"{type(value).__name__} {str(value)[:9]!a}"
        if not isinstance(value, int) or value < 10**10
        else f"{value.bit_length()} bits"
    ),
)
def test_bad_id_is_refused(tenant_type, value):
    with pytest.raises(InvalidTenant, match="is not a tenant id: tenant ids are"):
        canonical_tenant(value, tenant_type)


@pytest.mark.parametrize("tenant_type", TENANT_TYPES)
def test_hostile_id_is_refused_and_not_a_crash(tenant_type):
    with pytest.raises(InvalidTenant, match=r"^<Hostile> \(Hostile\) is not a tenant id"):
        canonical_tenant(Hostile(), tenant_type)


@pytest.mark.parametrize(
    "tenant_type, reserved", [("uuid", str(UUID(int=0))), ("bigint", 0), ("text", "_platform")]
)
def test_platform_is_reserved_and_given_only_by_name(tenant_type, reserved):
    assert canonical_tenant(PLATFORM, tenant_type) == reserved
    with pytest.raises(InvalidTenant, match=r"is reserved for events that belong to no customer"):
        canonical_tenant(reserved, tenant_type)


def test_platform_is_one_object_everywhere():
    assert pickle.loads(pickle.dumps(PLATFORM)) is PLATFORM
    assert copy.deepcopy(PLATFORM) is PLATFORM
    assert repr(PLATFORM) == "PLATFORM"


# Events and scopes.


@pytest.mark.parametrize(
    "tenant_type, given_id, stored",
    [("uuid", A.upper(), A), ("bigint", "7", 7), ("text", "Acme & Söhne", "Acme & Söhne")],
)
def test_event_carries_the_canonical_tenant(tenant_type, given_id, stored):
    with capture_events(SAAS, tenant_type=tenant_type) as events, tenant(given_id):
        happen()
        assert events.records[0].tenant_id == stored


def test_event_carries_actor_and_correlation_made_safe(events):
    with tenant(A, actor="user:\0" + "x" * 300, correlation="r\ud800"):
        happen()
    record = events.records[0]
    assert record.actor_id == "user:\ufffd" + "x" * 194
    assert record.correlation_id == "r\ufffd"


def test_actor_that_cannot_say_its_text_gives_its_type(events):
    with tenant(A, actor=Hostile()):
        happen()
    assert events.records[0].actor_id == "<Hostile>"


@pytest.mark.parametrize("bad", ["nobody", 10**5000, Hostile()], ids=["text", "huge", "hostile"])
def test_bad_id_makes_a_scope_whose_events_are_rejected(events, bad):
    with tenant(A), tenant(bad):
        assert happen() is None
    assert events.records == []
    assert [(r.reason, r.tenant_id) for r in events.rejected] == [("invalid_tenant", None)]


def test_strict_refuses_a_bad_id_at_tenant(strict_events):
    with pytest.raises(InvalidTenant), tenant("nobody"):
        pass
    with pytest.raises(InvalidTenant):
        bind_tenant("nobody")
    assert current_scope() is None


def test_strict_event_without_tenant_raises(strict_events):
    with pytest.raises(TenantNotSet, match=r"^quota_exceeded: no tenant is set: emit within"):
        happen()


def test_rejected_events_of_one_scope_keep_no_frames_alive(events):
    with tenant("nobody"):
        happen()
        happen()
        error = current_scope().error
    assert error.__traceback__ is None


@pytest.mark.parametrize("other_spelling", [A, UUID(A), A.upper()], ids=["text", "uuid", "upper"])
def test_actor_and_correlation_are_inherited_within_a_tenant(events, other_spelling):
    with tenant(A, actor="user:1", correlation="r1"), tenant(other_spelling):
        happen()
        with tenant(A, actor="user:2"):
            happen()
    found = [(r.actor_id, r.correlation_id) for r in events.records]
    assert found == [("user:1", "r1"), ("user:2", "r1")]


def test_actor_and_correlation_never_reach_another_tenant(events):
    with tenant(A, actor="user:1", correlation="r1"), tenant(B):
        happen()
        with tenant(Hostile()):
            happen()
    assert [(r.actor_id, r.correlation_id) for r in events.records] == [(None, None)]


NESTING = st.recursive(
    st.sampled_from([A, B, "nobody", PLATFORM]),
    lambda inner: st.tuples(
        st.sampled_from([A, B, "nobody", PLATFORM]), st.lists(inner, max_size=3), st.booleans()
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(NESTING)
def test_any_nesting_of_scopes_restores_whatever_is_raised(plan):
    def walk(node):
        scope_id, inner, raises = node if isinstance(node, tuple) else (node, [], False)
        before = current_scope()
        try:
            with tenant(scope_id):
                assert tenant_now() is scope_id
                for each in inner:
                    walk(each)
                    assert tenant_now() is scope_id
                if raises:
                    raise LookupError  # noqa: TRY301  # through the scopes below
        except LookupError:
            assert raises
        assert current_scope() is before

    walk(plan)
    assert current_scope() is None


def test_block_entered_twice_at_once_is_refused():
    block = tenant(A)
    with block, pytest.raises(RuntimeError, match=r"block is already entered; write `with ten"):
        block.__enter__()
    assert current_scope() is None


def test_bind_tenant_is_undone_by_reset():
    token = bind_tenant(A, actor="user:1", correlation="r")
    assert repr(current_scope()) == f"Scope({A!r}, actor='user:1', correlation='r')"
    reset(token)
    assert current_scope() is None


# Where scopes go.


def test_asyncio_tasks_and_to_thread_inherit_the_scope():
    async def main():
        with tenant(A):
            return await asyncio.gather(
                asyncio.create_task(asyncio.sleep(0, tenant_now())), asyncio.to_thread(tenant_now)
            )

    assert asyncio.run(main()) == [A, A]


def test_new_threads_do_not_inherit_the_scope():
    seen = []
    with tenant(A):
        thread = threading.Thread(target=lambda: seen.append(tenant_now()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_concurrent_tasks_never_see_each_others_tenant(events):
    async def work(name, scope_id):
        with tenant(scope_id):
            for _ in range(5):
                happen(name)
                await asyncio.sleep(0)
                async with emits("ingest", source_type=name, url="u") as operation:
                    await asyncio.sleep(0)
                    operation.set(docs=1, chunks=1)
                assert tenant_now() == scope_id

    async def main():
        ids = [str(UUID(int=n + 1)) for n in range(20)]
        await asyncio.gather(*(work(scope_id, scope_id) for scope_id in ids))

    asyncio.run(main())
    assert len(events.records) == 20 * 5 * 3
    for record in events.records:
        assert record.tenant_id == record.data.get("quotaType", record.data.get("sourceType"))


def test_block_in_an_async_generator_closed_elsewhere_raises_nothing(events):
    ended = []

    async def pages():
        with tenant(A):
            async with emits("ingest", source_type="web", url="u"):
                try:
                    yield 1
                finally:
                    ended.append(True)

    async def main():
        generator = pages()
        await asyncio.create_task(anext(generator))
        await asyncio.create_task(generator.aclose())
        assert current_scope() is None

    asyncio.run(main())
    assert ended == [True]
    assert events.names == ["ingest_started", "ingest_failed"]


# As a decorator.


def test_decorated_function_runs_within_the_scope_each_time():
    @tenant(A, actor="user:1")
    def work(depth: int = 0) -> list:
        """Work."""
        seen = [tenant_now(), current_scope().actor]
        return seen + work(depth - 1) if depth else seen

    assert work(1) == [A, "user:1"] * 2
    assert current_scope() is None
    assert (work.__name__, work.__doc__) == ("work", "Work.")


def test_decorated_coroutine_function_runs_within_the_scope():
    @tenant(A)
    async def work():
        await asyncio.sleep(0)
        return tenant_now()

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work()) == A


class AsyncCallable:
    async def __call__(self):
        await asyncio.sleep(0)
        return tenant_now()


async def tell():
    await asyncio.sleep(0)
    return tenant_now()


@pytest.mark.parametrize(
    "function",
    [AsyncCallable(), functools.partial(tell), lambda: tell()],  # noqa: PLW0108
    ids=["callable", "partial", "plain function"],
)
def test_whatever_gives_a_coroutine_is_awaited_within_the_scope(function):
    if not hasattr(function, "__name__"):
        function.__name__ = "function"

    async def main():
        with tenant(B):
            return await tenant(A)(function)(), tenant_now()

    assert asyncio.run(main()) == (A, B)


def test_static_and_class_methods_are_decorated_in_either_order():
    class Desk:
        @tenant(A)
        @staticmethod
        def one(x):
            return x, tenant_now()

        @staticmethod
        @tenant(A)
        def two(x):
            return x, tenant_now()

        @tenant(A)
        @classmethod
        def three(cls, x):
            return cls, x, tenant_now()

        @tenant(A)
        def four(self, x):
            return type(self), x, tenant_now()

    assert Desk.one(1) == Desk().one(1) == Desk.two(1) == Desk().two(1) == (1, A)
    assert Desk.three(1) == Desk().three(1) == Desk().four(1) == (Desk, 1, A)


@pytest.mark.parametrize("function", [dict, 3])
def test_what_is_no_function_is_refused(function):
    with pytest.raises(UnsupportedCallable, match="which is no function; decorate functions and"):
        tenant(A)(function)


def test_block_that_outlives_a_later_one_does_not_come_back():
    def hold(tenant_id):
        with tenant(tenant_id):
            yield
        yield

    first, second = hold(A), hold(B)
    next(first)
    next(second)
    next(first)  # its block ends while the other one is open
    assert current_scope().tenant == B
    next(second)
    assert current_scope() is None


def test_scope_bound_within_a_block_ends_with_it():
    with tenant(A):
        bind_tenant(B)
    assert current_scope() is None


def test_pipeline_left_in_another_context_raises_nothing():
    pipeline = Pipeline(exporter=MemoryExporter())
    entered = copy_context()
    entered.run(pipeline.__enter__)
    Context().run(pipeline.__exit__, None, None, None)
    entered.copy().run(pipeline.__exit__, None, None, None)
    pipeline.shutdown()


@settings(deadline=None)
@given(
    st.text(min_size=1) | st.integers(1, 2**63 - 1), st.none() | st.text(), st.none() | st.text()
)
@example(",", None, None)
@example('"', ',"actor_id":', None)
def test_tenant_is_read_from_the_fragment_of_a_scope(tenant_id, actor, correlation):
    members = {"tenant_id": tenant_id, "actor_id": actor, "correlation_id": correlation}
    given = {key: value for key, value in members.items() if value is not None}
    fragment = json.dumps(given, separators=(",", ":"))[1:-1] + ","
    assert tenant_of(fragment) == str(tenant_id)
