"""Where records go: the exporter protocol, and what passes through it.

An exporter is driven by one thread, the shipper. It never sees half a batch stored: a batch is
settled whole (each record stored or rejected) or kept whole and sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from tenantry.record import Record, Reject


class Position(NamedTuple):
    """A place in a journal: the number of a segment, and a byte offset in it."""

    segment: int
    offset: int


BEGINNING = Position(0, 0)
"""Where every journal's first batch starts."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters of one journal since it was made, as they stood when a batch was cut."""

    emitted: int = 0
    accepted: int = 0
    handed: int = 0
    sampled_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of one segment of one journal.

    ``events`` and ``rejects`` are raw JSON objects (UTF-8 bytes), one a row, in the order of
    emission; their keys are ``EVENT_COLUMNS`` and ``REJECT_COLUMNS`` of ``tenantry.record``.
    """

    journal_id: str
    start: Position
    end: Position
    events: Sequence[bytes]
    rejects: Sequence[bytes] = ()
    totals: Totals = field(default_factory=Totals)
    tallies: Mapping[tuple[str, str], int] | None = None
    """Events in the whole segment by (tenant id, name), when the batch ends its segment."""
    service: str | None = None
    process: str = ""
    """``host:pid`` of the process that wrote the journal."""
    may_repeat: bool = False
    """Whether an event may be stored already though its batch is not (an idempotency key)."""
    segment: int = 0
    """The segment that the lines are in; ``start`` may still be in an earlier one."""

    def records(self) -> list[Record]:
        """Parse the events."""
        return [Record.from_json(line) for line in self.events]

    def rejected(self) -> list[Reject]:
        """Parse the rejects."""
        return [Reject.from_json(line) for line in self.rejects]


@dataclass(frozen=True, slots=True)
class Retry:
    """Why a batch was kept.

    ``backoff``: the trouble is expected to pass (the server is away, a deadlock): try again soon,
    with growing, jittered pauses. ``hold``: somebody has to act (a missing table, a missing
    privilege): try again slowly, and say once what to do. ``soon``: it is a matter of seconds (a
    transaction that is still open): try again after short pauses, and bother nobody.
    """

    kind: Literal["backoff", "hold", "soon"]
    reason: str
    remedy: str = ""
    smaller: bool = False
    """Whether the batch took too long, and half of it may get through."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    Exactly one of three: settled (``stored`` + ``rejected`` = all of it), ``retry``, or ``resume``:
    the destination's cursor is not at ``batch.start``, and the next batch must start there (ahead
    when an earlier answer was lost, behind when the database went back in time). With ``resume``,
    ``stored`` and ``rejected`` are the destination's counts for the whole journal up to there.
    """

    stored: int = 0
    rejected: int = 0
    retry: Retry | None = None
    resume: Position | None = None


class Exporter(Protocol):
    """Stores batches.

    Optional: ``finish(journal_id, deadline) -> bool`` is told that a journal, settled whole, has
    ended for good; True when it is noted, else it is tried again after a later batch.
    """

    def export(self, batch: Batch, deadline: float) -> Outcome:
        """Store a batch, or say why not.

        Blocks until the outcome is known, at most until ``deadline`` (``time.monotonic()``
        seconds); past it, the outcome is a retry. An exception is taken as a retry with backoff.
        """
        ...

    def close(self) -> None:
        """Give up connections and other resources; a later ``export`` may open them again."""
        ...
