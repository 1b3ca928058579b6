"""OpenTelemetry metrics of the books, and ``stats()``, read by the real SDK."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.exporters import Outcome, Retry
from tenantry.exporters.memory import MemoryExporter
from tenantry.journal import emitted_at
from tenantry.metrics import INSTRUMENTS
from tenantry.record import Clock, Kind, Line

ACME = "018f6f0e-7c1a-7000-8000-000000000001"

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "metrics.md"

PROGRAM = """
import json, sys
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import tenantry
from tenantry import Sampling, log_event, tenant
from tenantry.exporters import Outcome, Retry

class Away:
    def export(self, batch, deadline):
        return Outcome(retry=Retry("backoff", "away"))
    def insert(self, conn, event):
        pass
    def close(self):
        pass

tenantry.configure(
    exporter=Away(), open_taxonomy=["tick", "rare"], journal_max_bytes=4 << 20,
    sampling={"rare": Sampling(1e-18)}, shutdown_timeout=0, journal=sys.argv[1],
)
beside = tenantry.Pipeline(exporter=Away(), journal=sys.argv[1], journal_max_bytes=4 << 20,
    open_taxonomy=["tick"], shutdown_timeout=0)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))  # after configure(), as it often is
with tenant("018f6f0e-7c1a-7000-8000-000000000001"):
    log_event("rare")
    log_event("tick", conn=object())
    while log_event("tick", text="x" * 1500) is not None:
        pass
def read():
    return {
        metric.name: [
            type(metric.data).__name__, metric.unit, metric.description,
            getattr(metric.data, "is_monotonic", None),
            [(dict(point.attributes), point.value) for point in metric.data.data_points],
        ]
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
read()
stats = tenantry.stats()
with beside, tenant("018f6f0e-7c1a-7000-8000-000000000001"):
    log_event("tick", tenant="bad")
print(json.dumps([read(), stats.accepted, stats.pending, stats.journal_bytes, stats.lag]))
"""


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path_factory.mktemp("journals"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    return json.loads(done.stdout)


def test_books_are_observed_by_a_meter_provider_that_is_set_later(observed):
    metrics, accepted, pending, _, lag = observed
    points = {name: metric[-1] for name, metric in metrics.items()}
    dropped = {
        "error.type": "journal_full",
        "tenantry.tenant.id": ACME,
        "tenantry.event.name": "tick",
    }
    assert accepted == pending > 1000
    assert (
        sum(n for _, n in points["tenantry.event.dropped"])
        == points["tenantry.event.dropped"][0][1] + len(points["tenantry.event.dropped"]) - 1
    )
    assert points["tenantry.event.dropped"][0][0] == dropped
    total_dropped = sum(n for _, n in points["tenantry.event.dropped"])
    assert points["tenantry.event.handed"] == [[{}, 1]]
    assert points["tenantry.event.sampled_out"] == [[{}, 1]]
    assert points["tenantry.event.stored"] == points["tenantry.event.rejected"] == [[{}, 0]]
    [[_, all_accepted]] = points["tenantry.event.accepted"]
    assert all_accepted >= accepted
    assert points["tenantry.event.emitted"] == [[{}, all_accepted + 2 + total_dropped]]
    assert points["tenantry.event.pending"] == [[{}, all_accepted]]
    assert points["tenantry.event.lag"][0][1] >= lag > 0


def test_directory_that_two_pipelines_share_is_counted_once(observed):
    metrics, *_, journal_bytes, _ = observed
    usage = {a["tenantry.journal.state"]: n for a, n in metrics["tenantry.journal.usage"][-1]}
    assert metrics["tenantry.journal.limit"][-1] == [[{}, 4 << 20]]
    assert usage["retained"] == 0
    assert 2 << 20 < journal_bytes <= usage["needed"] < 5 << 20


def test_instruments_are_those_of_the_page(observed):
    kinds = {"counter": ("Sum", True), "up_down_counter": ("Sum", False), "gauge": ("Gauge", None)}
    made = {name: metric[:-1] for name, metric in observed[0].items()}
    assert made == {
        each.name: [kinds[each.kind][0], each.unit, each.description, kinds[each.kind][1]]
        for each in INSTRUMENTS
    }
    listed = re.findall(
        r"^\| `(tenantry\.\S+)` \| (\w+) \| `(\S+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert listed == [(each.name, each.kind, each.unit, each.description) for each in INSTRUMENTS]


# What stats() says beside the books.


class Ticking(Clock):
    """A clock that a test moves; ids are made by the real one."""

    def __init__(self) -> None:
        self.ahead = 0

    def time_ns(self) -> int:
        return Clock.time_ns() + self.ahead


class Gate:
    """A destination that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.is_open = False

    def export(self, batch, deadline):
        if not self.is_open:
            return Outcome(retry=Retry("backoff", "closed"))
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self):
        pass


def test_lag_is_the_age_of_the_oldest_pending_event():
    gate, clock = Gate(), Ticking()
    with Pipeline(exporter=gate, open_taxonomy=["x"], clock=clock) as pipeline, tenant(ACME):
        assert pipeline.stats().lag == 0
        log_event("x")
        clock.ahead += 60 * 10**9
        log_event("x")
        assert 60 <= pipeline.stats().lag < 90
        gate.is_open = True
        assert pipeline.flush()
        assert pipeline.stats().lag == 0
        gate.is_open = False
        log_event("x")
        assert 60 <= pipeline.stats().lag < 90
        gate.is_open = True
    pipeline.shutdown()


def test_event_that_occurred_long_ago_does_not_lag():
    gate = Gate()
    with Pipeline(exporter=gate, open_taxonomy=["x"]) as pipeline, tenant(ACME):
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        log_event("x", occurred_at=long_ago, idempotency_key="1")
        assert pipeline.stats().lag > 1e8  # nothing else tells how long it has waited
        log_event("x", occurred_at=long_ago)
        assert pipeline.stats().lag < 60
        gate.is_open = True
    pipeline.shutdown()


def test_time_of_a_row_is_that_of_its_id():
    line = Line(Kind.EVENT, 1, b'{"id":"019b76da-a800-7000-8000-000000000001"}', b"")
    assert emitted_at(line) == 1_767_225_600


def test_sizes_are_told():
    with Pipeline(exporter=MemoryExporter(), open_taxonomy=["x"]) as pipeline, tenant(ACME):
        assert pipeline.stats().mean_bytes is None
        for size in (100, 300):
            log_event("x", text="y" * size)
        pipeline.flush()
        stats = pipeline.stats()
        overhead = (stats.settled_bytes - 400) / 2
        assert 100 < overhead < 300
        assert stats.mean_bytes == overhead + 200
        assert stats.journal_max_bytes == 256 << 20
        assert 0 < stats.journal_bytes < 4 << 20
    pipeline.shutdown()


def test_bytes_of_the_directory_are_told(tmp_path):
    with Pipeline(exporter=Gate(), journal=tmp_path, open_taxonomy=["x"]) as pipeline:
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        stats = pipeline.stats()
        assert (stats.journal_bytes, stats.retained_bytes) == (on_disk, 0)
    pipeline.shutdown(0)
