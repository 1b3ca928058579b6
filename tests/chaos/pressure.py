"""Pressure: bursts, a database that is slower than its producers, a full journal, many workers."""

from __future__ import annotations

import json
import sys

from tests.chaos.database import BRISK, EVENTS_A_SEGMENT, FLAT, let_emit
from tests.chaos.disk import no_connections
from tests.chaos.harness import TENANT, Field, Truth, cell, wait_until
from tests.chaos.workers import Worker, settle

GROUP = "Pressure"

SMALLEST = 4 << 20
"""Bytes of the smallest limit that a journal may have: some 9,000 events."""
MILLISECONDS = 1e3


@cell(GROUP, "a burst of 20,000 events, at 0.2 s a batch")
def burst(field: Field) -> Truth:
    count = field.scale.of(short=8_000, full=20_000)
    with Worker(field, own={"seconds_a_batch": 0.2}) as worker:
        answer = worker("burst", count=count, threads=4)
        assert answer["accepted"] == count, answer
        settle(field, worker)
        batches = worker("stats")["batches"]
    slowest = answer["slowest"] * MILLISECONDS
    return Truth(note=f"{batches} batches; the slowest call took {slowest:.1f} ms")


@cell(GROUP, "producers faster than the database")
def faster(field: Field) -> Truth:
    events = field.scale.of(short=6_000, full=150_000)
    with Worker(field, own={"seconds_a_batch": field.scale.of(short=0.5, full=1.0)}) as worker:
        worker("emit", count=100)
        settle(field, worker)
        before = worker("memory")
        worker("start_load", threads=3, pause=0.0001)
        let_emit(field, events, seconds=90)
        worker("end_load")
        pending, after = worker("stats")["pending"], worker("memory")
        worker("slow_down", seconds=0)
        settle(field, worker)
    grown = after["private"] - before["private"]
    assert grown < 2 * FLAT, f"private memory grew by {grown} bytes"
    segments = pending // EVENTS_A_SEGMENT + 3
    assert after["descriptors"] <= before["descriptors"] + segments, (before, after)
    assert pending > events // 10, f"{pending} were pending: the database kept up"
    return Truth(note=f"{pending} were pending; private memory grew by {grown >> 10} KiB")


def gaps_of(field: Field) -> list[tuple]:
    return field.database.execute(
        "SELECT tenant_id, data::text FROM tenantry.rejected_events WHERE reason = 'gap'"
    )


@cell(GROUP, "journal at its limit, policy drop")
def limit_drop(field: Field) -> Truth:
    count = field.scale.of(short=20_000, full=60_000)
    no_connections(field, allowed=False)
    with Worker(field, own=BRISK, journal_max_bytes=SMALLEST, on_full="drop") as worker:
        answer = worker("burst", count=count, threads=4)
        dropped = count - answer["accepted"]
        stats = worker("stats")
        assert stats["dropped"] == {"journal_full": dropped}, stats
        assert stats["drops"] == [["journal_full", TENANT, "tick", dropped]], stats
        no_connections(field, allowed=True)
        wait_until(lambda: worker("flush", timeout=1)["settled"] and field.count("rejected_events"))
        worker("emit", count=100)
        settle(field, worker)
    ((tenant_id, told),) = gaps_of(field)
    assert (tenant_id, json.loads(told)) == (TENANT, {"tick": dropped})
    slowest = answer["slowest"] * MILLISECONDS
    return Truth(
        dropped={"journal_full": dropped},
        rejected={"gap": 1},
        note=f"the slowest call took {slowest:.1f} ms",
    )


@cell(GROUP, "journal at its limit, policy wait")
def limit_wait(field: Field) -> Truth:
    count = field.scale.of(short=16_000, full=60_000)
    options = {"journal_max_bytes": SMALLEST, "on_full": "wait"}
    with Worker(field, own={**BRISK, "seconds_a_batch": 0.05}, **options) as worker:
        # The database is slow, and callers wait for it: nothing is dropped.
        answer = worker("burst", count=count, threads=4)
        assert answer["accepted"] == count, answer
        settle(field, worker)
        # It is away, and callers wait for a second, each of them.
        no_connections(field, allowed=False)
        filled = worker("emit_until_dropped")
        assert filled > 1_000
        no_connections(field, allowed=True)
        wait_until(lambda: worker("flush", timeout=1)["settled"] and field.count("rejected_events"))
        settle(field, worker)
    slowest = answer["slowest"] * MILLISECONDS
    return Truth(
        dropped={"journal_full": 1},
        rejected={"gap": 1},
        note=f"the slowest call took {slowest:.0f} ms",
    )


@cell(GROUP, "64 pool workers starting at once")
def pool(field: Field) -> Truth:
    workers = field.scale.of(short=16, full=64)
    done = field.run(
        *("pressure_workers.py", field.dsn, field.journal, field.acknowledged),
        *(workers, workers, 50, "exit"),
        seconds=90,
    )
    assert done.code == 0, done.errors
    assert len(field.acknowledged_ids()) == 50 * workers
    return Truth(times=workers)


@cell(GROUP, "hundreds of short-lived workers, compacted by tenantry maintain")
def short_lived(field: Field) -> Truth:
    workers = field.scale.of(short=32, full=300)
    for ending in ("exit", "_exit"):
        done = field.run(
            *("pressure_workers.py", field.dsn, field.journal, field.acknowledged),
            *(workers // 2, 8, 3, ending),
            seconds=120,
        )
        assert done.code == 0, done.errors
    assert len(field.acknowledged_ids()) == 3 * workers
    assert field.drain().code == 0
    assert field.count("journal_cursors") == workers
    main = [sys.executable, "-c", "from tenantry.cli import main; main()"]
    arguments = ("maintain", "--dsn", field.database.superuser, "--after", "0s", "--json")
    done = field.run(main, *arguments)
    assert done.code == 0, done.errors
    answer = json.loads(done.output)
    (compacted,), left = answer["compacted"], answer["left"]
    assert compacted["journals"] + len(left) == workers, answer
    # Whoever adopted a journal may itself have ended before it noted the end of that.
    assert all("no end is noted" in each["reason"] for each in left), left
    assert len(left) <= 2 + workers // 20, answer
    rows = field.count("journal_cursors")
    assert rows == 1 + len(left)
    return Truth(times=workers, note=f"{workers} rows of journal_cursors became {rows}")
