"""The demonstration: four processes ingest real texts, one is killed, and the books are shown.

Owns processes, the server and the scratch directory, and leaves none of them behind.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from rich.text import Text

from tenantry.cli import interrupts
from tenantry.cli.books import DiskJournal, read_books, read_journals, read_positions
from tenantry.cli.connection import EMBEDDED, opened
from tenantry.cli.demo_report import DemoReport, KillReport, print_report, read_report
from tenantry.cli.draining import drain
from tenantry.cli.output import console
from tenantry.database import embedded
from tenantry.database.connect import destination_fingerprint
from tenantry.database.migrate import migrate
from tenantry.exceptions import ConfigurationError, TenantryError
from tenantry.journal import local_process

WORKERS: Final = 3
"""Processes that share the sources and end by themselves; one more goes on until it is killed."""

FILES: Final = 500
STEP_TIMEOUT: Final = 120.0
"""Seconds that one step may take before the demonstration gives up."""

_POLL: Final = 0.02


def run_demo(folder: Path | None, *, dsn: str | None, schema: str, keep: bool) -> bool:
    """Run the demonstration and print it; True when the books balance and nothing was lost.

    ``KeyboardInterrupt`` leaves it clean: no process, no server, no scratch directory.
    """
    stack = ExitStack()
    with interrupts.terminable():
        try:
            return _Demo(stack, folder, dsn, schema, keep=keep).run()
        finally:
            with interrupts.held():
                stack.close()


class _Demo:
    """One run. What it makes is registered with ``stack`` before an interrupt can come between."""

    def __init__(
        self, stack: ExitStack, folder: Path | None, dsn: str | None, schema: str, *, keep: bool
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._own_server = dsn is None or dsn == EMBEDDED
        self._dsn = "" if dsn is None else dsn
        self._schema = schema
        self._keep = keep or dsn == EMBEDDED
        self._environment = f"demo-{uuid4().hex[:8]}"
        self._example = find_example()
        self._begun = time.monotonic()

    def run(self) -> bool:
        step(f"{datetime.now().astimezone():%Y-%m-%d}, Tenantry's demonstration")
        with interrupts.held():
            scratch = Path(tempfile.mkdtemp(prefix="tenantry-demo-"))
            self._stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        scratch.chmod(0o755)  # as root, the embedded server runs as a user of its own
        self._journals = scratch / "journal"
        self._start_database(scratch / "postgres")
        broken = make_broken_sources(scratch / "inbox")
        folders = [broken, self._folder or Path(sysconfig.get_path("stdlib"))]
        processes, victim = self._start_workers(scratch, folders)
        self._wait_for_workers(processes, scratch)
        dead = self._kill(victim)
        kill = self._recover(dead)
        report = self._read_report([*processes, victim], kill)
        print_report(report, tenants=read_tenants(self._example))
        self._say_how_to_look_further()
        return report.is_good

    # The database.

    def _start_database(self, directory: Path) -> None:
        if self._own_server:
            step("starting an embedded PostgreSQL, which nothing needs to be installed for")
            with interrupts.held():
                server = embedded.start(None if self._keep else directory)
                self._stack.callback(server.stop)
            self._dsn = server.dsn
        applied = migrate(self._dsn, schema=self._schema)
        step(f"applied {len(applied)} migrations: events live in the schema {self._schema!r}")
        self._destination = destination_fingerprint(self._dsn, self._schema)
        with opened(self._dsn, self._schema) as source:
            self._earlier = set(read_positions(source.connection, self._schema))

    # The workers.

    def _start_workers(
        self, scratch: Path, folders: list[Path]
    ) -> tuple[list[subprocess.Popen[bytes]], subprocess.Popen[bytes]]:
        processes = [
            self._start_worker(number, ["--workers", str(WORKERS)], scratch, folders)
            for number in range(WORKERS)
        ]
        victim = self._start_worker(WORKERS, ["--repeat-for", str(STEP_TIMEOUT)], scratch, folders)
        step(
            f"{WORKERS} processes share the sources of three tenants: Python's manual, the "
            f"metadata of installed packages, {folders[-1]}"
        )
        step(f"one more, {victim.pid}, reads them all, again and again")
        return processes, victim

    def _start_worker(
        self, number: int, arguments: list[str], scratch: Path, folders: list[Path]
    ) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-B", str(self._example), *map(str, folders)),
            *("--worker", str(number), *arguments),
            *("--journal", str(self._journals), "--schema", self._schema),
            *("--environment", self._environment, "--limit", str(FILES)),
        ]
        # Not on the command line, which everybody can read: the DSN may hold a password.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TENANTRY_")}
        with (scratch / f"worker-{number}.log").open("wb") as log, interrupts.held():
            process = subprocess.Popen(  # noqa: S603  # our own example, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, "TENANTRY_DSN": self._dsn},
                start_new_session=True,  # the terminal's Ctrl-C is for us, and we end them
            )
            self._stack.callback(end, process)
        return process

    def _wait_for_workers(self, processes: list[subprocess.Popen[bytes]], scratch: Path) -> None:
        wait_until(
            "the processes that share the sources do not end",
            lambda: all(process.poll() is not None for process in processes),
        )
        for number, process in enumerate(processes):
            log = (scratch / f"worker-{number}.log").read_text(errors="replace").strip()
            if process.returncode != 0:
                raise DemoFailed(f"process {process.pid} exited with {process.returncode}: {log}")
            step(log.rpartition("\n")[2])

    # The kill.

    def _kill(self, victim: subprocess.Popen[bytes]) -> DiskJournal:
        """Kill a process in the middle of its work; return its journal as it left it."""
        wait_until(
            f"process {victim.pid} is never in the middle of its work",
            lambda: self._freeze_in_mid_work(victim),
        )
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        step(f"kill -9 {victim.pid}, in the middle of its work")
        self._wait_until_sessions_are_over()
        dead = self._read_journal(victim.pid, ids=True)
        if dead is None or dead.is_live:
            raise DemoFailed(f"the journal of process {victim.pid} is not in {self._journals}")
        return dead

    def _freeze_in_mid_work(self, victim: subprocess.Popen[bytes]) -> bool:
        """Stop the process; let it go on unless it ingests and has shipped some of its events."""
        if victim.poll() is not None:
            raise DemoFailed(f"process {victim.pid} ended by itself, with {victim.returncode}")
        os.kill(victim.pid, signal.SIGSTOP)
        journal = self._read_journal(victim.pid)
        if (
            journal is not None
            and "ingest_started" in journal.open_operations
            and 0 < journal.pending < journal.accepted
        ):
            return True
        os.kill(victim.pid, signal.SIGCONT)
        return False

    def _read_journal(self, pid: int, *, ids: bool = False) -> DiskJournal | None:
        with opened(self._dsn, self._schema) as source:
            cursors = read_positions(source.connection, self._schema)
        found = read_journals(self._journals, self._destination, cursors, ids=ids)
        process = process_name(pid)
        return next((journal for journal in found if journal.process == process), None)

    def _wait_until_sessions_are_over(self) -> None:
        """Wait for the server to notice: what the dead process had sent may still be committed."""
        with opened(self._dsn, self._schema) as source:

            def is_over() -> bool:
                row = source.connection.execute(_SESSIONS).fetchone()
                return row is not None and row[0] == 0

            if self._own_server:
                wait_until("the server does not notice the dead process", is_over)

    def _recover(self, dead: DiskJournal) -> KillReport:
        step(
            f"it had accepted {dead.accepted} events; {dead.pending} of them lay in its journal "
            f"only, and {len(dead.open_operations)} operations were open"
        )
        report = drain(self._dsn, schema=self._schema, root=self._journals, timeout=STEP_TIMEOUT)
        drained = next((each for each in report.drained if each.id == dead.id), None)
        if drained is None or not report.is_complete:
            reasons = "; ".join(each.reason for each in report.remaining)
            raise DemoFailed(f"the journal of the dead process was not drained: {reasons}")
        recovered = drained.stored + drained.rejected - drained.abandoned
        step(
            f"tenantry drain: {recovered} events recovered, {drained.abandoned} operations closed "
            "as failed, with the code 'abandoned'"
        )
        return KillReport(
            process=dead.process,
            accepted=dead.accepted,
            unshipped=dead.pending,
            open_operations=len(dead.open_operations),
            recovered=recovered,
            abandoned=drained.abandoned,
            event_ids=dead.event_ids,
        )

    # The end.

    def _read_report(self, workers: list[subprocess.Popen[bytes]], kill: KillReport) -> DemoReport:
        names = {process_name(worker.pid) for worker in workers}
        with opened(self._dsn, self._schema) as source:
            books = read_books(
                source.connection,
                schema=self._schema,
                root=self._journals,
                destination=self._destination,
            )
            ours = tuple(
                journal
                for journal in books.journals
                if journal.process in names and journal.id not in self._earlier
            )
            books = replace(books, journals=ours)
            return read_report(source, self._environment, books, kill)

    def _say_how_to_look_further(self) -> None:
        step(f"done in {time.monotonic() - self._begun:.0f} s")
        schema = "" if self._schema == "tenantry" else f" --schema {self._schema}"
        if not self._own_server:
            say(f"The events stay: tenantry tail --dsn YOUR_DSN{schema}")
        elif self._keep:
            say(f"The events stay: tenantry tail --dsn embedded{schema}")
        else:
            say(
                "Nothing of this is kept. To look further: tenantry demo --keep, then "
                "tenantry tail --dsn embedded"
            )


class DemoFailed(TenantryError):
    """The demonstration could not be carried through."""


_SESSIONS: Final = """
    SELECT count(*) FROM pg_stat_activity
     WHERE application_name = 'tenantry' AND datname = current_database()
       AND pid <> pg_backend_pid()
"""


def step(text: str) -> None:
    """Print what happens now, with the time."""
    now = f"{datetime.now().astimezone():%H:%M:%S}"
    say(f"{now}  {text}")


def say(text: str) -> None:
    """Print a line."""
    console.print(Text(text), soft_wrap=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, and wait for its end."""
    if process.poll() is None:
        process.kill()
    process.wait()


def wait_until(problem: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition; raise ``DemoFailed`` with the problem after ``STEP_TIMEOUT``."""
    deadline = time.monotonic() + STEP_TIMEOUT
    while not condition():
        if time.monotonic() >= deadline:
            raise DemoFailed(f"{problem}, after {STEP_TIMEOUT:.0f} s")
        time.sleep(_POLL)  # what other processes do can only be looked at


def process_name(pid: int) -> str:
    """Name a process of this machine as journals do."""
    return f"{local_process().rpartition(':')[0]}:{pid}"


def find_example() -> Path:
    """Find the ingestion program: in the wheel, else in the repository."""
    packed = Path(str(resources.files("tenantry") / "examples" / "ingestion"))
    for directory in (packed, Path(__file__).parents[3] / "examples" / "ingestion"):
        if (directory / "__main__.py").is_file():
            return directory
    raise ConfigurationError(
        f"the demonstration's program is not in {packed}: the installation is incomplete. "
        "Install tenantry again"
    )


def read_tenants(example: Path) -> dict[str, str]:
    """Read the names of the example's tenants, by id."""
    tenants: dict[str, Any] = runpy.run_path(str(example / "sources.py"))["TENANTS"]
    return {str(tenant_id): name for name, tenant_id in tenants.items()}


def make_broken_sources(directory: Path) -> Path:
    """Make a folder of files that cannot be ingested, one of each kind."""
    directory.mkdir()
    (directory / "moved.md").symlink_to(directory / "gone.md")
    (directory / "scan.txt").write_bytes(b"%PDF-1.7\0\0\0")
    (directory / "minutes.txt").write_bytes("Geschäftsführung".encode("latin-1"))
    (directory / "export.csv").write_text("id;amount\n" * 100_000)
    return directory
