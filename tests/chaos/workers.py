"""Leads processes of ``programs/database_worker.py``: tells them what to do, and ends them."""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.harness import Field, wait_until

logging.getLogger("tenantry").addHandler(logging.NullHandler())  # a drain says what it meets

PROGRAM = Path(__file__).parent / "programs" / "database_worker.py"


class Worker:
    """One process of a cell; call it with a command. It does not outlive its ``with`` block.

    At the end of the block it exits as a program does that never flushes. What it emits is written
    into ``field.acknowledged``. ``own`` replaces constants of the shipper.
    """

    def __init__(
        self,
        field: Field,
        *,
        dsn: str | None = None,
        journal: Path | None = None,
        own: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        configuration = {
            "dsn": dsn or field.dsn,
            "journal": str(journal or field.journal),
            "acknowledged": str(field.acknowledged),
            "own": dict(own or {}),
            **options,
        }
        self._errors = (field.scratch / "workers.err").open("a+")
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, json.dumps(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            start_new_session=True,
            env=field.environment(),
            cwd="/",
        )
        self.pid = self._process.pid

    def __call__(self, do: str, **arguments: Any) -> Any:
        self.tell(do, **arguments)
        return self.answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a command, and do not wait for its answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer says so
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")

    def answer(self, seconds: float = 120) -> Any:
        """Wait for the answer to the oldest command that has none."""
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], seconds)
        assert ready, f"no answer in {seconds} s: {self.said()}"
        line = output.readline()
        assert line, f"it ended with {self._process.wait(10)}: {self.said()}"
        return json.loads(line)

    def said(self) -> str:
        """Return what was written to standard error, by all workers of the cell."""
        self._errors.seek(0)
        return self._errors.read()[-3000:]

    def end(self, seconds: float = 60) -> int:
        """Let the program end without flushing; returns its exit status."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None and self._process.poll() is None:
                status = self.end()
                assert status == 0, f"it ended with {status}: {self.said()}"
        finally:
            self.kill()
            for each in (self._process.stdin, self._process.stdout, self._errors):
                with suppress(OSError):
                    each.close()


def count_out_of_order(field: Field) -> int:
    """Count facts that are stored before one that the same thread emitted earlier.

    Workers that emit at the same time are told apart by their ``service``. Of all tenants: a check.
    """
    return field.database.execute(
        "SELECT count(*) FROM (SELECT id, lag(id) OVER (PARTITION BY service, data->>'thread'"
        " ORDER BY recorded_at, id) AS before FROM tenantry.events WHERE operation_id IS NULL)"
        " AS facts WHERE id < before"
    )[0][0]


def settle(field: Field, worker: Worker, seconds: float = 60) -> None:
    """Flush until all is settled, and see that it is there in order."""
    report = worker("flush", timeout=seconds)
    assert report["settled"], report
    assert (out_of_order := count_out_of_order(field)) == 0, f"{out_of_order} are out of order"


def await_trouble(worker: Worker, text: str, seconds: float = 30) -> None:
    """Wait until the worker's stats tell of a trouble with ``text`` in it."""
    wait_until(lambda: text in (worker("stats")["error"] or ""), seconds, f"the trouble {text!r}")
