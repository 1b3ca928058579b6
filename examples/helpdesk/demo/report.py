"""What was sent, and what the help desk's events tell of it: plain SQL over them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final
from uuid import UUID

import psycopg

from helpdesk.demo.ledger import Customer, Ledger
from helpdesk.demo.output import heading, print_table

QUESTIONS: Final = Path(__file__).parents[3] / "docs" / "questions"
"""Each file is one query, printed as it stands."""


def print_load(ledger: Ledger) -> None:
    """Print what was sent and how it was answered."""
    counts: dict[tuple[str, str], int] = {}
    answers: list[tuple[str, int | None]] = [(each.kind, each.status) for each in ledger.entries]
    answers += [("Stripe's webhook", each.status) for each in ledger.webhooks]
    for kind, status in answers:
        key = (kind, "no answer" if status is None else str(status))
        counts[key] = counts.get(key, 0) + 1
    print_table(
        "What was sent over HTTP",
        ("request", "answer", "requests"),
        [(*key, count) for key, count in sorted(counts.items())],
    )


def print_events(connection: psycopg.Connection, customers: Sequence[Customer]) -> None:
    """Print how many rows of each event each tenant has."""
    found = connection.execute(
        # Of all tenants, by intention: this is the operator's view.
        "SELECT name, tenant_id::text, count(*) FROM tenantry.events GROUP BY 1, 2 ORDER BY 1"
    ).fetchall()
    rows = []
    for name, group in groupby(found, key=lambda row: row[0]):
        counts = {tenant_id: count for _, tenant_id, count in group}
        cells = [counts.get(str(customer.id), 0) for customer in customers]
        rows.append((name, *cells, sum(counts.values())))
    total = [sum(row[index] for row in rows) for index in range(1, len(customers) + 2)]
    columns = ("event", *(customer.name for customer in customers), "all")
    print_table("Events, by tenant and name", columns, [*rows, ("all", *total)])


def print_questions(connection: psycopg.Connection, customers: Sequence[Customer]) -> None:
    """Run the files of ``docs/questions`` as they stand."""
    names = {str(customer.id): customer.name for customer in customers}
    for path in sorted(QUESTIONS.glob("*.sql")):
        text = path.read_text()
        cursor = connection.execute(text.encode())
        described = cursor.description or []
        columns = [column.name.replace("tenant_id", "tenant") for column in described]
        rows = [[_shown(value, names) for value in row] for row in cursor.fetchall()]
        title = text.partition("\n")[0].removeprefix("-- ")
        print_table(f"{title}  ({path.name})", columns, rows, limit=15)


def _shown(value: object, names: Mapping[str, str]) -> object:
    """Give a tenant's name for its id, and other ids as such."""
    if str(value) in names:
        return names[str(value)]
    if isinstance(value, str) and len(value) == 36:
        with suppress(ValueError):
            return UUID(value)
    return value


def print_traces(connection: psycopg.Connection, customers: Sequence[Customer]) -> None:
    """Print two escalations, each with what the dispatcher made of it: one trace each."""
    names = {str(customer.id): customer.name for customer in customers}
    heading("Live rows: traces from a request to the tenant's endpoints, over two processes")
    for name in ("integration_succeeded", "integration_failed"):
        newest = connection.execute(
            "SELECT trace_id, tenant_id::text FROM tenantry.events"
            " WHERE name = %s AND trace_id IS NOT NULL ORDER BY created_at DESC LIMIT 1",
            [name],
        ).fetchall()
        for trace_id, tenant_id in newest:
            rows = connection.execute(
                "SELECT to_char(created_at, 'HH24:MI:SS.MS'), service, name, duration_ms,"
                " error_code, actor_id, correlation_id FROM tenantry.events"
                " WHERE tenant_id = %s AND trace_id = %s ORDER BY created_at, id",
                [tenant_id, trace_id],
            ).fetchall()
            print_table(
                f"{names[tenant_id]}, trace {trace_id}",
                ("at", "service", "event", "ms", "error", "actor", "correlation"),
                rows,
                limit=8,
            )
