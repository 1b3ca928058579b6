"""The pytest plug-in, in test runs of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

ACME = "018f6f0e-0000-7000-8000-00000000000a"

SHOP = f"""
import tenantry
from tenantry import Event, emits, log_event, tenant

class OrderPlaced(Event):
    order: int
    amount: float | None = None

class PackStarted(Event):
    order: int

class PackCompleted(Event):
    order: int
    boxes: int

ACME = "{ACME}"
EVENTS = [OrderPlaced, PackStarted, PackCompleted]

def place(order, **data):
    with tenant(ACME, actor="user:1"):
        return log_event("order_placed", order=order, **data)

@tenant(ACME)
@emits("pack")
def pack(order, boxes=None):
    return {{}} if boxes is None else {{"boxes": boxes}}
"""

CONFIGURED = """
# Nobody listens there; and again it may be called with other settings, as an application factory.
def start(service="shop"):
    tenantry.configure(
        dsn="postgresql://nobody@127.0.0.1:1/nowhere", service=service, taxonomy=__name__,
        sampling={"order_placed": tenantry.Sampling(1e-18)}, journal=None,
    )
"""

OPTIONS = """
import pytest, shop

@pytest.fixture
def tenantry_options():
    return {"taxonomy": shop.EVENTS}
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """A project of its own, in which this plug-in is the only one that is not pytest's."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for name in ("TENANTRY_DSN", "TENANTRY_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    return pytester


def run(suite, *options):
    """Run it in a process of its own: the application's configure() is for a whole process."""
    return suite.runpytest_subprocess("-p", "pytest_tenantry", *options, timeout=50)


def test_run_that_does_not_use_it_does_not_import_tenantry(suite):
    suite.makepyfile(
        "import sys\ndef test_nothing():\n"
        "    assert 'pytest_tenantry' in sys.modules and 'tenantry' not in sys.modules"
    )
    run(suite, "-W", "error").assert_outcomes(passed=1)


def test_events_of_each_test_are_captured(suite):
    suite.makepyfile(shop=SHOP)
    suite.makeconftest(OPTIONS)
    suite.makepyfile("""
        import shop, pytest
        from uuid import UUID
        from tenantry.exceptions import InvalidEvent, TenantNotSet

        def test_one(captured_events):
            id = shop.place(1, amount=2.5)
            shop.place(2)
            first = captured_events.one("order_placed", order=1, amount=2.5)
            assert (first.id, first.actor_id) == (id, "user:1")
            assert captured_events.names == ["order_placed", "order_placed"]

        def test_next_one_begins_anew(captured_events):
            assert not captured_events
            shop.pack(7, boxes=2)
            assert shop.PackCompleted in captured_events
            assert [r.phase for r in captured_events.filter(order=7, tenant=UUID(shop.ACME))] == [
                "started", "completed"]

        def test_mistakes_raise(captured_events):
            with pytest.raises(InvalidEvent):
                shop.place("nine")
            with pytest.raises(TenantNotSet):
                shop.log_event("order_placed", order=1)

        @pytest.mark.tenantry(strict=False)
        def test_mistakes_are_refused_if_asked_for(captured_events):
            shop.place("nine")
            assert [reject.reason for reject in captured_events.rejected] == ["invalid"]

        def test_time_and_ids(captured_events, tenantry_clock, tenantry_ids):
            with shop.emits("pack", tenant=shop.ACME, order=1) as operation:
                tenantry_clock.tick(1.5)
                operation.set(boxes=1)
            started, completed = captured_events
            assert completed.duration_ms == 1500
            assert started.created_at.isoformat() == "2026-01-01T00:00:00+00:00"
            assert started.operation_id == "00000000-0000-7000-8000-000000000001"
    """)
    run(suite, "-W", "error").assert_outcomes(passed=5)


def test_failures_show_what_was_emitted_instead(suite):
    suite.makepyfile(shop=SHOP)
    suite.makeconftest(OPTIONS)
    suite.makepyfile("""
        import shop

        def test_one(captured_events):
            shop.place(1)
            shop.place(2, amount=9)
            captured_events.one("order_placed", order=2, amount=8)

        def test_in(captured_events):
            shop.place(1)
            assert "pack_started" in captured_events

        def test_refused_end(captured_events):
            shop.pack(3)  # the end of an operation never raises, and boxes is missing
    """)
    result = run(suite)
    result.assert_outcomes(failed=2, passed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "E *AssertionError: no event order_placed with order=2, amount=8 was emitted",
            "E *nearest: 2 order_placed *order=2, amount=9.0",
            "E *amount: expected 8, got 9.0",
            "E *'pack_started' in captured events",
            "E *1 order_placed * order=1",
            "E *AssertionError: events were refused: 1. In production they would be kept in *",
            "E *pack_completed: invalid: *boxes*",
        ]
    )
    assert "raise AssertionError" not in result.stdout.str()  # it points to the line of the test


@pytest.mark.parametrize("options", [(), ("-p", "xdist.plugin", "-n", "2")], ids=["one", "two"])
def test_every_test_is_captured_whatever_the_application_configures(suite, options):
    suite.makeini("[pytest]\ntenantry_autouse = true")
    suite.makepyfile(shop=SHOP + CONFIGURED + "start()\nkept = tenantry.configure.__globals__\n")
    suite.makeconftest("import shop\nfrom tenantry import pipeline\nkept = pipeline.configured\n")
    suite.makepyfile(
        test_captured="""
        import asyncio, threading, unittest, pytest, tenantry, shop, conftest
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(1)
        pool.submit(print).result()  # its thread is there before any test

        def test_import_did_not_configure():
            assert type(conftest.kept).__name__ == "_TestPipeline"

        @pytest.mark.parametrize("n", range(4))
        def test_without_asking(n):
            shop.place(n)
            assert tenantry.stats().accepted == 1

        def test_threads(captured_events):
            pool.submit(shop.place, 1).result()
            thread = threading.Thread(target=shop.place, args=[2])
            thread.start()
            thread.join()
            asyncio.run(asyncio.to_thread(shop.place, 3))
            assert [event.data["order"] for event in captured_events] == [1, 2, 3]
            assert captured_events[0].service == "shop"

        def test_pipeline_that_was_kept(captured_events):
            with conftest.kept:
                shop.place(1)
            captured_events.one("order_placed")

        def test_application_that_begins_and_ends_in_the_test(captured_events):
            for service in ("shop", "shop", "desk"):
                shop.start(service)
                shop.place(1)
                assert tenantry.shutdown()
            assert [event.service for event in captured_events] == ["shop", "shop", "desk"]

        def test_settings_of_the_test_before_are_gone(captured_events):
            shop.place(1)
            assert captured_events.one("order_placed").service == "shop"

        class TestCase(unittest.TestCase):
            def test_unittest(self):
                shop.place(1)
                assert tenantry.stats().accepted == 1
    """
    )
    run(suite, *options).assert_outcomes(passed=10)


def test_fixture_wins_over_what_was_configured_for_real(suite):
    suite.makepyfile(shop=SHOP + CONFIGURED + "start()\n")
    suite.makepyfile("""
        import shop, tenantry
        from tenantry import pipeline
        real = pipeline.configured

        def test_captured(captured_events):
            with real:
                shop.place(1)
            shop.pack(1, boxes=1)
            assert captured_events.names == ["order_placed", "pack_started", "pack_completed"]
            assert real.stats().emitted == 0

        def test_others_are_not():
            assert pipeline.current_pipeline() is real and not real.is_shut_down
            real.shutdown(0)
    """)
    run(suite).assert_outcomes(passed=2)


def test_asynchronous_tests_of_both_event_loops(suite):
    suite.makepyfile(shop=SHOP)
    suite.makeconftest(OPTIONS)
    suite.makepyfile("""
        import anyio, pytest, shop
        from tenantry import alog_event, tenant

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module")
        async def loop_is_there_before_the_test(anyio_backend):
            yield

        @pytest.mark.anyio
        @pytest.mark.usefixtures("loop_is_there_before_the_test")
        async def test_tasks(captured_events):
            async def task(n):
                with tenant(shop.ACME):
                    await alog_event("order_placed", order=n)

            async with anyio.create_task_group() as group:
                group.start_soon(task, 1)
                group.start_soon(task, 2)
            await anyio.to_thread.run_sync(shop.place, 3)
            assert sorted(event.data["order"] for event in captured_events) == [1, 2, 3]
    """)
    run(suite, "-p", "anyio.pytest_plugin").assert_outcomes(passed=2)


def test_plugin_may_be_named_in_a_conftest_as_well(suite):
    suite.makeini("[pytest]\ntenantry_autouse = true")
    suite.makepyfile(shop=SHOP)
    suite.makeconftest("pytest_plugins = ['pytest_tenantry']" + OPTIONS)
    suite.makepyfile(
        "import shop, tenantry\ndef test_captured():\n"
        "    shop.place(1)\n    assert tenantry.stats().accepted == 1"
    )
    suite.runpytest_subprocess(timeout=50).assert_outcomes(passed=1)
    run(suite, "--strict-markers").assert_outcomes(passed=1)
