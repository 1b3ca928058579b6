"""The memory exporter: keeps records in a list, for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Callable

from tenantry.exporters import Batch, Outcome
from tenantry.record import Record, Reject


class MemoryExporter:
    """Keeps what it is given, for the life of the process.

    Reading ``records`` or ``rejected`` first waits (at most 5 s) until what was emitted before is
    there, so that a test needs no sleep. Events written with ``conn=`` are kept at once, whatever
    becomes of the transaction.
    """

    fingerprint = "memory"

    def __init__(self) -> None:
        """Begin empty."""
        self._records: list[Record] = []
        self._rejected: list[Reject] = []
        self._flush: Callable[[], object] | None = None

    def flush_with(self, flush: Callable[[], object]) -> None:
        """Set what waits for pending events; the pipeline calls this."""
        self._flush = flush

    @property
    def records(self) -> list[Record]:
        """The events stored so far, in order of emission."""
        self._settle()
        return list(self._records)

    @property
    def rejected(self) -> list[Reject]:
        """The events refused so far, in order of emission."""
        self._settle()
        return list(self._rejected)

    def clear(self) -> None:
        """Forget everything, what is pending included."""
        self._settle()
        self._records.clear()
        self._rejected.clear()

    def _settle(self) -> None:
        if self._flush is not None:
            self._flush()

    def export(self, batch: Batch, deadline: float) -> Outcome:  # noqa: ARG002  # never waits
        """Keep the batch; an event with an idempotency key once."""
        known = {record.id for record in self._records} if batch.may_repeat else set[str]()
        for record in batch.records():
            if record.id not in known:
                self._records.append(record)
                if batch.may_repeat:
                    known.add(record.id)
        self._rejected += batch.rejected()
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def insert(self, conn: object, event: bytes) -> None:  # noqa: ARG002  # there is no transaction
        """Keep an event that was meant for the caller's transaction."""
        self._settle()  # what was emitted before comes before it
        self._records.append(Record.from_json(event))

    async def ainsert(self, conn: object, event: bytes) -> None:
        """Keep an event that was meant for the caller's transaction."""
        self.insert(conn, event)

    def close(self) -> None:
        """Do nothing: the records stay readable."""
