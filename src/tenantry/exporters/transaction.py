"""The transaction of one batch: its rows, its rejects, its tallies and its journal's cursor.

Finds the rows that an error is the fault of; all other errors pass through to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import pq, sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.rows import TupleRow

from tenantry.database.connect import DeadlineConnection, DeadlineReached
from tenantry.database.installed import Installed
from tenantry.exporters import BEGINNING, Batch, Outcome, Position, Retry
from tenantry.exporters.absentees import Absentees
from tenantry.exporters.host_rules import HostRules
from tenantry.exporters.salvage import salvage, strip
from tenantry.exporters.sqlstates import judge
from tenantry.exporters.statements import (
    BINARY_DOCUMENT,
    insert_events,
    insert_rejects,
    insert_tallies,
)

_LINES_PER_STATEMENT: Final = 400
"""Some 200 kB a document. With 100 the client takes half as much CPU again for a row, the server
not less (measured on 15 and 18); of documents beyond 500 kB the server reads a fifth slower."""

_Runs = tuple[bytes, Iterable[Sequence[object] | Mapping[str, object]]]
"""A statement, and the parameters of each of its runs."""

_ONCE: Final = ((),)
"""One run without parameters."""


@dataclass(slots=True)
class _Refused:
    """What one part of a batch holds that the database refuses."""

    rows: list[tuple[bytes, psycopg.Error]] = field(default_factory=list)
    absent: dict[str, psycopg.Error] = field(default_factory=dict)
    """The tenants that rows refer to and that are not there; all rows of theirs are refused."""


class JsonArray(bytes):
    """Lines as one array in the binary format of jsonb: its version, 1, and the text.

    Binary, because its length is explicit: a text parameter would end at a stray NUL.
    """

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> JsonArray:
        return cls(b"\x01[%b]" % b",".join(lines))


class _JsonArrayDumper(Dumper):
    """Sends a `JsonArray` as it is: nothing here parses or copies lines."""

    format = pq.Format.BINARY
    oid = psycopg.postgres.types["jsonb"].oid

    def dump(self, obj: bytes) -> Buffer:
        return obj


class BatchTransaction:
    """Stores batches over one connection, each in a transaction of its own.

    Two round trips a batch: one to move the cursor, which also keeps other senders of the same
    journal out, and one for the rows and the commit.
    """

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        installed: Installed,
        absentees: Absentees,
    ) -> None:
        """Compose the statements for the version of the schema that is installed."""
        connection.adapters.register_dumper(JsonArray, _JsonArrayDumper)
        tenant_type, version = installed.tenant_type, installed.version
        self._connection = connection
        self._absentees = absentees
        self._rules = HostRules(connection, schema)
        self._events = insert_events(schema, tenant_type, BINARY_DOCUMENT, version=version).encode()
        self._new_events = insert_events(
            schema, tenant_type, BINARY_DOCUMENT, version=version, may_repeat=False
        ).encode()
        self._rejects = insert_rejects(
            schema, tenant_type, BINARY_DOCUMENT, version=version
        ).encode()
        self._tallies = insert_tallies(schema, tenant_type, BINARY_DOCUMENT).encode()
        table = sql.Identifier(schema, "journal_cursors")
        self._begin_journal = _compose(_BEGIN_JOURNAL, table)
        self._move_cursor = _compose(_MOVE_CURSOR, table)
        self._read_cursor = _compose(_READ_CURSOR, table)
        self._correct_counts = _compose(_CORRECT_COUNTS, table)
        self._end_journal = _compose(_END_JOURNAL, table) if version >= _END_SINCE else None
        self._keeps_memory = False

    def store(self, batch: Batch) -> Outcome:
        """Store ``batch`` and move its cursor, or report where the cursor is.

        The cursor proves that the rows are new, so no conflict is looked for. Where rows turn out
        to be there all the same (somebody removed the cursor), it is done again, passing them over.
        """
        if len(batch.events) > _LINES_PER_STATEMENT and not self._keeps_memory:
            self._connection.execute(_KEEP_MEMORY)
            self._keeps_memory = True
        if not self._begin(batch):
            return self._resume(batch)
        try:
            if batch.may_repeat:
                self._store_repeatable(batch)
            else:
                self._pipelined([*self._row_statements(batch), (b"COMMIT", _ONCE)])
        except psycopg.Error as error:
            if not _is_caused_by_data(error):
                raise
            self._connection.execute("ROLLBACK")
            self._rules.read()
            if not self._rules.blame_row(error):
                raise
            return self._store_apart(batch)
        except _PassedOver:
            self._connection.execute("ROLLBACK")
            return self._store_apart(batch)
        if self._absentees:
            self._absentees.welcome(_tenant_of(line) for line in batch.events)
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def _store_repeatable(self, batch: Batch) -> None:
        """Store a batch that may hold repeats: rows that are passed over may be something else."""
        inserted, *_ = self._pipelined(self._row_statements(batch))
        if inserted.rowcount < len(batch.events):
            self._rules.read()
            if self._rules.have_unique:
                raise _PassedOver
        self._connection.execute("COMMIT")

    def end_journal(self, journal_id: str) -> None:
        """Note that a journal has ended; a schema that is older has no place for it."""
        if self._end_journal is not None:
            self._connection.execute(self._end_journal, [journal_id])

    def rehearse(self) -> None:
        """Run each statement of a batch without any row, so that what is missing shows."""
        nothing = Batch("00000000-0000-0000-0000-000000000000", Position(0, -1), BEGINNING, [])
        empty = (JsonArray.of([]),)
        self._begin(nothing)
        self._pipelined(
            [
                *((query, [empty]) for query in (self._events, self._rejects, self._tallies)),
                (b"ROLLBACK", _ONCE),
            ]
        )

    def _begin(self, batch: Batch) -> bool:
        """Begin, and move the cursor; False when it is not where the batch starts."""
        query = self._begin_journal if batch.start == BEGINNING else self._move_cursor
        _, moved = self._pipelined([(b"BEGIN", _ONCE), (query, [_cursor_values(batch)])])
        return moved.rowcount == 1

    def _resume(self, batch: Batch) -> Outcome:
        row = self._connection.execute(self._read_cursor, [batch.journal_id]).fetchone()
        self._connection.execute("ROLLBACK")
        if row is None:
            return Outcome(resume=BEGINNING)
        segment, offset, stored, rejected, last_rejected = row
        actual = Position(segment, offset)
        if actual == batch.end:
            # It was committed before, and the answer was lost.
            rows = len(batch.events) + len(batch.rejects)
            refused = min(last_rejected, rows)
            return Outcome(stored=rows - refused, rejected=refused)
        return Outcome(stored=stored, rejected=rejected, resume=actual)

    def _row_statements(self, batch: Batch) -> list[_Runs]:
        events = self._events if batch.may_repeat else self._new_events
        return [
            (events, _documents(batch.events)),
            (self._rejects, _documents(batch.rejects)),
            (self._tallies, _documents(_tally_lines(batch))),
        ]

    def _store_apart(self, batch: Batch) -> Outcome:
        """Store what can be stored, and find the rows that cannot: O(bad rows · log rows)."""
        if not self._begin(batch):
            return self._resume(batch)
        # A constraint that waits for the commit would not say which row it is.
        self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        insert = self._new_events if self._rules.have_unique else self._events
        refused = self._isolate(insert, batch.events)
        if refused.absent and self._absentees.must_wait_for(refused.absent):
            self._connection.execute("ROLLBACK")
            return Outcome(retry=_wait_for(refused.absent))
        bad = len(refused.rows)
        rejects = [*batch.rejects, *(salvage(line, *_explain(e)) for line, e in refused.rows)]
        stripped = [strip(line, *_explain(e)) for line, e in self._isolate_rejects(rejects)]
        bare = [_reduce_to_ascii(line) for line, _ in self._isolate_rejects(stripped)]
        if bare:
            self._connection.execute(self._rejects, [JsonArray.of(bare)])
        # A tally may count events that were refused for its own tenant id or name.
        self._isolate(self._tallies, _tally_lines(batch))
        if bad:
            self._connection.execute(
                self._correct_counts, {"bad": bad, "journal_id": batch.journal_id}
            )
        self._connection.execute("COMMIT")
        if self._absentees:
            tenants = {_tenant_of(line) for line in batch.events}
            self._absentees.welcome(tenants - refused.absent.keys())
        return Outcome(stored=len(batch.events) - bad, rejected=len(batch.rejects) + bad)

    def _isolate_rejects(self, lines: Sequence[bytes]) -> list[tuple[bytes, psycopg.Error]]:
        return self._isolate(self._rejects, lines).rows

    def _isolate(self, query: bytes, lines: Sequence[bytes]) -> _Refused:
        """Store ``lines`` by halves, in order; return those that the database refuses."""
        refused = _Refused()
        tenants: dict[bytes, str | None] = {}
        parts = [lines] if lines else []
        """What is left to do, the first part last."""
        opening = b"SAVEPOINT part"
        while parts:
            part = parts.pop()
            if refused.absent:
                tenants = tenants or {line: _tenant_of(line) for line in lines}
                part = _pass_over(part, tenants, refused)
                if not part:
                    continue
            try:
                insert = (query, [(JsonArray.of(part),)])
                self._pipelined([(opening, _ONCE), insert, (b"RELEASE SAVEPOINT part", _ONCE)])
                opening = b"SAVEPOINT part"
                continue
            except psycopg.Error as error:
                if not self._rules.blame_row(error):
                    raise
                refusal = error
            opening = b"ROLLBACK TO SAVEPOINT part"
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            kind = self._rules.find_constraint(refusal)
            tenant = _tenant_of(part[0])
            if kind == "primary key":
                continue  # it is stored already
            if kind == "tenant" and tenant is not None:
                refused.absent[tenant] = refusal
            refused.rows.append((part[0], refusal))
        if opening != b"SAVEPOINT part":
            self._connection.execute(opening)
        return refused

    def _pipelined(self, statements: Sequence[_Runs]) -> list[psycopg.Cursor[TupleRow]]:
        """Send all statements, then wait for their answers: one round trip.

        Gives a cursor a statement, whose ``rowcount`` is of all its runs: what psycopg makes for
        each call costs more than the sending.
        """
        cursors: list[psycopg.Cursor[TupleRow]] = []
        failure: psycopg.Error | DeadlineReached | None = None
        try:
            with self._connection.pipeline():
                # An error that left this block would be logged by psycopg, beside being raised.
                try:
                    for query, runs in statements:
                        cursors.append(self._connection.cursor())
                        cursors[-1].executemany(query, runs)
                except (psycopg.Error, DeadlineReached) as error:
                    failure = error
        except (psycopg.Error, DeadlineReached) as error:
            raise failure or error from None
        if failure is not None:
            raise failure
        return cursors


def _documents(lines: Sequence[bytes]) -> Iterator[tuple[JsonArray]]:
    for first in range(0, len(lines), _LINES_PER_STATEMENT):
        yield (JsonArray.of(lines[first : first + _LINES_PER_STATEMENT]),)


def primary_message(error: BaseException) -> str:
    """Return the message without DETAIL and CONTEXT, which quote rows."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return (message or str(error)).strip().partition("\n")[0]


def _is_caused_by_data(error: psycopg.Error) -> bool:
    """Say whether it is the row's own fault, which no repetition mends."""
    return judge(error).kind == "row"


class _PassedOver(Exception):
    """Rows were passed over, and not surely because they are stored already."""


def _pass_over(
    part: Sequence[bytes], tenants: Mapping[bytes, str | None], refused: _Refused
) -> Sequence[bytes]:
    """Leave out the rows of tenants that are known to be absent; they are refused untried."""
    kept: list[bytes] = []
    for line in part:
        error = refused.absent.get(tenants[line] or "")
        if error is None:
            kept.append(line)
        else:
            refused.rows.append((line, error))
    return kept


def _tenant_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["tenant_id"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None  # no row of any tenant


def _wait_for(absent: Mapping[str, psycopg.Error]) -> Retry:
    error = next(iter(absent.values()))
    whose = f"{len(absent)} tenants" if len(absent) > 1 else f"the tenant {next(iter(absent))!r}"
    return Retry("soon", f"events of {whose:.80} refer to what is not there yet: {error.sqlstate}")


def _reduce_to_ascii(line: bytes) -> bytes:
    """Write a stripped line so that a database of any encoding can hold it."""
    values = cast("dict[str, str]", json.loads(line))
    return json.dumps(
        {k: v.encode("ascii", "replace").decode() for k, v in values.items()}
    ).encode()


def _explain(error: psycopg.Error) -> tuple[str, str]:
    return error.sqlstate or "", primary_message(error)


def _tally_lines(batch: Batch) -> list[bytes]:
    """Write the tallies as JSON: the strings through an encoder, and what is ours around them."""
    quote = _ENCODER.encode
    whose = f'"journal_id":{quote(batch.journal_id)},"segment":{batch.segment:d}'
    return [
        f'{{"tenant_id":{quote(tenant_id)},"name":{quote(name)},"accepted":{accepted:d},{whose}}}'.encode()
        for (tenant_id, name), accepted in (batch.tallies or {}).items()
    ]


_ENCODER: Final = json.JSONEncoder()


def _cursor_values(batch: Batch) -> Mapping[str, Any]:
    totals = batch.totals
    return {
        "journal_id": batch.journal_id,
        "start_segment": batch.start.segment,
        "start_offset": batch.start.offset,
        "segment": batch.end.segment,
        "offset": batch.end.offset,
        "emitted": totals.emitted,
        "accepted": totals.accepted,
        "handed": totals.handed,
        "sampled_out": totals.sampled_out,
        "dropped": json.dumps(dict(totals.dropped)),
        "stored": len(batch.events),
        "rejected": len(batch.rejects),
        "service": batch.service,
        "process": batch.process,
    }


def _compose(query: LiteralString, table: sql.Identifier) -> bytes:
    return sql.SQL(query).format(table=table).as_string(None).encode()


# Statements on journal_cursors do not filter by tenant: no row of it belongs to one.
_SET: Final[LiteralString] = """
    SET segment = %(segment)s, "position" = %(offset)s, emitted = %(emitted)s,
        accepted = %(accepted)s, handed = %(handed)s, sampled_out = %(sampled_out)s,
        dropped = %(dropped)s::pg_catalog.jsonb, stored = cursor.stored + %(stored)s,
        rejected = cursor.rejected + %(rejected)s, last_rejected = %(rejected)s,
        service = %(service)s, process = %(process)s, updated_at = pg_catalog.clock_timestamp()
"""
_AT_START: Final = 'cursor.segment = %(start_segment)s AND cursor."position" = %(start_offset)s'
_MOVE_CURSOR: Final = (
    "UPDATE {table} AS cursor" + _SET + f"WHERE journal_id = %(journal_id)s AND {_AT_START}"
)
_BEGIN_JOURNAL: Final = (
    """
    INSERT INTO {table} AS cursor
        (journal_id, segment, "position", emitted, accepted, handed, sampled_out, dropped,
         stored, rejected, last_rejected, service, process)
    VALUES
        (%(journal_id)s, %(segment)s, %(offset)s, %(emitted)s, %(accepted)s, %(handed)s,
         %(sampled_out)s, %(dropped)s::pg_catalog.jsonb, %(stored)s, %(rejected)s, %(rejected)s,
         %(service)s, %(process)s)
    ON CONFLICT (journal_id) DO UPDATE
    """
    + _SET
    + f"WHERE {_AT_START}"
)
_READ_CURSOR: Final = """
    SELECT segment, "position", stored, rejected, last_rejected FROM {table} WHERE journal_id = %s
"""
_CORRECT_COUNTS: Final = """
    UPDATE {table}
    SET stored = stored - %(bad)s, rejected = rejected + %(bad)s,
        last_rejected = last_rejected + %(bad)s
    WHERE journal_id = %(journal_id)s
"""
_KEEP_MEMORY: Final = b"SELECT pg_catalog.octet_length(pg_catalog.repeat('.', 4000000))"
"""Allocates 4 MB once, so that the server's process keeps the memory of a statement for the next.

What glibc gives back to the kernel at each end of a statement comes again as page faults. It keeps
up to twice the largest block that it mapped and that was freed (its manual, M_MMAP_THRESHOLD).
Where small batches came before large ones, that is 5 to 25 % of the server's time (15 and 18);
elsewhere it does nothing.
"""
_END_SINCE: Final = 5
"""The migration that added ``ended_at``."""
_END_JOURNAL: Final = """
    UPDATE {table} SET ended_at = pg_catalog.clock_timestamp() WHERE journal_id = %s
"""
