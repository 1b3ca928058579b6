"""The console exporter: writes one line an event, for development."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from tenantry.exporters import Batch, Outcome
from tenantry.record import Record, Reject


class ConsoleExporter:
    """Writes events to a stream (default: standard output) as text, or as JSON lines.

    At least once: after a crash, events of the last batch may be written again. Events with
    ``conn=`` are written at once, whatever becomes of the transaction.
    """

    fingerprint = "console"

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        """Choose the stream and the form."""
        self._stream = stream
        self._as_json = as_json

    def export(self, batch: Batch, deadline: float) -> Outcome:  # noqa: ARG002  # a stream has no deadline
        """Write the batch."""
        if self._as_json:
            self._write([line.decode() for line in (*batch.events, *batch.rejects)])
        else:
            self._write(
                [_say_record(record) for record in batch.records()]
                + [_say_reject(reject) for reject in batch.rejected()]
            )
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def insert(self, conn: object, event: bytes) -> None:  # noqa: ARG002  # there is no transaction
        """Write an event that was meant for the caller's transaction, at once."""
        self._write([event.decode() if self._as_json else _say_record(Record.from_json(event))])

    async def ainsert(self, conn: object, event: bytes) -> None:
        """Write an event that was meant for the caller's transaction, at once."""
        self.insert(conn, event)

    def _write(self, lines: list[str]) -> None:
        stream = self._stream or sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = "".join(f"{line}\n" for line in lines)
        # What the terminal's encoding lacks is escaped: failing would hold the batch for ever.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()

    def close(self) -> None:
        """Leave the stream open: it is the caller's."""


def _say_record(record: Record) -> str:
    took = "" if record.duration_ms is None else f" {record.duration_ms:.1f} ms"
    code = "" if record.error_code is None else f" {_printable(record.error_code)}"
    data = json.dumps(record.data, ensure_ascii=False)
    return (
        f"{record.created_at:%H:%M:%S.%f} {record.tenant_id} {record.name}"
        f"{took}{code} {_printable(data)}"
    )


def _say_reject(reject: Reject) -> str:
    return (
        f"{reject.created_at:%H:%M:%S.%f} {reject.tenant_id or '-'} "
        f"{_printable(reject.name or '-')} REJECTED {reject.reason}: "
        f"{_printable(reject.detail or '')}"
    )


def _printable(text: str) -> str:
    """Escape what would begin a new line, or command the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
