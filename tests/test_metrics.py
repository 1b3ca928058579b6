"""OpenTelemetry metrics of the books, read by the real SDK."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import tenantry
from tenantry import Sampling, log_event, tenant
from tenantry.exporters import Outcome, Retry

class Away:
    def export(self, batch, deadline):
        return Outcome(retry=Retry("backoff", "away"))
    def close(self):
        pass

tenantry.configure(
    exporter=Away(), open_taxonomy=["tick", "rare"], journal_max_bytes=4 << 20,
    sampling={"rare": Sampling(1e-18)}, shutdown_timeout=0,
)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))  # after configure(), as it often is
with tenant("018f6f0e-7c1a-7000-8000-000000000001"):
    log_event("rare")
    while log_event("tick", text="x" * 1500) is not None:
        pass
points = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            points[metric.name] = [
                (dict(point.attributes), point.value) for point in metric.data.data_points
            ]
stats = tenantry.stats()
print(json.dumps([points, stats.accepted, stats.pending]))
"""


def test_books_are_observed_by_a_meter_provider_that_is_set_later():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    points, accepted, pending = json.loads(done.stdout)
    outcomes = {attributes["tenantry.outcome"]: n for attributes, n in points["tenantry.events"]}
    assert outcomes == {"accepted": accepted, "handed": 0, "sampled_out": 1, "dropped": 1}
    assert points["tenantry.events.dropped"] == [
        [
            {
                "tenantry.reason": "journal_full",
                "tenantry.tenant.id": "018f6f0e-7c1a-7000-8000-000000000001",
                "event.name": "tick",
            },
            1,
        ]
    ]
    assert points["tenantry.events.pending"] == [[{}, pending]]
    assert accepted == pending > 1000
