"""A real process that emits what the test tells it, and lives until the test ends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, tenantry
from tenantry import emits, log_event, tenant
tenantry.configure(dsn=sys.argv[1], journal=sys.argv[2], service="helpdesk",
    taxonomy="tenantry.taxonomies.saas", ship_interval=0.02)
operation = None
for line in sys.stdin:
    what, whose, number = line.split()
    with tenant(whose, actor="user:7"):
        if what == "emit":
            for attempted in range(int(number)):
                log_event("quota_exceeded", quota_type="documents", limit=3, attempted=attempted)
        elif what == "open":
            operation = emits("ingest", source_type="file", url="a.txt")
            operation.__enter__()
        elif what == "end":
            operation.__exit__(None, None, None)
    print(bool(tenantry.flush(20)), flush=True)
"""


class Worker:
    def __init__(self, dsn: str, journal: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, dsn, str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, what: str, tenant: str, number: int = 1) -> None:
        """Have something done, and wait until it is stored."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {tenant} {number}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "True\n"

    def end(self) -> None:
        self._process.communicate(timeout=20)
