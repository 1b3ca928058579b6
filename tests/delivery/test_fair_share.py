"""Fair shares: one noisy tenant does not starve the others out of the journal."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.testing import FrozenClock
from tests.delivery.deliveries import wait_until
from tests.delivery.pipelines import Destination, make_pipeline
from tests.fix_postgres import Database, Proxy

NOISY = "018f6f0e-0000-7000-8000-000000000001"
QUIET = [f"018f6f0e-0000-7000-8000-0000000001{n:02}" for n in range(20)]
ROUNDS = 300
LOUDER = 100
TEXT = "x" * 250

STORED = """
    SELECT tenant_id = %s, count(*), sum(1 / sample_rate), min(sample_rate),
           sum((1 - sample_rate) / sample_rate ^ 2)
      FROM tenantry.events GROUP BY 1 ORDER BY 1
"""


class Rounds:
    """Threads that emit in step: in each second of the clock a hundred events against one."""

    def __init__(self, pipeline: Pipeline, clock: FrozenClock) -> None:
        self._pipeline = pipeline
        self._step = threading.Barrier(3, action=lambda: clock.tick(1), timeout=60)
        self.taken: dict[str, int] = {}

    def run(self) -> None:
        loads = [
            [(NOISY, LOUDER)],
            [(each, 1) for each in QUIET[:10]],
            [(each, 1) for each in QUIET[10:]],
        ]
        threads = [threading.Thread(target=self._emit, args=[load]) for load in loads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    def _emit(self, load: list[tuple[str, int]]) -> None:
        with self._pipeline:
            for _ in range(ROUNDS):
                for tenant_id, times in load:
                    with tenant(tenant_id):
                        ids = [log_event("tick", text=TEXT) for _ in range(times)]
                    taken = times - ids.count(None)
                    self.taken[tenant_id] = self.taken.get(tenant_id, 0) + taken
                self._step.wait()


def make(proxy: Proxy, journal: Path, clock: FrozenClock, **options) -> Pipeline:
    proxy.black_hole()
    return Pipeline(
        dsn=proxy.dsn,
        journal=journal,
        journal_max_bytes=9 << 20,
        open_taxonomy=["tick"],
        clock=clock,
        **options,
    )


def test_noisy_tenant_is_sampled_and_the_others_lose_nothing(
    proxy: Proxy, database18: Database, tmp_path: Path
):
    clock = FrozenClock()
    pipeline = make(proxy, tmp_path, clock)
    rounds = Rounds(pipeline, clock)
    rounds.run()
    stats = pipeline.stats()
    proxy.restore()
    assert pipeline.shutdown(60)

    assert {rounds.taken[each] for each in QUIET} == {ROUNDS}
    assert stats.dropped == {}
    assert stats.emitted == stats.accepted + stats.sampled_out == ROUNDS * (LOUDER + len(QUIET))
    (_, others, _, least, _), (_, kept, estimate, lowest, variance) = database18.execute(
        STORED, [NOISY]
    )
    assert (others, least) == (ROUNDS * len(QUIET), 1.0)
    assert kept == rounds.taken[NOISY] < ROUNDS * LOUDER / 1.5
    assert lowest < 0.1
    # The variance is estimated from the rows, and taken twice.
    noise = (2 * variance * 21.4) ** 0.5 * 2**0.5 + 2 / 3 * 21.4 / lowest
    assert abs(estimate - ROUNDS * LOUDER) < noise


def test_without_fair_shares_the_same_noise_drops_events_of_the_others(
    proxy: Proxy, tmp_path: Path
):
    clock = FrozenClock()
    pipeline = make(proxy, tmp_path, clock, fair_share=False)
    rounds = Rounds(pipeline, clock)
    rounds.run()
    assert min(rounds.taken[each] for each in QUIET) < ROUNDS
    assert pipeline.stats().dropped.keys() == {"journal_full"}
    assert pipeline.stats().sampled_out == 0
    pipeline.shutdown(0)


@pytest.fixture
def destination():
    return Destination()


def test_nothing_is_counted_before_half_of_the_journal_is_used_and_after(
    destination: Destination, tmp_path: Path
):
    pipeline = make_pipeline(destination, tmp_path, journal_max_bytes=16 << 20)
    destination.is_open.clear()
    used = []
    with pipeline, tenant(NOISY):
        while pipeline.budgets is None:
            log_event("tick", text="x" * 1500)
            used.append(pipeline._journal.shelf.free_bytes())
        assert used[0] > 14 << 20
        assert 4 << 20 < used[-1] <= 8 << 20
        destination.is_open.set()
        wait_until(lambda: pipeline.budgets is None)
    assert pipeline.shutdown(20)
    assert pipeline.stats().sampled_out == 0


def test_tenant_that_is_alone_is_never_sampled(destination: Destination, tmp_path: Path):
    clock = FrozenClock()
    pipeline = make_pipeline(destination, tmp_path, journal_max_bytes=4 << 20, clock=clock)
    destination.is_open.clear()
    with pipeline, tenant(NOISY):
        while log_event("tick", text="x" * 1500) is not None:
            clock.tick(0.1)
    stats = pipeline.stats()
    assert (stats.sampled_out, stats.dropped) == (0, {"journal_full": 1})
    destination.is_open.set()
    assert pipeline.shutdown(20)


def test_log_says_who_is_held_to_a_share(
    destination: Destination, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    clock = FrozenClock()
    pipeline = make_pipeline(destination, tmp_path, journal_max_bytes=16 << 20, clock=clock)
    destination.is_open.clear()
    rounds_under_pressure = 0
    with pipeline:
        while rounds_under_pressure < 4:
            rounds_under_pressure += pipeline.budgets is not None
            for tenant_id, times in ((NOISY, 200), (QUIET[0], 1)):
                with tenant(tenant_id):
                    for _ in range(times):
                        log_event("tick", text="x" * 1500)
            clock.tick(1)
    pipeline._shipper.wake()
    wait_until(lambda: "more is emitted than the journal has room for" in caplog.text)
    assert f"At the lowest rates: tenant {NOISY} 0." in caplog.text
    destination.is_open.set()
    assert pipeline.shutdown(20)
