"""Batches: what is sent of a journal at once, how much of it, and how far that is."""

from __future__ import annotations

import json
import time
from typing import Final
from uuid import UUID, uuid5

from tenantry.exporters import Batch, Position, Totals
from tenantry.journal import Chunk, DeadJournal, Journal, cursor, tally
from tenantry.record import ROWS, Kind

BATCH_BYTES: Final = 1792 * 1024
"""About 4,000 events at the most: fewer commits, and a fifth less of the server's time a row."""


class Lane:
    """A journal being shipped, and how far it is."""

    def __init__(self, journal: Journal | DeadJournal) -> None:
        """Begin at the journal's own cursor; the destination's may correct it."""
        self.journal = journal
        self.settled = cursor(journal.books)
        """Where the destination's cursor is believed to be."""
        self.position = self.settled
        """How far it is read: ahead of ``settled`` by lines that are no rows."""
        self.totals_sent = Totals()
        """What the destination was last told."""
        self.batch_bytes = BATCH_BYTES
        """How much is sent at once: less after a batch took too long, then slowly more again."""
        self.uncounted = 0
        """Rows that were settled and forgotten here, and that the destination has no count of."""

    def go_to(self, position: Position) -> None:
        """Go on from ``position``, which is settled."""
        self.settled = self.position = position

    def shrink(self, batch: Batch) -> None:
        """Send half of ``batch`` next, a line at least: so none is too large for ever."""
        self.batch_bytes = max(1, sum(map(len, (*batch.events, *batch.rejects))) // 2)

    def grow(self) -> None:
        """Send a little more next: a size that failed once may fail again, and costs its time."""
        self.batch_bytes = min(BATCH_BYTES, self.batch_bytes + max(4096, self.batch_bytes // 8))


def make_batch(journal: Journal | DeadJournal, chunk: Chunk, start: Position) -> Batch:
    """Sort the lines of a chunk into rows; ``start`` is the destination's cursor."""
    events: list[bytes] = []
    rejects: list[bytes] = []
    may_repeat = False
    for body in chunk.bodies:
        kind = body[:1]
        if kind in _ROWS:
            # All else that `take_apart` reads is of no use here, and costs as much again.
            row = body.split(b" ", 2)[-1].partition(b"\t")[0]
            (rejects if kind == _REJECT else events).append(row)
            may_repeat = may_repeat or kind == _REPEATABLE
    rejects += [corrupt_reject(journal, chunk.segment, offset) for offset in chunk.corrupt]
    tallies = tally(journal.segments[chunk.segment]) if chunk.ends_segment else None
    return Batch(
        journal_id=journal.id,
        start=start,
        end=chunk.end,
        events=events,
        rejects=rejects,
        totals=journal.totals(),
        tallies=tallies,
        service=journal.identity.service,
        process=journal.identity.process,
        segment=chunk.segment,
        may_repeat=may_repeat,
    )


_ROWS: Final = frozenset(kind.encode() for kind in ROWS)
_REJECT: Final = Kind.REJECT.encode()
_REPEATABLE: Final = Kind.REPEATABLE.encode()


def corrupt_reject(journal: Journal | DeadJournal, segment: int, offset: int) -> bytes:
    """Make the reject of a line whose checksum fails: accepted once, and unreadable now."""
    place = f"segment {segment}, offset {offset} of the journal {journal.id}"
    return json.dumps(
        {
            "id": str(uuid5(UUID(journal.id), f"{segment}:{offset}")),
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            "reason": "corrupt",
            "detail": f"the checksum of the line at {place} fails: the file was altered or decayed",
            "service": journal.identity.service,
        }
    ).encode()
