"""``tenant(…)`` as a decorator: where the id comes from, and which bodies run in the scope."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from types import SimpleNamespace

import pytest

from tenantry import PLATFORM, current_scope, emits, tenant
from tenantry.exceptions import InvalidTenant
from tests.capturing import capture_events
from tests.contexts.scenes import SAAS, A, B, happen, tenant_now

request_of_a = SimpleNamespace(state={"tenant_id": A}, headers=SimpleNamespace(tenant=A))


# Where the id comes from.


@tenant("tenant_id", actor="user:1", correlation="r")
def by_name(tenant_id, x=0):
    return tenant_now()


@tenant("tenant_id")
def by_default(*, tenant_id=A):
    return tenant_now()


@tenant("request.state.tenant_id")
def by_path(request):
    return tenant_now()


@tenant("request.headers.tenant")
def by_attributes(request):
    return tenant_now()


@tenant(lambda x, *, y: y)
def by_callable(x, *, y):
    return tenant_now()


class Desk:
    tenant_id = A

    @tenant("self.tenant_id")
    def method(self):
        return tenant_now()

    @tenant("cls.tenant_id")
    @classmethod
    def class_method(cls):
        return tenant_now()

    @classmethod
    @tenant("cls.tenant_id")
    def class_method_above(cls):
        return tenant_now()

    @tenant("tenant_id")
    @staticmethod
    def static(tenant_id):
        return tenant_now()


@pytest.mark.parametrize(
    "call",
    [
        lambda: by_name(A),
        lambda: by_name(tenant_id=A, x=1),
        lambda: by_default(),  # noqa: PLW0108
        lambda: by_path(request_of_a),
        lambda: by_path(request=request_of_a),
        lambda: by_attributes(request_of_a),
        lambda: by_callable(B, y=A),
        lambda: Desk().method(),
        lambda: Desk.class_method(),  # noqa: PLW0108
        lambda: Desk.class_method_above(),  # noqa: PLW0108
        lambda: Desk.static(A),
        tenant(A)(tenant_now),
    ],
    ids=[
        "positional",
        "keyword",
        "default",
        "path of keys",
        "path as keyword",
        "path of attributes",
        "callable",
        "attribute of self",
        "attribute of cls",
        "below classmethod",
        "static method",
        "fixed",
    ],
)
def test_tenant_is_taken_from_the_call(call):
    with tenant(B):
        assert call() == A
        assert tenant_now() == B
    assert current_scope() is None


def test_platform_may_come_from_the_call():
    assert by_name(PLATFORM) is PLATFORM


def test_text_that_names_no_parameter_is_an_id():
    @tenant("acme")
    def work(customer):
        return tenant_now()

    @tenant("customer.eu")
    def work_by_path(customer):
        return tenant_now()

    @tenant("acme.eu")
    def work_of_a_dotted_id(customer):
        return tenant_now()

    with capture_events(SAAS, tenant_type="text", strict=False):
        assert work("globex") == "acme"
        assert work_by_path({"eu": "globex"}) == "globex"
        assert work_of_a_dotted_id("globex") == "acme.eu"


BROKEN = [
    (by_path, (3,), "<tenant('request.state.tenant_id') raised AttributeError>"),
    (by_path, (SimpleNamespace(state={}),), "<tenant('request.state.tenant_id') raised KeyError>"),
    (by_name, (None,), "<tenant('tenant_id') gave None>"),
]


@pytest.mark.parametrize(
    "function, arguments, shown", BROKEN, ids=["no attribute", "no key", "None"]
)
def test_argument_without_an_id_gives_a_bad_scope_and_never_that_around(
    events, function, arguments, shown
):
    with tenant(A):
        assert repr(function(*arguments)) == shown
        assert tenant("x")(lambda x: happen())(None) is None
    assert [(r.reason, r.tenant_id) for r in events.rejected] == [("invalid_tenant", None)]
    assert events.rejected[0].detail.startswith("<tenant('x') gave None> (UnknownTenant) is not a")


@pytest.mark.parametrize(
    "function, arguments, shown", BROKEN, ids=["no attribute", "no key", "None"]
)
def test_strict_raises_where_an_argument_has_no_id(strict_events, function, arguments, shown):
    with pytest.raises(InvalidTenant) as caught:
        function(*arguments)
    assert str(caught.value).startswith(f"{shown} (UnknownTenant) is not a tenant id: ")


def test_callable_that_raises_gives_a_bad_scope(events):
    @tenant(lambda: 1 / 0)
    def work():
        return happen()

    assert work() is None
    assert events.rejected[0].detail.startswith("<tenant(…) raised ZeroDivisionError> (Unk")


def test_wrong_arguments_are_the_functions_to_refuse(events):
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        by_name()


def test_coroutine_function_and_emits_take_the_same_path(events):
    @tenant("request.state.tenant_id")
    @emits("ingest", tenant="request.state.tenant_id", source_type="web", url="u")
    async def work(request):
        await asyncio.sleep(0)
        return {"docs": 1, "chunks": 1, "seen": tenant_now()}

    assert asyncio.run(work(request_of_a))["seen"] == A
    assert {r.tenant_id for r in events.records} == {A}


# Generators.


def test_generator_runs_in_the_scope_and_its_consumer_does_not():
    heard = []

    @tenant("tenant_id")
    def talk(tenant_id):
        """Talk."""
        try:
            heard.append((yield tenant_now()))
            with tenant(B):
                yield tenant_now()
            yield tenant_now()
        except LookupError:
            heard.append(tenant_now())
        finally:
            heard.append("end")
        return "result"

    assert inspect.isgeneratorfunction(talk)
    assert (talk.__name__, talk.__doc__) == ("talk", "Talk.")
    generator = talk(A)
    assert isinstance(generator, types.GeneratorType)
    with tenant(PLATFORM):
        assert next(generator) == A
        assert tenant_now() is PLATFORM
        assert generator.send("hello") == B
        assert tenant_now() is PLATFORM
    assert next(generator) == A
    with pytest.raises(StopIteration, match="result"):
        generator.throw(LookupError())
    assert heard == ["hello", A, "end"]
    assert current_scope() is None


def test_generator_that_is_closed_ends_in_its_scope():
    seen = []

    @tenant(A)
    def body():
        try:
            yield
        finally:
            seen.append(tenant_now())

    for generator in (body(), body()):
        next(generator)
        generator.close()
    assert seen == [A, A]


def test_asynchronous_generator_runs_in_the_scope_wherever_it_is_asked():
    heard = []

    @tenant("tenant_id")
    async def talk(tenant_id):
        try:
            heard.append((yield tenant_now()))
            await asyncio.sleep(0)
            yield tenant_now()
        finally:
            heard.append(tenant_now())

    async def ask(generator, value):
        return await generator.asend(value), tenant_now()

    async def main():
        generator = talk(A)
        with tenant(B):
            assert await asyncio.create_task(ask(generator, None)) == (A, B)
            assert await asyncio.create_task(ask(generator, "hello")) == (A, B)
            await generator.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(generator)

    assert inspect.isasyncgenfunction(talk)
    asyncio.run(main())
    assert heard == ["hello", A]


def test_asynchronous_generators_left_open_are_closed_by_the_loop():
    ended, problems = [], []

    @tenant(A)
    async def body():
        try:
            yield
        finally:
            await asyncio.sleep(0)
            ended.append(tenant_now())

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context)
        )
        for _ in range(3):
            kept.append(body())
            await anext(kept[-1])

    kept = []
    asyncio.run(main())
    assert (ended, problems) == ([A, A, A], [])


def test_exception_thrown_into_an_asynchronous_generator_reaches_its_body():
    @tenant(A)
    async def body():
        try:
            yield 1
        except LookupError:
            yield tenant_now()

    async def main():
        generator = body()
        await anext(generator)
        return await generator.athrow(LookupError())

    assert asyncio.run(main()) == A


def sync_body():
    yield tenant_now()


async def async_body():
    yield tenant_now()


def test_generator_of_a_plain_function_runs_in_the_scope():
    async def main():
        return [item async for item in tenant(A)(lambda: async_body())()]  # noqa: PLW0108

    assert list(tenant(A)(lambda: sync_body())()) == [A]  # noqa: PLW0108
    assert list(tenant(A)(functools.partial(sync_body))()) == [A]
    assert asyncio.run(main()) == [A]


def test_generators_of_two_tenants_do_not_meet():
    @tenant("tenant_id")
    def body(tenant_id):
        for _ in range(3):
            yield tenant_now()

    assert list(zip(body(A), body(B), strict=True)) == [(A, B)] * 3
