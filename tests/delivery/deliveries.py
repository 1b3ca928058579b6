"""What the tests of delivery share: programs that are run, and what arrived of their events."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tenantry.exporters.postgres import PostgresExporter
from tenantry.shipper import Shipper
from tests.fix_postgres import Database

TENANT = "018f6f0e-0000-7000-8000-000000000001"
PROGRAMS = Path(__file__).parent / "programs"


def start_program(name: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process group of its own, unmeasured: its deaths are to be real ones."""
    return subprocess.Popen(
        [sys.executable, PROGRAMS / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")},
        start_new_session=True,
    )


def run_program(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    process = start_program(name, *arguments)
    try:
        output, errors = process.communicate(timeout=45)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # its children must not write into the next test
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def drain(root: Path, dsn: str, seconds: float = 30) -> bool:
    exporter = PostgresExporter(dsn)
    shipper = Shipper(exporter, None, root=root, destination=exporter.fingerprint)
    return shipper.drain(time.monotonic() + seconds)


def stored_ids(database: Database) -> list[str]:
    """Return the ids of all events, in the order in which their process emitted them."""
    return [str(row[0]) for row in database.execute("SELECT id FROM tenantry.events ORDER BY id")]


def acknowledged(file: Path) -> list[str]:
    """Return the ids that a program wrote down after ``log_event`` had returned them."""
    return [line for line in file.read_text().split("\n") if len(line) == 36]


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        threading.Event().wait(0.01)


def assert_books_balance(database: Database) -> None:
    """Compare what the journals say with what is there."""
    (books,) = database.execute(
        "SELECT sum(stored), sum(rejected), sum(accepted), sum(emitted), sum(handed),"
        " sum(sampled_out), sum((SELECT coalesce(sum(n::bigint), 0)"
        " FROM jsonb_each_text(dropped) AS d(reason, n)))"
        " FROM tenantry.journal_cursors"
    )
    stored, rejected, accepted, emitted, handed, sampled_out, dropped = map(int, books)
    assert stored == database.execute("SELECT count(*) FROM tenantry.events")[0][0]
    assert rejected == database.execute("SELECT count(*) FROM tenantry.rejected_events")[0][0]
    assert accepted == stored + rejected
    assert emitted == accepted + handed + sampled_out + dropped
