"""What a pipeline says of itself: the books, and what a flush reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush or a shutdown reached; true when everything accepted before it is settled."""

    settled: bool
    stored: int
    """Records of this process that are stored, since the pipeline began."""
    rejected: int
    pending: int
    """Accepted and not settled yet. In ``journal`` mode they are kept for the next process."""
    mode: Literal["journal", "memory"]
    error: str | None = None
    """Why records are pending, where the destination said so."""

    def __bool__(self) -> bool:
        return self.settled


@dataclass(frozen=True, slots=True)
class Drop:
    """Events of one kind that were dropped."""

    reason: str
    tenant_id: str | None
    """Canonical text of the tenant's id; None where the event had none, or is not known."""
    name: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The books of this process's journal at one moment, and what holds them.

    emitted = accepted + handed + sampled_out + dropped, and accepted = stored + rejected + pending,
    but for calls that are under way.
    """

    mode: Literal["journal", "memory"]
    durability: Literal["process", "power"]
    directory: Path | None
    emitted: int = 0
    accepted: int = 0
    handed: int = 0
    sampled_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    drops: Sequence[Drop] = ()
    """The same by tenant and name, since this process began. ``dropped`` is exact and survives
    it."""
    stored: int = 0
    rejected: int = 0
    truncated: int = 0
    """Payloads whose strings were cut to the limit."""
    undeclared: int = 0
    """Keys given by hand that the taxonomy lacks, and that were removed."""
    adopted: int = 0
    """Journals of dead processes that this one took over."""
    error: str | None = None
    """What stops shipping now, or None."""
    lag: float = 0.0
    """Seconds for which the oldest pending event has waited; 0 when nothing is pending."""
    settled_bytes: int = 0
    """Bytes of the rows that are stored or rejected, as JSON; by their number, the mean size."""
    journal_bytes: int = 0
    """Bytes that the journals of the directory take, those of other processes included. Segments
    are preallocated."""
    retained_bytes: int = 0
    """How many of them are kept only to be sent again after a failover; they make room on need."""
    journal_max_bytes: int = 0

    @property
    def pending(self) -> int:
        """Accepted, and neither stored nor rejected yet."""
        return self.accepted - self.stored - self.rejected

    @property
    def mean_bytes(self) -> float | None:
        """Mean size of the rows that are settled, as JSON, all columns included; None without."""
        settled = self.stored + self.rejected
        return self.settled_bytes / settled if settled and self.settled_bytes else None
