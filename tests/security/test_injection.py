"""Strings that would like to be SQL: values are bound, identifiers checked and quoted."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import sql as compose

from tenantry import Pipeline, log_event, tenant
from tenantry.database.installed import Roles
from tenantry.database.migrate import migrate, sql, status
from tenantry.exceptions import ConfigurationError
from tenantry.exporters.memory import MemoryExporter
from tenantry.exporters.postgres import PostgresExporter
from tests.cli.commands import Command
from tests.exporters.batches import make_batch, make_event
from tests.fix_postgres import Database
from tests.security.tenants import OURS, SECRET, THEIRS

HOSTILE = [
    "'; DROP TABLE tenantry.events; --",
    '"; DROP TABLE tenantry.events; --',
    "' OR '1'='1",
    "' UNION SELECT * FROM tenantry.events --",
    "\\'; DROP TABLE tenantry.events; --",
    "$$; DROP TABLE tenantry.events; $$",
    "{tenant_id}",
    "%s%(name)s%%",
    ":document",
    "\u02bc; DROP TABLE x; --",
    f"{THEIRS}' OR true --",
]
IDS = [str(number) for number in range(len(HOSTILE))]
hostile = pytest.mark.parametrize("text", HOSTILE, ids=IDS)


TEXTS = ("name", "actor_id", "correlation_id", "error_code", "trace_id", "service", "environment")


@hostile
def test_value_is_stored_as_it_is(two_tenants: Database, text: str):
    event = make_event(**dict.fromkeys(TEXTS, text), data={text: text})
    exporter = PostgresExporter(two_tenants.writer)
    outcome = exporter.export(make_batch([json.dumps(event).encode()]), math.inf)
    exporter.close()
    assert outcome.stored == 1
    stored = two_tenants.execute(
        f"SELECT {', '.join(TEXTS)}, data FROM tenantry.events WHERE id = %s", [event["id"]]
    )
    assert stored == [(*[text] * len(TEXTS), {text: text})]


@hostile
def test_whole_way_from_a_call_to_a_row(two_tenants: Database, text: str, tmp_path: Path):
    """Actor, correlation, idempotency key and data of a call; psycopg2's `%s` included."""
    pipeline = Pipeline(
        dsn=two_tenants.writer, service=text, open_taxonomy=["*"], journal=tmp_path / "journal"
    )
    with pipeline, tenant(OURS, actor=text, correlation=text):
        event_id = log_event(
            "was_attacked",
            idempotency_key=text,
            occurred_at=datetime(2026, 11, 22, tzinfo=UTC),
            fields={"word": text},
        )
        assert pipeline.flush(30)
    pipeline.shutdown()
    stored = two_tenants.execute(
        "SELECT tenant_id::text, actor_id, correlation_id, service, data FROM tenantry.events"
        " WHERE id = %s",
        [event_id],
    )
    assert stored == [(OURS, text, text, text, {"word": text})]


@hostile
def test_hostile_tenant_is_no_tenant(text: str):
    exporter = MemoryExporter()
    with Pipeline(exporter=exporter, journal=None, open_taxonomy=["*"]) as pipeline:
        with tenant(text):
            assert log_event("was_attacked") is None
        pipeline.flush(30)
    assert exporter.records == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail", "--tenant"],
        ["tail", "--name"],
        ["tail", "--schema"],
        ["rejected", "list", "--tenant"],
        ["rejected", "list", "--name"],
        ["rejected", "list", "--reason"],
        ["stats", "--schema"],
        ["migrate", "status", "--schema"],
    ],
    ids=" ".join,
)
def test_command_finds_nothing_for(
    two_tenants: Database, command: Command, arguments: list[str], tmp_path: Path
):
    before = two_tenants.execute("SELECT count(*) FROM tenantry.events")
    journal = ["--journal", str(tmp_path)] if arguments[0] == "stats" else []
    dsn = two_tenants.member_of("admin")
    for text in HOSTILE:
        command(*arguments, text, "--dsn", dsn, *journal)
        assert SECRET not in command.out + command.err
    assert two_tenants.execute("SELECT count(*) FROM tenantry.events") == before


@hostile
@pytest.mark.parametrize("option", ["schema", "writer", "reader", "admin", "maintainer", "tenant"])
def test_name_is_quoted_or_refused(text: str, option: str):
    def script() -> str:
        return sql(schema=text) if option == "schema" else sql(roles=Roles(**{option: text}))

    if set(text) & set("\"'$\\{}%;"):
        with pytest.raises(ConfigurationError, match="cannot name"):
            script()
        return
    quoted = compose.Identifier(text).as_string(None)
    assert quoted in script()
    assert text not in script().replace(quoted, "").replace(f"'{text}'", "")


def test_odd_names_that_are_taken_work(empty_database: Database):
    roles = Roles(writer="drop table", reader="or 1=1 --", tenant=":document")
    migrate(empty_database.owner, schema="x; y".replace(";", ":"), roles=roles)
    assert not status(empty_database.owner, schema="x: y").pending
    empty_database.execute('GRANT "drop table" TO host_owner')
    exporter = PostgresExporter(empty_database.owner, schema="x: y")
    outcome = exporter.export(make_batch([json.dumps(make_event()).encode()]), math.inf)
    exporter.close()
    assert outcome.stored == 1


@pytest.mark.parametrize("schema", HOSTILE[:6], ids=IDS[:6])
def test_schema_of_an_exporter_is_refused(schema: str):
    with pytest.raises(ConfigurationError, match="cannot name a schema"):
        PostgresExporter("host=localhost", schema=schema)
