"""One erasure: the journals on this machine first, then the tables, and what is left of it.

What is pending in a journal has to arrive before the tables are swept, else it would arrive
afterwards; and what was shipped is kept for some minutes to be sent again, so it has to go too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from tenantry.cli.connection import Source
from tenantry.cli.draining import drain
from tenantry.database.connect import destination_fingerprint
from tenantry.database.erase import Counts, Erased, Eraser, Subject
from tenantry.exceptions import DatabaseError
from tenantry.journal.erasing import Traces, ask_to_let_go, await_removal, find_traces


@dataclass(frozen=True, slots=True)
class Place:
    """What was found in a table, a partition or a journal, and what became of it."""

    kind: Literal["table", "partition", "detached", "journal"]
    name: str
    found: int | None
    """Rows, or lines; None where it cannot be read."""
    erased: int
    left: int | None
    reason: str = ""
    """Why something is left, and what to do."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left there."""
        return self.left == 0


@dataclass(slots=True)
class Erasure:
    """What was asked for, and what is done so far: the report."""

    subject: Subject
    destination: str
    journal_root: Path
    dry_run: bool
    login: str
    journals: int = 0
    """How many journals were read."""
    began_at: datetime | None = None
    ended_at: datetime | None = None
    """By the server's clock."""
    erased: Erased = field(default_factory=Erased)
    places: Sequence[Place] = ()
    bound_logins: Sequence[str] = ()
    unattributed: int = 0
    event_id: str | None = None
    """Of the event that records it."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left in any place."""
        return all(place.is_done for place in self.places)


@dataclass(slots=True)
class Eradication:
    """Runs one erasure."""

    source: Source
    dsn: str
    report: Erasure
    timeout: float
    """Seconds to wait for journals."""
    on_batch: Callable[[int, int], object]
    """Told how many rows are erased, of how many."""
    pause: Callable[[float], object] = time.sleep

    def look(self) -> None:
        """Find what there is; changes nothing."""
        eraser, report = self._begin()
        traces = self._find()
        counts = eraser.count()
        report.unattributed = counts.unattributed
        left = {each.id: reason for each in traces if (reason := self._known_obstacle(each))}
        report.places = [
            *_tables(counts, Erased(), counts, why=""),
            *(
                Place("journal", t.id, found, 0, found, left.get(t.id, ""))
                for t in self._relevant(traces)
                for found in [None if t.problem else _lines(t)]
            ),
        ]

    def run(self) -> None:
        """Erase; ``report`` tells at any time what is done."""
        eraser, report = self._begin()
        before = self._find()
        reasons = self._empty_journals(before)
        counts = eraser.count()
        total = _rows(counts)
        eraser.erase(report.erased, lambda erased: self.on_batch(erased.rows, total))
        after = self._find()
        left = eraser.count()
        report.unattributed = left.unattributed
        report.places = [
            *_tables(counts, report.erased, left, why=_LATECOMERS),
            *self._journal_places(before, after, reasons),
        ]
        report.event_id = eraser.prove(self._proof())
        report.ended_at = self._now()

    def _begin(self) -> tuple[Eraser, Erasure]:
        source, report = self.source, self.report
        eraser = Eraser(source.connection, source.schema, source.installed, report.subject)
        report.began_at = self._now()
        if report.subject.actor is None:
            report.bound_logins = eraser.bound_logins()
        return eraser, report

    def _find(self) -> list[Traces]:
        traces = find_traces(self.report.journal_root, self.report.subject.owns)
        self.report.journals = max(self.report.journals, len(traces))
        return traces

    def _now(self) -> datetime | None:
        self.source.allow()
        row = self.source.connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
        return None if row is None else row[0]

    # Journals.

    def _is_ours(self, traces: Traces) -> bool:
        ours = destination_fingerprint(self.dsn, self.source.schema)
        return not traces.problem and traces.destination == ours

    def _relevant(self, journals: Iterable[Traces]) -> Iterator[Traces]:
        """Leave out what holds nothing of theirs, and the unreadable lines of other services."""
        for traces in journals:
            if traces.problem or traces.count or (traces.unreadable and self._is_ours(traces)):
                yield traces

    def _known_obstacle(self, traces: Traces) -> str:
        if traces.problem:
            return f"{traces.problem.rstrip('.')}. Look into it, or remove {traces.directory}"
        if not self._is_ours(traces):
            return (
                f"it is meant for {traces.destination}. If that is this database under another "
                "name, give --dsn as its application does; else the tenant is that one's: run it "
                "there"
            )
        return ""

    def _empty_journals(self, journals: Sequence[Traces]) -> Mapping[str, str]:
        """Have everything of theirs shipped and let go; gives why dead ones remain, by id."""
        ours = [each for each in self._relevant(journals) if self._is_ours(each)]
        deadline = time.monotonic() + self.timeout
        ask_to_let_go(ours)
        reasons: dict[str, str] = {}
        if dead := [each for each in ours if not each.is_live]:
            reasons = self._drain(dead)
        await_removal(
            self.report.journal_root,
            [each for each in ours if each.id not in reasons],
            deadline=deadline,
            pause=self.pause,
        )
        return reasons

    def _drain(self, dead: Sequence[Traces]) -> dict[str, str]:
        try:
            report = drain(
                self.dsn,
                schema=self.source.schema,
                root=self.report.journal_root,
                timeout=self.timeout,
            )
        except DatabaseError as error:
            return {each.id: f"it could not be drained: {error}" for each in dead}
        return {each.journal.id: each.reason for each in report.remaining}

    def _journal_places(
        self, before: Sequence[Traces], after: Sequence[Traces], reasons: Mapping[str, str]
    ) -> Iterator[Place]:
        known = {each.id: each for each in before}
        remaining = {each.id: each for each in self._relevant(after)}
        for traces in {**{each.id: each for each in self._relevant(before)}, **remaining}.values():
            now = remaining.get(traces.id)
            if now is not None and now.problem:
                yield Place("journal", traces.id, None, 0, None, self._known_obstacle(now))
                continue
            earlier = known.get(traces.id, Traces(traces.id, traces.directory))
            left = 0 if now is None else _lines(now)
            there = set[int]() if now is None else now.segments
            gone = sum(
                earlier.lines.get(number, 0) + earlier.unreadable.get(number, 0)
                for number in earlier.segments - there
            )
            reason = "" if now is None else self._explain(now, earlier, reasons)
            yield Place("journal", traces.id, gone + left, gone, left, reason)

    def _explain(self, now: Traces, before: Traces, reasons: Mapping[str, str]) -> str:
        if obstacle := self._known_obstacle(now):
            return obstacle
        if now.id in reasons:
            return reasons[now.id]
        if not now.is_live:
            return "its process died meanwhile. Run it again"
        if now.segments & before.segments:
            return (
                f"its process, {now.process}, did not ship them and let them go in "
                f"{self.timeout:g} s. See with `tenantry stats` whether it ships, or restart it; "
                "then run it again"
            )
        if now.count == now.reminders:
            return (
                f"an operation of theirs is open in the process {now.process}, which keeps in mind "
                "how it began. Run it again when the operation has ended"
            )
        return _LATECOMERS

    def _proof(self) -> Mapping[str, object]:
        """Say what was done. An actor is a person, and is not named."""
        report = self.report
        journals = [place for place in report.places if place.kind == "journal"]
        return {
            "tenantId": report.subject.tenant,
            "scope": "tenant" if report.subject.actor is None else "actor",
            "complete": report.is_complete,
            "events": report.erased.events.total(),
            "rejectedEvents": report.erased.rejected_events,
            "eventTallies": report.erased.event_tallies,
            "ledger": report.erased.ledger,
            "detached": report.erased.detached.total(),
            "journalLines": sum(place.erased for place in journals),
            "placesLeft": sum(not place.is_done for place in report.places),
        }


_LATECOMERS = (
    "they came after it had begun, or another has locked them. See that nothing emits events of "
    "theirs any more, then run it again"
)


_NOT_THE_OWNER = (
    "it is a detached month, which only the owner of the tables can look into, and not while "
    "`tenantry maintain` runs. Run it again as the owner, or have the month dropped"
)


def _lines(traces: Traces) -> int:
    return traces.count + sum(traces.unreadable.values())


def _rows(counts: Counts) -> int:
    tables = (counts.rejected_events, counts.event_tallies, counts.ledger)
    detached = sum(rows or 0 for rows in counts.detached.values())
    return sum(counts.events.values()) + detached + sum(tables)


def _tables(before: Counts, erased: Erased, left: Counts, *, why: str) -> Iterator[Place]:
    partitions = sorted({*before.events, *erased.events, *left.events})
    for name in partitions:
        gone, rest = erased.events[name], left.events.get(name, 0)
        yield Place("partition", name, gone + rest, gone, rest, why if rest else "")
    if not partitions:
        yield Place("table", "events", 0, 0, 0)
    for name in sorted({*before.detached, *left.detached}):
        gone, unsure = erased.detached[name], left.detached.get(name, 0)
        if unsure is None:
            yield Place("detached", name, None, gone, None, _NOT_THE_OWNER)
        else:
            yield Place("detached", name, gone + unsure, gone, unsure, why if unsure else "")
    for name in ("rejected_events", "event_tallies", "ledger"):
        gone, rest = getattr(erased, name), getattr(left, name)
        yield Place("table", name, gone + rest, gone, rest, why if rest else "")
