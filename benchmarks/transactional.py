"""``log_event(…, conn=…)`` beside a bare INSERT of the same row, in the same transaction.

Both make an id, a time and the payload's JSON. They alternate call by call on one connection, whose
role may only insert; a round is one transaction, and begins once the server has planned both.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

import psycopg
import uuid_utils

from benchmarks import servers
from benchmarks.end_to_end import make_pipeline
from benchmarks.results import Goal, Measurement, Section, at_most
from benchmarks.workload import ACTOR, TENANT
from tenantry import log_event, tenant
from tenantry.taxonomies.saas import QuotaExceeded

WARM_UP = 20
"""Calls: psycopg prepares a statement at the fifth, the server keeps a plan from the tenth on."""

BARE = """
    INSERT INTO tenantry.events (id, tenant_id, name, created_at, data, actor_id, service)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


def measure(*, rounds: int, calls: int) -> Section:
    with (
        servers.start("embedded") as server,
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as journal,
    ):
        server.migrate("tenantry")
        with (
            make_pipeline(server.writer, journal) as pipeline,
            tenant(TENANT, actor=ACTOR),
            psycopg.connect(server.writer) as connection,
        ):
            found = [run(connection, calls) for _ in range(rounds)]
            pipeline.shutdown()
    ratios = [ours / bare for ours, bare, _ in found]
    ours, bare, nothing = (list(each) for each in zip(*found, strict=True))
    return Section(
        f"An event in the caller's own transaction, {server.name}",
        (
            Measurement.of("log_event(…, conn=…)", "us", ours),
            Measurement.of("a bare INSERT of the same row", "us", bare),
            Measurement.of("SELECT 1", "us", nothing),
            Measurement.of("ratio log_event / INSERT", "x", ratios),
        ),
        goals(median(ratios)),
        ("Elapsed time of the median call of each round.",),
    )


def goals(ratio: float | None = None) -> tuple[Goal, ...]:
    return (at_most("log_event(…, conn=…) / a bare INSERT of the row", 1.3, " x", ratio),)


def run(connection: psycopg.Connection, calls: int) -> tuple[float, ...]:
    def emit() -> None:
        event = QuotaExceeded(quota_type="messages", limit=100, attempted=101)
        log_event(event, conn=connection)

    def insert() -> None:
        data = {"quotaType": "messages", "limit": 100, "attempted": 101}
        row = (
            *(str(uuid_utils.uuid7()), TENANT, "quota_exceeded", datetime.now(UTC)),
            *(json.dumps(data), ACTOR, "benchmark"),
        )
        connection.execute(BARE, row)

    def nothing() -> None:
        connection.execute("SELECT 1")

    spent: dict[Callable[[], None], list[float]] = {emit: [], insert: [], nothing: []}
    for number in range(calls + WARM_UP):
        for function, times in spent.items():
            begin = time.perf_counter()
            function()
            if number >= WARM_UP:
                times.append(time.perf_counter() - begin)
    connection.rollback()
    return tuple(median(times) * 1e6 for times in spent.values())
