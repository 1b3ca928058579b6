"""The command line in tests: run in this process or in one of its own, and processes that die."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

TENANT = "018f6f0e-0000-7000-8000-000000000001"
OTHER_TENANT = "018f6f0e-0000-7000-8000-000000000002"

DEADLINE = 30.0
"""Seconds that a test waits for something that takes a fraction of one."""

DYING = """
import os, signal, sys, tenantry
from tenantry import emits, log_event, tenant
tenantry.configure(dsn=sys.argv[1], journal=sys.argv[2], service="helpdesk",
    tenant_type=sys.argv[4], taxonomy="tenantry.taxonomies.saas", ship_interval=60.0)
with tenant(sys.argv[3]):
    for number in range(int(sys.argv[5])):
        log_event("quota_exceeded", quota_type="documents", limit=3, attempted=number)
    with emits("ingest", source_type="file", url="a.txt"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Command:
    """Runs the command line in this process, and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: object) -> int:
        from tenantry.cli.app import run

        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        return code

    def json(self) -> dict[str, Any]:
        parsed = json.loads(self.out)
        assert parsed["version"] == 1
        return parsed


def start_command(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from tenantry.cli import main; main()", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def die_with_events(
    dsn: str,
    journal: Path,
    *,
    tenant: str = TENANT,
    tenant_type: str = "uuid",
    facts: int = 5,
) -> None:
    """Leave the journal of a killed process: ``facts``, and the start of an open operation."""
    done = subprocess.run(
        [sys.executable, "-c", DYING, dsn, str(journal), tenant, tenant_type, str(facts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def make_row(**values: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "tenant_id": TENANT,
        "name": "message_sent",
        "created_at": "2026-11-22T10:00:00.123456+00:00",
        "data": json.dumps({"role": "user"}),
        **values,
    }


INSERT = """
    INSERT INTO tenantry.events (id, tenant_id, name, created_at, data)
    VALUES (%(id)s, %(tenant_id)s, %(name)s, %(created_at)s, %(data)s)
"""


def wait_until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, problem
        threading.Event().wait(0.01)
