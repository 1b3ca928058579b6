"""Budgets: what is above them is sampled by itself, and counts right all the same."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import (
    Budget,
    Pipeline,
    Sampling,
    configure,
    context,
    emits,
    log_event,
    pipeline,
    tenant,
)
from tenantry.budgets import MAX_KINDS, Budgets, Meter, fair_level
from tenantry.exceptions import AlreadyConfigured, ConfigurationError
from tenantry.exporters.memory import MemoryExporter
from tenantry.testing import FrozenClock
from tests.capturing import CapturingPipeline, capture_events
from tests.delivery.deliveries import wait_until
from tests.fix_postgres import Database

ACME = "018f6f0e-0000-7000-8000-000000000001"
OTHER = "018f6f0e-0000-7000-8000-000000000002"
SAAS = "tenantry.taxonomies.saas"
OPEN = ["tick", "tock_*", "n*"]


def bound(offered: list[float]) -> float:
    """Say how far an estimate may be off where so many events were offered, each at its rate.

    Bernstein's inequality, for a chance of one in a thousand million to be further off.
    """
    nines = math.log(2e9)
    variance = sum((1 - rate) / rate for rate in offered)
    return math.sqrt(2 * variance * nines) + 2 / 3 * nines / min(offered)


def send(tenant_id: str, times: int, name: str = "tick", **data: object) -> list[str]:
    with tenant(tenant_id):
        return [log_event(name, **data) for _ in range(times)]


def ingest(tenant_id: str, times: int, *, fails: bool = False) -> None:
    with tenant(tenant_id):
        for _ in range(times):
            with emits("ingest", source_type="web", url="u", docs=1, chunks=1) as operation:
                if fails:
                    operation.fail("refused")


def rates(events: CapturingPipeline, name: str, tenant_id: str = ACME) -> Counter[float]:
    return Counter(
        record.sample_rate
        for record in events.records
        if record.name == name and str(record.tenant_id) == tenant_id
    )


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


def capture(clock: FrozenClock, *budgets: Budget, **options):
    return capture_events(
        options.pop("taxonomy", None), budgets=budgets, clock=clock, open_taxonomy=OPEN, **options
    )


# What may be asked for.


@pytest.mark.parametrize("per_second", [0, -1, math.nan, math.inf, "much", None])
def test_impossible_budget_is_refused(per_second):
    with pytest.raises(ConfigurationError, match="events a second is not possible: give a number"):
        Budget(per_second)


def test_budget_per_something_else_is_refused():
    with pytest.raises(ConfigurationError, match="per 'day' is unknown; it is per \"tenant\" or"):
        Budget(1, per="day")


@pytest.mark.parametrize(
    "budgets",
    [
        pytest.param([Budget(1), Budget(2)], id="two of a kind"),
        pytest.param([Sampling(0.5)], id="no budget"),
        pytest.param(Budget(1), id="no list"),
    ],
)
@pytest.mark.parametrize("make", [Pipeline, configure])
def test_impossible_list_of_budgets_is_refused(make, budgets):
    with pytest.raises(ConfigurationError, match="is not possible; give a list of Budget, at most"):
        make(exporter=MemoryExporter(), budgets=budgets)


def test_without_budgets_nothing_is_counted(clock):
    with capture(clock) as events:
        send(ACME, 10)
        assert events.budgets is None


# Rates.


def test_rate_of_an_interval_follows_from_the_one_before(clock):
    with capture(clock, Budget(10)) as events:
        assert None not in send(ACME, 1000)
        clock.tick(10)
        ids = send(ACME, 500)
        clock.tick(20)
        send(ACME, 80)
        clock.tick(10)
        assert None not in send(ACME, 50)
        kept = rates(events, "tick")
        stats = events.stats()
    assert kept.keys() == {1.0, 0.1, 0.4}
    assert kept[1.0] == 1050
    assert None in ids
    assert kept[0.1] == len(ids) - ids.count(None)
    assert stats.emitted == stats.accepted + stats.sampled_out == 1630
    weights = sum(n / rate for rate, n in kept.items())
    assert abs(weights - 1630) < bound([0.1] * 500 + [0.4] * 80)


def test_tenant_within_its_budget_loses_nothing(clock):
    with capture(clock, Budget(10)) as events:
        for _ in range(3):
            send(ACME, 1000)
            assert None not in send(OTHER, 100)
            clock.tick(10)
        assert rates(events, "tick", OTHER) == {1.0: 300}


def test_actor_and_spelling_of_a_tenant_change_nothing(clock):
    with capture(clock, Budget(10)) as events:
        with tenant(ACME, actor="user:1"):
            send(ACME, 250)
        send(ACME.upper(), 250)
        with tenant(ACME, actor="user:2", correlation="c"):
            for _ in range(500):
                log_event("tick")
        clock.tick(10)
        send("{" + ACME + "}", 100)
        assert rates(events, "tick").keys() == {1.0, 0.1}


def test_budget_of_a_name_is_for_all_tenants_together(clock):
    with capture(clock, Budget(10, per="name")) as events:
        for _ in range(2):
            send(ACME, 300)
            send(OTHER, 100)
            assert None not in send(ACME, 100, "tock_1")
            clock.tick(10)
        assert rates(events, "tick").keys() == rates(events, "tick", OTHER).keys() == {1.0, 0.25}


def test_budget_of_a_name_is_left_to_others_where_a_tenants_own_is_exceeded(clock):
    with capture(clock, Budget(10), Budget(20, per="name")) as events:
        for _ in range(2):
            send(ACME, 1000)
            assert None not in send(OTHER, 100)
            clock.tick(10)
        assert rates(events, "tick").keys() == {1.0, 0.1}
        assert rates(events, "tick", OTHER).keys() == {1.0}


def test_budget_counts_what_the_declared_sampling_leaves(clock):
    with capture(clock, Budget(10), sampling={"tick": Sampling(0.2)}) as events:
        for _ in range(2):
            send(ACME, 1000)
            clock.tick(10)
        assert rates(events, "tick").keys() == {0.2, 0.1}


def test_declared_key_still_decides(clock):
    rule = Sampling(0.5, key="k")
    with capture(clock, Budget(10), sampling={"tick": rule}) as events:
        send(ACME, 500, k="a")
        clock.tick(10)
        for n in range(200):
            send(ACME, 2, k=f"k{n % 50}")
        kept = Counter(r.data["k"] for r in events.records if r.sample_rate < 0.5)
    assert set(kept.values()) == {8}


# Operations and failures.


def test_phases_of_an_operation_have_one_decision_and_one_rate(clock):
    with capture(clock, Budget(10), taxonomy=SAAS) as events:
        ingest(ACME, 100)
        clock.tick(10)
        with tenant(ACME):
            runs = [emits("ingest", source_type="web", url="u") for _ in range(100)]
            for run in runs:
                run.__enter__().set(docs=1, chunks=1)
            clock.tick(10)
            for run in reversed(runs):
                run.__exit__(None, None, None)
        records = events.records
        stats = events.stats()
    phases: dict[str, list[tuple[str, float]]] = {}
    for record in records:
        phases.setdefault(record.operation_id, []).append((record.phase, record.sample_rate))
    assert {tuple(each) for each in phases.values()} == {
        (("started", 1.0), ("completed", 1.0)),
        (("started", 0.5), ("completed", 0.5)),
    }
    assert stats.emitted == 400 == stats.accepted + stats.sampled_out


def test_failures_are_kept_however_many_successes_there_are(clock):
    with capture(clock, Budget(1), taxonomy=SAAS) as events:
        ingest(ACME, 1000)
        clock.tick(10)
        ingest(ACME, 10, fails=True)
        clock.tick(10)
        ingest(ACME, 10, fails=True)
        assert rates(events, "ingest_failed") == {1.0: 20}


def test_flood_of_failures_has_a_rate_of_its_own(clock):
    with capture(clock, Budget(10), taxonomy=SAAS) as events:
        ingest(ACME, 1000, fails=True)
        clock.tick(10)
        ingest(ACME, 200, fails=True)
        kept = rates(events, "ingest_failed")
        stats = events.stats()
    assert kept.keys() == {1.0, 0.1}
    assert kept[1.0] == 1000
    assert 0 < kept[0.1] < 100
    assert stats.emitted == stats.accepted + stats.sampled_out == 2400


def test_flood_of_failed_facts_has_the_rate_of_failures(clock):
    with capture(clock, Budget(10)) as events:
        for _ in range(2):
            send(ACME, 400, error_code="timeout")
            clock.tick(10)
        assert rates(events, "tick").keys() == {1.0, 0.25}


def test_flood_of_refused_facts_is_left_out_at_the_rate_of_failures(clock):
    with capture(clock, Budget(10), taxonomy=SAAS, strict=False) as events:
        for _ in range(2):
            send(ACME, 300, "quota_exceeded", limit="none")
            clock.tick(10)
        send(ACME, 300, "not_declared")
        stats = events.stats()
    assert 600 < stats.rejected + stats.pending < 900
    assert stats.emitted == 900 == stats.accepted + stats.sampled_out


def test_flood_without_a_tenant_is_left_out_at_a_rate_of_its_own(clock):
    with capture(clock, Budget(10), taxonomy=SAAS, strict=False) as events:
        for _ in range(2):
            ingest("no uuid", 200)
            send("nor this", 200)
            clock.tick(10)
        assert None not in send(ACME, 10)
        stats = events.stats()
    assert stats.emitted == 1210 == stats.accepted + stats.sampled_out
    assert 610 < stats.accepted < 1000


def test_operation_that_is_left_out_leaves_no_line(clock):
    with capture(clock, Budget(0.001), taxonomy=SAAS) as events:
        ingest(ACME, 100)
        clock.tick(10)
        before = events._journal.shelf.free_bytes()
        ingest(ACME, 100)
        assert events._journal.shelf.free_bytes() > before - 2000
        assert events.stats().sampled_out >= 190


def test_abandoned_operation_carries_the_rate_at_which_it_was_kept(clock, tmp_path: Path):
    if (pid := os.fork()) == 0:
        try:
            dying = Pipeline(
                exporter=MemoryExporter(),
                taxonomy=SAAS,
                journal=tmp_path,
                budgets=[Budget(10)],
                clock=clock,
                ship_interval=60,
            )
            with dying:
                ingest(ACME, 100)
                clock.tick(10)
                with tenant(ACME):
                    for _ in range(100):
                        emits("ingest", source_type="web", url="u").__enter__()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    memory = MemoryExporter()
    adopter = Pipeline(exporter=memory, taxonomy=SAAS, journal=tmp_path)
    try:
        wait_until(lambda: "ingest_failed" in {record.name for record in memory.records})
        ends = [record for record in memory.records if record.name == "ingest_failed"]
    finally:
        adopter.shutdown()
    assert {record.error_code for record in ends} == {"abandoned"}
    assert {record.sample_rate for record in ends} == {0.5}
    assert abs(len(ends) * 2 - 100) < bound([0.5] * 100)


# What is written into the caller's own transaction.


def test_event_in_the_callers_transaction_is_never_left_out(clock, database18: Database):
    pipeline = Pipeline(dsn=database18.writer, taxonomy=SAAS, budgets=[Budget(0.001)], clock=clock)
    quota = {"quota_type": "documents", "limit": 3, "attempted": 4}
    with pipeline, psycopg.connect(database18.writer) as conn:
        send(ACME, 100, "quota_exceeded", **quota)
        ingest(ACME, 100)
        clock.tick(10)
        with tenant(ACME):
            for _ in range(10):
                assert log_event("quota_exceeded", conn=conn, **quota)
                with emits("ingest", source_type="web", url="u", conn=conn) as operation:
                    operation.set(docs=1, chunks=1)
    pipeline.shutdown(20)
    assert pipeline.stats().handed == 20
    assert database18.execute("SELECT min(sample_rate) FROM tenantry.events") == [(1.0,)]


# Counting.


def test_counts_of_threads_are_exact_within_an_interval():
    meter = Meter()
    threads = [
        threading.Thread(target=lambda: [meter.add("t", f"n{n % 7}", 2) for n in range(7000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert meter.take() == {("t", f"n{n}"): 8000 for n in range(7)}


def test_flood_of_names_hides_no_tenant(clock):
    limits = Budgets([Budget(10), Budget(10, per="name")], {}, clock.perf_counter_ns)
    for n in range(2 * MAX_KINDS):
        limits.limit(None, '"tenant_id":"noisy",', f"n{n}")
    for _ in range(1000):
        limits.limit(None, '"tenant_id":"late",', "tick")
    limits.limit(None, '"tenant_id":"quiet",', "tick")
    clock.tick(10)
    assert limits.limit(None, '"tenant_id":"late",', "n0") == Sampling(0.1)
    assert limits.limit(None, '"tenant_id":"noisy",', "n0") == Sampling(100 / (2 * MAX_KINDS))
    assert limits.limit(None, '"tenant_id":"quiet",', "n0") is None


def test_flood_of_tenants_is_counted_in_bounded_memory(clock):
    limits = Budgets([Budget(10)], {}, clock.perf_counter_ns)
    for n in range(3 * MAX_KINDS):
        limits.limit(None, f'"tenant_id":{n},', "tick")
    assert len(limits._meters[False].counts) == 2 * MAX_KINDS + 1
    clock.tick(10)
    assert limits.limit(None, '"tenant_id":0,', "tick") is None
    assert limits.limit(None, '"tenant_id":-1,', "tick") == Sampling(100 / MAX_KINDS)


def test_forked_process_begins_with_budgets_of_its_own(clock):
    with capture(clock, Budget(1)) as events:
        send(ACME, 1000)
        clock.tick(10)
        send(ACME, 1)
        if (pid := os.fork()) == 0:
            kept = []
            try:
                kept = send(ACME, 100)
            finally:
                os._exit(len(kept) - kept.count(None))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 100
        assert events.budgets is not None


def test_log_names_what_is_sampled(clock, caplog: pytest.LogCaptureFixture):
    with capture(clock, Budget(10), ship_interval=0.01):
        for _ in range(2):
            send(ACME, 1000)
            clock.tick(10)
        wait_until(lambda: "more is emitted than the budgets allow" in caplog.text)
    assert f"At the lowest rates: tenant {ACME} 0.1" in caplog.text


# Estimates.


@settings(deadline=None, max_examples=40)
@given(
    budgets=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)),
    declared=st.floats(0.05, 1),
    floods=st.lists(
        st.dictionaries(
            st.tuples(st.integers(0, 3), st.sampled_from("ab")), st.integers(0, 1500), max_size=6
        ),
        max_size=5,
    ),
    room=st.none() | st.integers(0, 10_000_000),
    pause=st.floats(0.5, 30),
)
def test_weighted_counts_are_near_the_truth(budgets, declared, floods, room, pause):
    clock = FrozenClock()
    sampling = {"b": Sampling(declared)}
    given = [Budget(budgets[0]), Budget(budgets[1], per="name")]
    limits = Budgets(given, sampling, clock.perf_counter_ns)
    limits.press(room)
    ids = count()
    estimates: Counter[tuple[int, str]] = Counter()
    offered: dict[tuple[int, str], list[float]] = {}
    for flood in floods:
        for (who, name), times in flood.items():
            for _ in range(times):
                rule = limits.limit(sampling.get(name), f'"tenant_id":{who},', name)
                rate = 1.0 if rule is None else rule.rate
                offered.setdefault((who, name), []).append(rate)
                if rule is None or rule.keeps(f"{who}-{next(ids)}"):
                    estimates[who, name] += 1 / rate
        clock.tick(pause)
    for kind, given_rates in offered.items():
        assert abs(estimates[kind] - len(given_rates)) <= bound(given_rates)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=50), st.floats(0, 1e8))
def test_fair_level_uses_the_room_and_leaves_the_quiet_alone(used, capacity):
    level = fair_level(used, capacity)
    together = sum(min(n, level) for n in used)
    assert together <= max(capacity * 1.0001, len(used) * level)
    quiet = sorted(used)[(len(used) - 1) // 2]
    assert level >= 2 * quiet or level == math.inf
    if level > 2 * quiet and level < math.inf:
        assert together == pytest.approx(capacity)


def test_equal_parts_are_never_sampled():
    assert fair_level([70.0] * 9, 1.0) >= 70.0
    assert fair_level([70.0], 1.0) >= 70.0


# Configuring.


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("TENANTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(pipeline, "configured", None)
    monkeypatch.setattr(pipeline, "_configured_with", {})
    monkeypatch.setattr(context, "_default_rule", context.TenantRule())
    yield
    if pipeline.configured is not None:
        pipeline.configured.shutdown()


@pytest.mark.usefixtures("unconfigured")
def test_same_budgets_give_the_same_pipeline_and_others_raise():
    exporter = MemoryExporter()
    made = configure(exporter=exporter, budgets=[Budget(5)])
    assert made.budgets is not None
    assert configure(exporter=exporter, budgets=(Budget(5),)) is made
    with pytest.raises(AlreadyConfigured, match="other settings of: budgets"):
        configure(exporter=exporter, budgets=[Budget(6)])


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("value", ["true", "false"])
def test_fair_share_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("TENANTRY_FAIR_SHARE", value)
    made = configure(exporter=MemoryExporter())
    monkeypatch.setattr(made._journal.shelf, "free_bytes", lambda: 1)
    made._note_room(made._journal)
    assert (made.budgets is not None) == (value == "true")
