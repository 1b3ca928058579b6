"""What is done about each error of PostgreSQL, each provoked on a real server where that can be.

`test_code_that_a_trigger_raises` raises every code that psycopg knows within an insert. The tests
after it provoke the errors as a database in use does. Not provoked in that way are:

- 08P01, 28, 3D, 53300, 57P03 after the connection was made: only a pooler answers so; before, libpq
  passes on the text without the code, and the tests of connecting have that
- 53100, 58030: a disk that is full or failing; it takes a file system of its own
- 53200: memory that runs out; it takes a limit of the whole server's
- 25P02: nothing is sent after an error but a rollback
- 25P04: the server ends the session, and what it says of that is lost in a pipeline;
  `test_timeout_of_the_transaction` has it
- 25P03, 57P05: a server does not count the time that a session idles after a pipeline
- 40003: never raised by PostgreSQL itself; `test_answer_that_was_lost_is_found_by_the_next_attempt`
  has the doubt that it stands for
- 54011, 54023, 55006, 55P02, 0L, 0P, 0Z, 24, 26, 2B, 2D, 34, 3B, F0: no statement of a batch can
  come to it
- 57P02, 57P04, 58P01, 72, XX000, XX001: a server that crashes, or whose files are damaged;
  `test_damaged_index_is_held` has XX002
- HV: a partition on a foreign server
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.exceptions import DatabaseError, SchemaMismatch, SchemaMissing
from tenantry.exporters import Batch, Outcome, Retry
from tenantry.exporters.postgres import PostgresExporter
from tenantry.exporters.sqlstates import TABLE, UNNAMED, find, judge
from tenantry.exporters.transaction import BatchTransaction
from tests.docs.pages import DOCS
from tests.exporters.batches import make_batch, make_line
from tests.fix_postgres import Database, Proxy, Server, _empty_database, _migrated

CODES = sorted(
    {
        error.sqlstate
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and isinstance(getattr(error, "sqlstate", None), str)
    }
)
CLASSES = sorted({code[:2] for code in CODES})

# The other way round than the table: which codes are meant by each of its verdicts.
OF_THE_ROW = ("09", "10", "20", "21", "22", "23", "27", "2F", "38", "44", "54", "P0")
PASSING = ("08", "28", "3D", "40", "53", "55", "57", "58", "72")
PASSING_CODES = ("25006", "25P02", "25P03", "25P04", "HV00N")
HELD_CODES = ("54011", "54023", "55000", "55P02", "P0000")
SMALLER_CODES = ("25P04", "53200", "53400", "57014")


def expected_kind(code: str) -> str:
    if code in HELD_CODES:
        return "hold"
    if code in PASSING_CODES or code[:2] in PASSING:
        return "backoff"
    return "row" if code[:2] in OF_THE_ROW else "hold"


@pytest.fixture
def exporter(database18: Database) -> Iterator[PostgresExporter]:
    exporter = PostgresExporter(database18.writer)
    yield exporter
    exporter.close()


@pytest.fixture
def own_exporter(own_database: Database) -> Iterator[PostgresExporter]:
    exporter = PostgresExporter(own_database.writer)
    yield exporter
    exporter.close()


@pytest.fixture
def own18(postgres18: Server) -> Database:
    return _migrated(_empty_database(postgres18))


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def retry_of(outcome: Outcome) -> Retry:
    assert outcome.retry is not None, outcome
    assert (outcome.stored, outcome.rejected, outcome.resume) == (0, 0, None)
    return outcome.retry


def count(database: Database, table: str = "events") -> int:
    return database.execute(f"SELECT count(*) FROM tenantry.{table}")[0][0]


def assert_nothing_written(database: Database) -> None:
    assert [count(database, table) for table in ("events", "rejected_events")] == [0, 0]
    assert count(database, "journal_cursors") == 0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = soon()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        threading.Event().wait(0.005)


def after_begin(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something once, between the two round trips of the next batch."""
    original, pending = BatchTransaction._row_statements, [action]

    def first_act(transaction: BatchTransaction, batch: Batch):
        while pending:
            pending.pop()()
        return original(transaction, batch)

    monkeypatch.setattr(BatchTransaction, "_row_statements", first_act)


# The table.


@pytest.mark.parametrize("sqlclass", CLASSES)
def test_every_class_of_the_appendix_is_in_the_table(sqlclass: str):
    assert sqlclass in TABLE


@pytest.mark.parametrize("code", CODES)
def test_verdict(code: str):
    verdict = find(code)
    assert verdict.kind == expected_kind(code)
    assert verdict.smaller == (code in SMALLER_CODES)
    assert verdict.kind != "hold" or verdict.remedy or code == "42501"


DOCUMENTED = re.findall(
    r"^\| ([^|]+) \|[^|]+\| (sent again|held|rejected)",
    (DOCS / "reference/errors.md").read_text(),
    re.MULTILINE,
)


def test_page_on_errors_has_every_line_of_the_table():
    done = {"backoff": "sent again", "hold": "held", "row": "rejected"}
    shown = {
        code: what for cell, what in DOCUMENTED for code in re.findall(r"`(\w{2}|\w{5})`", cell)
    }
    assert shown == {code: done[verdict.kind] for code, verdict in TABLE.items()}


@pytest.mark.parametrize("code", ["ZZ000", "42ZZZ", ""])
def test_code_that_is_not_named_holds(code: str):
    assert find(code) == UNNAMED
    assert (UNNAMED.kind, UNNAMED.remedy) == ("hold", "See the server's log.")


@pytest.mark.parametrize(
    "error, kind",
    [
        (psycopg.OperationalError("consuming input failed: server closed the connection"), "lost"),
        (psycopg.InterfaceError("the connection is closed"), "lost"),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), "unsendable"),
    ],
    ids=["server gone", "closed", "unsendable"],
)
def test_error_without_a_code(error: psycopg.Error, kind: str):
    assert judge(error).kind == ("backoff" if kind == "lost" else "hold")


# Every code, raised within an insert.


@pytest.fixture
def raising_trigger(database18: Database) -> Iterator[None]:
    """Let a row raise the error whose code it carries."""
    database18.execute(
        "CREATE FUNCTION tenantry.raise_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.data ? 'raise' THEN"
        " RAISE EXCEPTION 'not today' USING ERRCODE = NEW.data->>'raise'; END IF;"
        " RETURN NEW; END $$"
    )
    database18.execute(
        "CREATE TRIGGER raise_it BEFORE INSERT ON tenantry.events"
        " FOR EACH ROW EXECUTE FUNCTION tenantry.raise_it()"
    )
    yield
    database18.execute("DROP FUNCTION tenantry.raise_it() CASCADE")


@pytest.mark.usefixtures("raising_trigger")
@pytest.mark.parametrize("sqlclass", CLASSES)
def test_code_that_a_trigger_raises(
    database18: Database, exporter: PostgresExporter, sqlclass: str
):
    for code in (code for code in CODES if code[:2] == sqlclass):
        batch = make_batch([make_line(), make_line(data={"raise": code}), make_line()])
        outcome = exporter.export(batch, soon())
        found = database18.execute("SELECT detail, data FROM tenantry.rejected_events")
        if expected_kind(code) == "row":
            assert outcome == Outcome(stored=2, rejected=1)
            assert found == [(f"{code}: not today", {"raise": code})]
            assert count(database18) == 2
        else:
            retry = retry_of(outcome)
            assert retry.reason.endswith(f"answered {code}: not today")
            assert (retry.kind, retry.smaller) == (expected_kind(code), code in SMALLER_CODES)
            assert ("of your own raised it" in retry.remedy) == (retry.kind == "hold")
            assert_nothing_written(database18)
        for table in ("events", "rejected_events", "journal_cursors"):
            database18.execute(f"DELETE FROM tenantry.{table}")


# Held until somebody acts.

HELD = {
    "column that went away": (
        "ALTER TABLE tenantry.events DROP COLUMN environment",
        ("42703", SchemaMissing, "Run: tenantry migrate --schema tenantry --tenant-type uuid"),
        "ALTER TABLE tenantry.events ADD COLUMN environment text",
    ),
    "column of another type": (
        "ALTER TABLE tenantry.events ALTER COLUMN actor_id TYPE integer USING NULL",
        ("42804", SchemaMismatch, 'Give the columns of "tenantry" the types that the migrations'),
        "ALTER TABLE tenantry.events ALTER COLUMN actor_id TYPE text",
    ),
    "column that is generated": (
        (
            "ALTER TABLE tenantry.events DROP COLUMN environment,"
            " ADD COLUMN environment text GENERATED ALWAYS AS (name) STORED"
        ),
        ("428C9", SchemaMismatch, 'Give the columns of "tenantry" the types that the migrations'),
        "ALTER TABLE tenantry.events ALTER COLUMN environment DROP EXPRESSION",
    ),
    "rule": (
        "CREATE RULE audit AS ON INSERT TO tenantry.events DO ALSO NOTIFY audit",
        ("0A000", DatabaseError, "See the server's log."),
        "DROP RULE audit ON tenantry.events",
    ),
    "view in its place": (
        (
            "ALTER TABLE tenantry.events RENAME TO kept; CREATE VIEW tenantry.events AS"
            " SELECT * FROM tenantry.kept UNION ALL SELECT * FROM tenantry.kept;"
            " GRANT INSERT ON tenantry.events TO tenantry_writer"
        ),
        ("55000", SchemaMismatch, 'Put tables back in "tenantry" where views stand'),
        "DROP VIEW tenantry.events; ALTER TABLE tenantry.kept RENAME TO events",
    ),
    "unique constraint that is deferrable": (
        (
            "ALTER TABLE tenantry.events ADD CONSTRAINT once UNIQUE (tenant_id, created_at, name)"
            " DEFERRABLE"
        ),
        ("55000", SchemaMismatch, 'Put tables back in "tenantry" where views stand'),
        "ALTER TABLE tenantry.events DROP CONSTRAINT once",
    ),
    "function that misses a privilege": (
        (
            "CREATE TABLE public.audit (); CREATE FUNCTION tenantry.f() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit DEFAULT VALUES; RETURN NEW; END';"
            " CREATE TRIGGER f BEFORE INSERT ON tenantry.events"
            " FOR EACH ROW EXECUTE FUNCTION tenantry.f()"
        ),
        ("42501", DatabaseError, "A trigger, a constraint or a function of your own raised it"),
        "DROP FUNCTION tenantry.f() CASCADE; DROP TABLE public.audit",
    ),
    "function that misses a function": (
        (
            "CREATE FUNCTION tenantry.f() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN PERFORM public.gone(); RETURN NEW; END';"
            " CREATE TRIGGER f BEFORE INSERT ON tenantry.events"
            " FOR EACH ROW EXECUTE FUNCTION tenantry.f()"
        ),
        ("42883", DatabaseError, "A trigger, a constraint or a function of your own raised it"),
        "DROP FUNCTION tenantry.f() CASCADE",
    ),
    "constraint on the rejects": (
        "ALTER TABLE tenantry.rejected_events ADD CONSTRAINT never CHECK (false)",
        ("23514", DatabaseError, 'Drop from "tenantry" what refuses the rows that Tenantry'),
        "ALTER TABLE tenantry.rejected_events DROP CONSTRAINT never",
    ),
    "constraint on the cursors": (
        (
            "ALTER TABLE tenantry.journal_cursors ADD CONSTRAINT never CHECK (true),"
            " ALTER COLUMN service SET NOT NULL"
        ),
        ("23502", DatabaseError, 'Drop from "tenantry" what refuses the rows that Tenantry'),
        (
            "ALTER TABLE tenantry.journal_cursors DROP CONSTRAINT never,"
            " ALTER COLUMN service DROP NOT NULL"
        ),
    ),
}


@pytest.mark.parametrize("trouble, expected, mend", HELD.values(), ids=HELD.keys())
def test_trouble_that_somebody_has_to_end_is_held_until_then(
    own_database: Database,
    own_exporter: PostgresExporter,
    trouble: str,
    expected: tuple[str, type[DatabaseError], str],
    mend: str,
):
    own_exporter.check(soon())  # it has a connection
    own_database.execute(trouble)
    code, error, remedy = expected
    batch = make_batch([make_line()], rejects=[make_line(reason="invalid")], may_repeat=True)
    retry = retry_of(own_exporter.export(batch, soon()))
    assert (retry.kind, retry.smaller) == ("hold", False)
    assert f"answered {code}: " in retry.reason
    assert retry.remedy.startswith(remedy)
    assert find(code).error is error or "of your own" in remedy
    own_database.execute(mend)
    assert_nothing_written(own_database)
    assert own_exporter.export(batch, soon()) == Outcome(stored=1, rejected=1)
    assert (count(own_database), count(own_database, "rejected_events")) == (1, 1)


def test_damaged_index_is_held(own_database: Database, own_exporter: PostgresExporter):
    first = make_batch([make_line()])
    own_exporter.export(first, soon())
    own_database.execute("CHECKPOINT")
    ((path,),) = own_database.execute(
        "SELECT pg_relation_filepath('tenantry.events_2026_11_tenant_id_name_created_at_idx')"
    )
    own_database.server.stop()
    try:
        with (own_database.server.data / path).open("r+b") as file:
            file.seek(8192)
            file.write(bytes(8192))
    finally:
        own_database.server.start()
    own_exporter.close()
    batch = make_batch([make_line()], start=first.end, journal_id=first.journal_id)
    retry = retry_of(own_exporter.export(batch, soon()))
    assert (retry.kind, "XX002" in retry.reason) == ("hold", True)
    assert retry.remedy == 'An index is damaged: run REINDEX SCHEMA "tenantry";'
    own_database.execute('REINDEX SCHEMA "tenantry"')
    assert own_exporter.export(batch, soon()) == Outcome(stored=1)


# Tried again until it passes.


def test_read_only_database_is_waited_for(own_database: Database, own_exporter: PostgresExporter):
    name = own_database.name
    own_database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    retry = retry_of(own_exporter.export(make_batch([make_line()]), soon()))
    assert retry.kind == "backoff"
    assert retry.remedy.startswith("If it goes on, let the DSN lead to the primary")
    with own_database.server.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert own_exporter.export(make_batch([make_line()]), soon()) == Outcome(stored=1)


@pytest.mark.parametrize(
    "setting, code, smaller",
    [("lock_timeout", "55P03", False), ("statement_timeout", "57014", True)],
)
def test_timeout_of_the_server(
    own_database: Database, own_exporter: PostgresExporter, setting: str, code: str, smaller: bool
):
    own_database.execute(f"ALTER DATABASE {own_database.name} SET {setting} = '50ms'")
    batch = make_batch([make_line()])
    with psycopg.connect(own_database.owner) as blocker:
        blocker.execute("LOCK tenantry.events")
        retry = retry_of(own_exporter.export(batch, soon()))
    assert (retry.kind, code in retry.reason, retry.smaller) == ("backoff", True, smaller)
    assert ("SET statement_timeout" in retry.remedy) == smaller
    assert own_exporter.export(batch, soon()) == Outcome(stored=1)


def test_timeout_of_the_transaction(own18: Database):
    own18.execute(f"ALTER DATABASE {own18.name} SET transaction_timeout = '50ms'")
    exporter, batch = PostgresExporter(own18.writer), make_batch([make_line()])
    with psycopg.connect(own18.owner) as blocker:
        blocker.execute("SET transaction_timeout = 0")
        blocker.execute("LOCK tenantry.journal_cursors")
        retry = retry_of(exporter.export(batch, soon()))
    assert (retry.kind, retry.smaller) == ("backoff", True)  # libpq saw no more than the end
    assert exporter.export(batch, soon()) == Outcome(stored=1)
    exporter.close()


def test_backend_that_is_terminated_within_a_batch(
    own_database: Database, own_exporter: PostgresExporter, monkeypatch
):
    def terminate() -> None:
        own_database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'tenantry' AND datname = %s",
            [own_database.name],
        )

    after_begin(monkeypatch, terminate)
    batch = make_batch([make_line()])
    assert retry_of(own_exporter.export(batch, soon())).kind == "backoff"
    assert_nothing_written(own_database)
    assert own_exporter.export(batch, soon()) == Outcome(stored=1)


@contextmanager
def in_thread(action: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


def waiting(database: Database) -> int:
    return database.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0]


def test_deadlock(own_database: Database, own_exporter: PostgresExporter, monkeypatch):
    own_database.execute(f"ALTER DATABASE {own_database.name} SET deadlock_timeout = '20ms'")
    first = make_batch([make_line()])
    own_exporter.export(first, soon())
    batch = make_batch([make_line()], start=first.end, journal_id=first.journal_id)
    with psycopg.connect(own_database.superuser) as other:
        other.execute("SET LOCAL deadlock_timeout = '10min'")  # the exporter is the victim
        other.execute("LOCK tenantry.events")
        block = "UPDATE tenantry.journal_cursors SET service = 'other'"
        thread = threading.Thread(target=lambda: other.execute(block), daemon=True)

        def get_in_the_way() -> None:
            thread.start()
            wait_until(lambda: waiting(own_database))

        after_begin(monkeypatch, get_in_the_way)
        retry = retry_of(own_exporter.export(batch, soon()))
        thread.join(20)
    assert (retry.kind, "40P01" in retry.reason) == ("backoff", True)
    assert count(own_database) == 1
    assert own_exporter.export(batch, soon()) == Outcome(stored=1)
    assert count(own_database) == 2


def test_serialization_failure(own_database: Database, own_exporter: PostgresExporter):
    own_database.execute(
        f"ALTER DATABASE {own_database.name} SET default_transaction_isolation = 'repeatable read'"
    )
    first = make_batch([make_line()])
    own_exporter.export(first, soon())
    batch = make_batch([make_line()], start=first.end, journal_id=first.journal_id)
    outcomes: list[Outcome] = []
    with psycopg.connect(own_database.superuser) as other:
        other.execute("UPDATE tenantry.journal_cursors SET service = 'other'")
        with in_thread(lambda: outcomes.append(own_exporter.export(batch, soon()))):
            wait_until(lambda: waiting(own_database))
            other.commit()
    retry = retry_of(outcomes[0])
    assert (retry.kind, "40001" in retry.reason) == ("backoff", True)
    assert own_exporter.export(batch, soon()) == Outcome(stored=1)
    assert count(own_database) == 2


def test_limit_of_the_configuration_asks_for_smaller_batches(
    own_database: Database, own_exporter: PostgresExporter
):
    for setting in ("temp_file_limit = 0", "work_mem = '64kB'"):
        own_database.execute(f"ALTER DATABASE {own_database.name} SET {setting}")
    lines = [make_line(data={"text": "x" * 2000}) for _ in range(200)]
    retry = retry_of(own_exporter.export(make_batch(lines), soon()))
    assert (retry.kind, retry.smaller, "53400" in retry.reason) == ("backoff", True, True)
    assert_nothing_written(own_database)
    assert own_exporter.export(make_batch(lines[:5]), soon()) == Outcome(stored=5)


# Connections that are not made; libpq gives no code.


@pytest.fixture
def password_required(server: Server) -> Iterator[None]:
    """Let nobody named locked_out in without a password."""
    with server.connect() as connection:
        found = connection.execute("SELECT FROM pg_roles WHERE rolname = 'locked_out'").fetchone()
        if found is None:
            connection.execute("CREATE ROLE locked_out LOGIN PASSWORD 'right'")
    file = server.data / "pg_hba.conf"
    before = file.read_text()
    file.write_text(f"local all locked_out scram-sha-256\n{before}")
    with server.connect() as connection:
        connection.execute("SELECT pg_reload_conf()")
    yield
    file.write_text(before)
    with server.connect() as connection:
        connection.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("password_required")
def test_wrong_password_is_tried_again_with_a_remedy(database: Database):
    exporter = PostgresExporter(
        make_conninfo(database.writer, user="locked_out", password="wr0ng"), connect_timeout=5
    )
    wait_until(lambda: exporter.export(make_batch(), soon()).retry)
    # The server reloads its file when it gets to it.
    wait_until(lambda: "password" in retry_of(exporter.export(make_batch(), soon())).reason.lower())
    retry = retry_of(exporter.export(make_batch(), soon()))
    assert retry.kind == "backoff"
    assert "Check the user and the password of the DSN" in retry.reason
    assert "wr0ng" not in retry.reason


def test_too_many_connections_are_waited_for(own_database: Database):
    name = own_database.name
    own_database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    exporter, batch = PostgresExporter(own_database.writer), make_batch([make_line()])
    try:
        retry = retry_of(exporter.export(batch, soon()))
    finally:
        own_database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    assert (retry.kind, "The server runs; do what it asks for" in retry.reason) == ("backoff", True)
    assert exporter.export(batch, soon()) == Outcome(stored=1)
    exporter.close()


def test_host_without_an_address_is_waited_for():
    exporter = PostgresExporter("host=db.invalid dbname=shop", connect_timeout=2)
    retry = retry_of(exporter.export(make_batch(), soon()))
    assert (retry.kind, "db.invalid:5432/shop" in retry.reason) == ("backoff", True)
    assert "the DSN names its host, port, user and database" in retry.reason


def test_server_without_tls_is_waited_for(proxy: Proxy):
    exporter = PostgresExporter(make_conninfo(proxy.dsn, sslmode="require"))
    retry = retry_of(exporter.export(make_batch(), soon()))
    assert (retry.kind, "SSL" in retry.reason) == ("backoff", True)


def test_batch_that_cannot_be_sent_is_held(database18: Database, exporter: PostgresExporter):
    retry = retry_of(exporter.export(make_batch([make_line()], service="a\0b"), soon()))
    assert (retry.kind, retry.remedy) == ("hold", "See the server's log.")
    assert retry.reason.startswith("A batch cannot be sent: PostgreSQL text fields cannot contain")
    assert_nothing_written(database18)
