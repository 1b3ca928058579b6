"""The chaos harness: gives a cell its field, and checks the same of every cell, by event id.

A cell does the damage and says what the truth is; the harness drains, checks, and measures::

    from tests.chaos.harness import Field, Truth, cell


    @cell("Death of the process", "os._exit")
    def os_exit(field: Field) -> Truth:
        count = field.scale.of(short=300, full=5_000)
        done = field.run("emit.py", field.dsn, field.journal, field.acknowledged, "_exit", count)
        assert done.code == 3, done.errors
        return Truth()  # what field.acknowledged holds is stored, and nothing else

Programs lie in ``tests/chaos/programs`` or ``tests/delivery/programs``. They write a line to
``field.acknowledged`` (O_APPEND, several may at once) AFTER the call returned:

    <id>                            ``log_event`` returned it: accepted
    open <operation_id>             an operation has begun
    closing <operation_id>          its end comes next: from here on, either end is right
    closed <operation_id>           its end has returned: completed or failed, not abandoned

Other lines are the cell's own. ``field.server`` may be stopped (``stop()``, ``control("stop", "-m",
"fast")``) and must run again when the cell returns; ``field.database`` is the cell's alone (roles
are the server's, so name those you make after ``field.database.name``). ``wait_until`` is the only
way to wait. A cell that cannot run here raises ``CannotRun(reason)``; it then shows as skipped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tenantry.cli.books import read_journals
from tenantry.database.connect import destination_fingerprint
from tenantry.database.migrate import migrate
from tenantry.journal import journal_directories
from tests.fix_postgres import Database, Server

TENANT = "018f6f0e-0000-7000-8000-000000000001"
OTHER_TENANT = "018f6f0e-0000-7000-8000-000000000002"

ROOT = Path(__file__).parents[2]
PROGRAMS = (Path(__file__).parent / "programs", ROOT / "tests" / "delivery" / "programs")

_MARK = "TENANTRY_CHAOS_FIELD"
"""In the environment of every process that a cell starts, and so of their children."""

_TEMPLATE = "chaos_template"


T = TypeVar("T")


class CannotRun(Exception):
    """A cell cannot be run on this machine; the text says why."""


def wait_until(condition: Callable[[], object], seconds: float = 30, what: str = "it") -> None:
    """Poll until it is so: what is waited for happens in another process, and tells nobody."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass within {seconds:g} s"
        threading.Event().wait(0.005)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a cell does."""

    form: Literal["short", "full"]

    def of(self, *, short: T, full: T) -> T:
        return short if self.form == "short" else full


@dataclass(frozen=True, slots=True)
class Truth:
    """What a cell knows to be so, and the harness checks. The defaults: all, once, nothing else."""

    times: int = 1
    """How often the fault came; for the matrix."""
    acknowledged: tuple[str, ...] | None = None
    """Ids that calls returned; None: those in ``field.acknowledged``."""
    more: int = 0
    """At most so many facts may be stored beyond those: accepted, and then the process died before
    it could write the id down. As many may be dropped as ``interrupted``."""
    rejected: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows of ``rejected_events`` by reason, exactly. Acknowledged ids may be among them."""
    dropped: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Drops by reason, exactly; None: any number."""
    handed: int = 0
    committed: int = 0
    """Of the handed: rows whose transaction committed."""
    sampled_out: int = 0
    repeated: int = 0
    """Replays under an idempotency key: accepted and settled, without a row."""
    in_flight: int | None = None
    """How many operations must have been closed as abandoned; None: those that the lines tell."""
    drain: Literal["command", "next process", "none"] = "command"
    """Who brings in what is left: ``tenantry drain``, a process that starts, nobody any more."""
    drain_timeout: float = 60
    waived: Mapping[str, str] = field(default_factory=dict[str, str])
    """Checks that do not hold here, by name (those of ``_CHECKS``), each with the reason."""
    note: str = ""


@dataclass(slots=True)
class Measured:
    """A row of the matrix."""

    group: str
    name: str
    times: int = 0
    emitted: int = 0
    accepted: int = 0
    handed: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    dropped: int = 0
    pending: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list[str])
    skipped: str = ""
    note: str = ""


class Program:
    """A process that a cell started, in a group of its own; what it prints goes into files."""

    def __init__(self, process: subprocess.Popen[bytes], files: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._files = files

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def output(self) -> str:
        return self._files.with_suffix(".out").read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._files.with_suffix(".err").read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is gone."""
        self.process.kill()
        self.process.wait(30)

    def kill_group(self) -> None:
        """Kill it with all children that did not leave its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(30)

    def wait(self, seconds: float = 60) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_group()
            raise AssertionError(
                f"{self._files.name} did not end within {seconds:g} s: {self.errors[-2000:]}"
            ) from None


@dataclass
class Field:
    """What a cell has to itself."""

    scale: Scale
    server: Server
    database: Database
    scratch: Path
    """A directory; removed afterwards."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    on_leave: ExitStack = field(default_factory=ExitStack)
    """What is undone before the harness drains and checks: ``field.on_leave.callback(…)``."""
    _started: list[Program] = field(default_factory=list[Program])

    @property
    def dsn(self) -> str:
        """The writer's: what an application is given."""
        return self.database.writer

    @property
    def journal(self) -> Path:
        return self.scratch / "journal"

    @property
    def acknowledged(self) -> Path:
        """The file into which programs write ids."""
        return self.scratch / "acknowledged"

    # Processes.

    def start(
        self, program: str | list[str], *arguments: object, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start one of the programs by its file name, or a command given as a list."""
        command = program if isinstance(program, list) else [sys.executable, _find(program)]
        files = self.scratch / f"{len(self._started)}-{Path(str(command[-1])).stem}"
        with (
            files.with_suffix(".out").open("wb") as output,
            files.with_suffix(".err").open("wb") as errors,
        ):
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=self.environment(**(env or {})),
                cwd=ROOT,
                start_new_session=True,
            )
        started = Program(process, files)
        self._started.append(started)
        return started

    def run(
        self,
        program: str | list[str],
        *arguments: object,
        seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start, and wait for the end."""
        started = self.start(program, *arguments, env=env)
        started.wait(seconds)
        return started

    def environment(self, **more: str) -> dict[str, str]:
        """Unmeasured: the deaths are to be real ones."""
        kept = {key: v for key, v in os.environ.items() if not key.startswith("COVERAGE")}
        kept.pop("TENANTRY_DSN", None)
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        return {**kept, "PYTHONPATH": path, _MARK: self.token, **more}

    def alive(self) -> list[int]:
        """Return the processes of this cell, those that daemonised included."""
        found: list[int] = []
        mark = f"{_MARK}={self.token}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    # What the programs wrote down.

    def lines(self) -> list[str]:
        if not self.acknowledged.exists():
            return []
        return self.acknowledged.read_text().split("\n")[:-1]

    def acknowledged_ids(self) -> list[str]:
        return [line for line in self.lines() if len(line) == 36 and " " not in line]

    def size(self) -> int:
        """Bytes that were acknowledged so far: cheap to poll; a line has 37."""
        return self.acknowledged.stat().st_size if self.acknowledged.exists() else 0

    # The database and the journals.

    def drain(self, *, timeout: float = 60, journal: Path | None = None) -> Program:
        """Run ``tenantry drain`` in a process of its own."""
        return self.run(
            [sys.executable, "-c", "from tenantry.cli import main; main()"],
            *("drain", "--dsn", self.dsn, "--journal", journal or self.journal),
            *("--timeout", timeout, "--json"),
            seconds=timeout + 30,
        )

    def journals(self, journal: Path | None = None) -> list[Path]:
        return journal_directories(journal or self.journal)

    def count(self, table: str = "events") -> int:
        return self.database.execute(f"SELECT count(*) FROM tenantry.{table}")[0][0]


def _find(program: str) -> str:
    for directory in PROGRAMS:
        if (directory / program).exists():
            return str(directory / program)
    raise FileNotFoundError(program)


# Cells.


@dataclass(frozen=True, slots=True)
class Cell:
    group: str
    name: str
    body: Callable[[Field], Truth]
    full_only: bool = False

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name}"


CELLS: dict[str, Cell] = {}


def cell(
    group: str, name: str, *, full_only: bool = False
) -> Callable[[Callable[[Field], Truth]], Callable[[Field], Truth]]:
    """Add a function to the matrix, under its group, in the order of definition."""

    def add(body: Callable[[Field], Truth]) -> Callable[[Field], Truth]:
        made = Cell(group, name, body, full_only)
        assert made.id not in CELLS, made.id
        CELLS[made.id] = made
        return body

    return add


def run_cell(chosen: Cell, server: Server, scale: Scale) -> Measured:
    """Run one cell; what is wrong is in ``problems``, and nothing is raised."""
    measured = Measured(chosen.group, chosen.name)
    begin = time.monotonic()
    with _field(server, scale) as at:
        try:
            try:
                truth = chosen.body(at)
            finally:
                at.on_leave.close()
            _settle(at, truth)
            _check(at, truth, measured)
        except CannotRun as error:
            measured.skipped = str(error)
        except Exception as error:  # noqa: BLE001  # a cell that fails is a result
            measured.problems.append(_describe(error, at))
    measured.seconds = time.monotonic() - begin
    return measured


def _describe(error: Exception, at: Field) -> str:
    said = [p.errors[-1500:] for p in at._started[-3:] if p.errors]
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return "\n".join([f"{type(error).__name__} at {where}: {error}", *said])


@contextmanager
def _field(server: Server, scale: Scale) -> Iterator[Field]:
    database = _fresh_database(server)
    scratch = Path(tempfile.mkdtemp(prefix="tenantry-chaos-"))
    at = Field(scale, server, database, scratch)
    try:
        yield at
    finally:
        with suppress(Exception):
            at.on_leave.close()
        for pid in at.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in at._started:
            with suppress(subprocess.TimeoutExpired):
                program.process.wait(10)
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(psycopg.Error), server.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name))
            )


def _fresh_database(server: Server) -> Database:
    with server.connect() as connection:
        if not _exists(connection, "pg_database", "datname", _TEMPLATE):
            _make_template(server, connection)
        name = f"chaos_{uuid.uuid4().hex[:12]}"
        query = "CREATE DATABASE {} OWNER host_owner TEMPLATE {}"
        connection.execute(sql.SQL(query).format(sql.Identifier(name), sql.Identifier(_TEMPLATE)))
    return _database(server, name)


def _exists(connection: psycopg.Connection, catalogue: str, column: str, name: str) -> bool:
    query = sql.SQL("SELECT 1 FROM {} WHERE {} = %s")
    query = query.format(sql.Identifier(catalogue), sql.Identifier(column))
    return connection.execute(query, [name]).fetchone() is not None


def _make_template(server: Server, connection: psycopg.Connection) -> None:
    roles = (("host_owner", "CREATEROLE"), ("app_writer", ""), ("app_reader", ""))
    for login, options in roles:
        if not _exists(connection, "pg_roles", "rolname", login):
            query = sql.SQL("CREATE ROLE {} LOGIN {}")
            connection.execute(query.format(sql.Identifier(login), sql.SQL(options)))
    query = sql.SQL("CREATE DATABASE {} OWNER host_owner").format(sql.Identifier(_TEMPLATE))
    connection.execute(query)
    migrate(_database(server, _TEMPLATE).owner)
    connection.execute("GRANT tenantry_writer TO app_writer")
    connection.execute("GRANT tenantry_reader TO app_reader")


def _database(server: Server, name: str) -> Database:
    def dsn(**user: str) -> str:
        return make_conninfo(server.dsn, dbname=name, **user)

    return Database(
        server=server,
        name=name,
        superuser=dsn(),
        owner=dsn(user="host_owner"),
        writer=dsn(user="app_writer"),
        reader=dsn(user="app_reader"),
    )


# Settling and checking.


def _settle(at: Field, truth: Truth) -> None:
    if "under way" not in truth.waived:
        _check_on_disk(at, truth)
    if truth.drain == "command":
        done = at.drain(timeout=truth.drain_timeout)
        assert done.code == 0, f"tenantry drain ended with {done.code}: {done.output}{done.errors}"
    elif truth.drain == "next process":
        done = at.run(
            *("next.py", at.dsn, at.journal, at.acknowledged, truth.drain_timeout),
            seconds=truth.drain_timeout + 30,
        )
        assert done.code == 0, f"the next process ended with {done.code}: {done.errors}"


def _check_on_disk(at: Field, truth: Truth) -> None:
    """Before anybody adopts them: the mapped counters and the lines of each dead journal agree."""
    destination = destination_fingerprint(at.dsn, "tenantry")
    under_way = 0
    for disk in read_journals(at.journal, destination):
        if disk.is_live or not disk.is_known_format or disk.destination != destination:
            continue
        known = disk.accepted + disk.handed + disk.sampled_out + sum(disk.dropped.values())
        assert known <= disk.emitted, f"journal {disk.id} counts more than was emitted: {disk}"
        under_way += disk.emitted - known
    assert under_way <= truth.more, f"{under_way} calls were under way, at most {truth.more} can be"


_CHECKS: dict[str, Callable[[Field, Truth, Measured, Facts], Iterator[str]]] = {}


def _checks(name: str) -> Callable[..., Any]:
    def add(body: Any) -> Any:
        _CHECKS[name] = body
        return body

    return add


@dataclass(slots=True)
class Facts:
    """What was found, read once."""

    ids: Counter[str]
    facts: set[str]
    """Ids of events of no operation."""
    rejected_ids: set[str]
    rejected: Counter[str]
    cursors: list[dict[str, Any]]
    acknowledged: list[str]
    begun: set[str]
    closing: set[str]
    closed: set[str]


def _check(at: Field, truth: Truth, measured: Measured) -> None:
    facts = _read(at, truth)
    total = Counter[str]()
    for row in facts.cursors:
        for column in ("emitted", "accepted", "handed", "sampled_out", "stored", "rejected"):
            total[column] += row[column]
        total["dropped"] += sum(row["dropped"].values())
    measured.times, measured.note = truth.times, truth.note
    measured.emitted, measured.accepted = total["emitted"], total["accepted"]
    measured.handed, measured.dropped = total["handed"], total["dropped"]
    measured.stored = sum(facts.ids.values())
    measured.duplicates = measured.stored - len(facts.ids)
    measured.rejected = sum(facts.rejected.values())
    measured.pending = total["accepted"] - total["stored"] - total["rejected"]
    for name, check in _CHECKS.items():
        if name not in truth.waived:
            measured.problems += [
                f"{name}: {problem}" for problem in check(at, truth, measured, facts)
            ]


def _read(at: Field, truth: Truth) -> Facts:
    with psycopg.connect(at.database.superuser, autocommit=True) as connection:

        def read(query: str) -> list[tuple]:
            return connection.execute(query).fetchall()

        rows = read("SELECT id::text, operation_id IS NULL FROM tenantry.events")
        rejects = read("SELECT id::text, reason FROM tenantry.rejected_events")
        cursors = [row for (row,) in read("SELECT to_jsonb(c) FROM tenantry.journal_cursors AS c")]
    words = [line.split(" ") for line in at.lines()]
    of = {
        kind: {line[1] for line in words if len(line) > 1 and line[0] == kind}
        for kind in ("open", "closing", "closed")
    }
    ids = at.acknowledged_ids() if truth.acknowledged is None else list(truth.acknowledged)
    return Facts(
        ids=Counter(row[0] for row in rows),
        facts={row[0] for row in rows if row[1]},
        rejected_ids={row[0] for row in rejects},
        rejected=Counter(row[1] for row in rejects),
        cursors=cursors,
        acknowledged=ids,
        begun=of["open"],
        closing=of["closing"],
        closed=of["closed"],
    )


@_checks("stored")
def _all_is_there(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    known = facts.ids.keys() | facts.rejected_ids
    lost = [each for each in facts.acknowledged if each not in known]
    if lost:
        yield f"{len(lost)} acknowledged events are lost, as {lost[0]}"
    lost = [each for each in facts.begun if each not in known]
    if lost:
        yield f"{len(lost)} started events are lost, as {lost[0]}"
    if len(set(facts.acknowledged)) < len(facts.acknowledged):
        yield "an id was given twice"
    more = len(facts.facts - set(facts.acknowledged))
    if more > truth.more:
        yield f"{more} facts are stored beyond those acknowledged, at most {truth.more} may be"


@_checks("once")
def _nothing_twice(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    if measured.duplicates:
        yield f"{measured.duplicates} duplicates, as {facts.ids.most_common(1)[0][0]}"
    if both := facts.ids.keys() & facts.rejected_ids:
        yield f"{len(both)} events are stored and rejected"


@_checks("books")
def _books_balance(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    dropped = Counter[str]()
    for row in facts.cursors:
        dropped.update(row["dropped"])
        rest = row["handed"] + row["sampled_out"] + sum(row["dropped"].values())
        if row["emitted"] != row["accepted"] + rest:
            yield f"emitted != accepted + handed + sampled_out + dropped: {row}"
        if row["accepted"] != row["stored"] + row["rejected"]:
            yield f"accepted != stored + rejected: {row}"
    stored = sum(row["stored"] for row in facts.cursors)
    if stored + truth.committed - truth.repeated != measured.stored:
        told = f"{stored} are said to be stored, {truth.committed} were committed"
        yield f"{told}, {measured.stored} are there"
    rejected = sum(row["rejected"] for row in facts.cursors)
    if rejected != measured.rejected:
        yield f"{rejected} are said to be rejected, {measured.rejected} are there"
    if facts.rejected != Counter(truth.rejected):
        yield f"rejected {dict(facts.rejected)}, expected {dict(truth.rejected)}"
    if measured.handed != truth.handed:
        yield f"handed {measured.handed}, expected {truth.handed}"
    sampled_out = sum(row["sampled_out"] for row in facts.cursors)
    if sampled_out != truth.sampled_out:
        yield f"sampled out {sampled_out}, expected {truth.sampled_out}"
    yield from _drops(truth, dropped)


def _drops(truth: Truth, dropped: Counter[str]) -> Iterator[str]:
    for reason in dropped.keys() | truth.dropped.keys():
        if reason == "interrupted" and reason not in truth.dropped:
            if dropped[reason] > truth.more:
                yield f"{dropped[reason]} calls were interrupted, at most {truth.more} can be"
        elif (expected := truth.dropped.get(reason, 0)) not in {None, dropped[reason]}:
            yield f"dropped {dropped[reason]} ({reason}), expected {expected}"


@_checks("tallies")
def _tallies_agree(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    there = (
        "SELECT tenant_id::text, name FROM tenantry.events UNION ALL"
        " SELECT tenant_id, name FROM tenantry.rejected_events WHERE reason = 'database'"
    )
    keys = "" if truth.committed or truth.repeated else "tenant_id, name, "
    group = "GROUP BY tenant_id, name" if keys else ""
    found = at.database.execute(f"SELECT {keys}count(*) FROM ({there}) AS t {group}")
    told = at.database.execute(
        f"SELECT {keys.replace('tenant_id', 'tenant_id::text')}coalesce(sum(accepted), 0)::bigint"
        f" FROM tenantry.event_tallies {group}"
    )
    if not keys:
        told = [(told[0][0] + truth.committed - truth.repeated,)]
    if wrong := set(told) ^ set(found):
        said = sorted(set(told) - set(found), key=str)
        yield f"said to be accepted: {said}, there: {sorted(wrong - set(said), key=str)}"


@_checks("operations")
def _operations_end_once(
    at: Field, truth: Truth, measured: Measured, facts: Facts
) -> Iterator[str]:
    rows = at.database.execute(
        "SELECT operation_id::text, array_agg(coalesce(error_code, phase))"
        " FROM tenantry.events WHERE phase IN ('completed', 'failed') GROUP BY 1"
    )
    ends: dict[str, list[str]] = dict(rows)
    started = at.database.execute(
        "SELECT operation_id::text FROM tenantry.events WHERE phase = 'started'"
    )
    wrong = [(each, ends.get(each)) for (each,) in started if len(ends.get(each, ())) != 1]
    if wrong:
        yield f"{len(wrong)} operations have not one end, as {wrong[0]}"
    open_ = facts.begun - facts.closing
    wrong = [(each, ends.get(each)) for each in open_ if ends.get(each) != ["abandoned"]]
    if wrong:
        yield f"{len(wrong)} operations in flight are not closed as abandoned, as {wrong[0]}"
    wrong = [(each, ends.get(each)) for each in facts.closed if ends.get(each) == ["abandoned"]]
    if wrong:
        yield f"{len(wrong)} operations that ended look abandoned, as {wrong[0]}"
    abandoned = sum(each == ["abandoned"] for each in ends.values())
    if truth.in_flight is not None and abandoned != truth.in_flight:
        yield f"{abandoned} operations are abandoned, expected {truth.in_flight}"
    # The end says what the start said: the same tenant, scope and keys. Of all tenants: a check.
    different = at.database.execute(
        "SELECT s.operation_id::text, s.data, e.data FROM tenantry.events AS s"
        " JOIN tenantry.events AS e USING (operation_id)"
        " WHERE s.phase = 'started' AND e.phase = 'failed' AND e.error_code = 'abandoned'"
        " AND (s.tenant_id <> e.tenant_id OR NOT e.data @> s.data"
        " OR (s.actor_id, s.correlation_id, s.parent_operation_id, s.service)"
        " IS DISTINCT FROM (e.actor_id, e.correlation_id, e.parent_operation_id, e.service))"
    )
    if different:
        yield f"{len(different)} abandoned ends differ from their starts, as {different[0]}"


@_checks("journals")
def _no_journal_left(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    if left := at.journals():
        yield f"{len(left)} journals are left, as {left[0]}"


@_checks("processes")
def _no_process_left(at: Field, truth: Truth, measured: Measured, facts: Facts) -> Iterator[str]:
    if left := at.alive():
        names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in left[:3]]
        yield f"{len(left)} processes are left, as {names}"


# The matrix.

_COLUMNS = (
    *("group", "name", "times", "emitted", "accepted", "handed", "stored", "duplicates"),
    *("rejected", "dropped", "pending", "seconds"),
)
_TITLES = {"name": "cell", "times": "how often"}


def table(rows: list[Measured]) -> str:
    """Write the matrix as a Markdown table."""
    lines = [
        "| " + " | ".join(_TITLES.get(each, each) for each in _COLUMNS) + " |",
        "|" + "|".join("---" if each in {"group", "name"} else "---:" for each in _COLUMNS) + "|",
    ]
    for row in rows:
        values = [_cell_text(row, column) for column in _COLUMNS]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _cell_text(row: Measured, column: str) -> str:
    value = getattr(row, column)
    if isinstance(value, str):
        return value
    if row.skipped:
        return "skipped" if column == "times" else ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def to_json(rows: list[Measured]) -> str:
    return json.dumps({"version": 1, "cells": [dataclasses.asdict(row) for row in rows]}, indent=2)
