"""The soak: a million events through a file journal into PostgreSQL, with nothing that grows."""

from __future__ import annotations

import json
from typing import Final

from tests.chaos.harness import Field, Truth, cell

GROWTH_BYTES: Final = 24 * 1024 * 1024
"""Beyond the size after a fifth of the events: a leak of 30 bytes an event would show."""

DESCRIPTORS: Final = 24
"""More or fewer: a segment that is not settled yet holds two, and 30,000 events fill seven."""


@cell("Soak", "a million events, memory and file descriptors flat")
def soak(field: Field) -> Truth:
    events = field.scale.of(short=20_000, full=1_000_000)
    done = field.run(
        *("soak.py", field.dsn, field.journal, field.acknowledged, events), seconds=400
    )
    assert done.code == 0, done.errors
    seen = json.loads(done.output)
    grown = seen["rss"][-1] - min(seen["rss"])
    assert grown < GROWTH_BYTES, f"memory grew: {seen['rss']}"
    assert max(seen["fds"]) <= min(seen["fds"]) + DESCRIPTORS, f"descriptors grew: {seen['fds']}"
    assert max(seen["threads"]) <= seen["threads"][0], f"threads grew: {seen['threads']}"
    assert len(field.acknowledged_ids()) == events
    rate = round(events / seen["seconds"])
    note = f"{rate:,} events/s; memory {grown / 2**20:+.1f} MiB, descriptors {seen['fds'][-1]}"
    return Truth(times=events, note=note)
