"""Tenantry's own books, as the command ``tenantry stats`` tells them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpdesk.demo.output import print_table, say
from helpdesk.demo.processes import DemoFailed, inherited


def find_command() -> str:
    """Find the command ``tenantry``: beside this Python, else on the path."""
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = shutil.which("tenantry", path=scripts)
    if command is None:
        raise DemoFailed("the command tenantry is not installed")
    return command


def read_stats(dsn: str, journal: Path) -> dict[str, Any]:
    """Run ``tenantry stats --json``, as anybody would."""
    done = subprocess.run(  # noqa: S603  # our own command
        [find_command(), "stats", "--json"],
        env={**inherited(), "TENANTRY_DSN": dsn, "TENANTRY_JOURNAL": str(journal)},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    if done.returncode > 1:  # 1: a journal does not balance, which the report shows
        raise DemoFailed(f"tenantry stats: {done.stderr}")
    stats: dict[str, Any] = json.loads(done.stdout)
    return stats


@dataclass(frozen=True, slots=True)
class Journal:
    """The books of one process."""

    process: str
    role: str
    emitted: int
    accepted: int
    handed: int
    sampled_out: int
    dropped: int
    stored: int
    rejected: int
    pending: int

    @property
    def balances(self) -> bool:
        """Whether both equations hold."""
        known = self.accepted + self.handed + self.sampled_out + self.dropped
        return self.emitted == known and self.accepted == (
            self.stored + self.rejected + self.pending
        )


def read_books(stats: Mapping[str, Any], role: Callable[[int, str], str]) -> list[Journal]:
    """Read the books out of what ``tenantry stats --json`` printed."""
    journals = []
    for each in stats["journals"]:
        pid = each["process"].rpartition(":")[2]
        counts = {
            name: each[name]
            for name in (
                *("emitted", "accepted", "handed", "sampled_out"),
                *("stored", "rejected", "pending"),
            )
        }
        dropped = sum(each["dropped"].values())
        journals.append(
            Journal(pid, role(int(pid), each["service"] or ""), dropped=dropped, **counts)
        )
    return journals


def print_books(journals: Sequence[Journal], killed: int, abandoned: int) -> None:
    """Print a line for each journal, and what the kill did."""
    rows = [_line(journal.process, journal.role, journal) for journal in journals]
    totals = [sum(column) for column in zip(*(row[2:-1] for row in rows), strict=True)]
    balanced = all(journal.balances for journal in journals)
    marked = [index for index, each in enumerate(journals) if each.process == str(killed)]
    print_table(
        "The books: emitted = accepted + handed + sampled out + dropped,"
        " accepted = stored + rejected + pending",
        (
            *("process", "role", "emitted", "accepted", "handed", "sampled out", "dropped"),
            *("stored", "rejected", "pending", "balance"),
        ),
        [*rows, ["total", "", *totals, _mark(balanced)]],
        marked=marked,
    )
    for journal in journals:
        if journal.process == str(killed):
            say(
                f"kill -9 {killed}: it had accepted {journal.accepted - abandoned} events, and"
                f" handed {journal.handed} over to transactions of its requests. Another process"
                f" took its journal over, and closed {abandoned} operations as abandoned."
            )


def _line(process: str, role: str, journal: Journal) -> list[Any]:
    return [
        *(process, role, journal.emitted, journal.accepted, journal.handed, journal.sampled_out),
        *(journal.dropped, journal.stored, journal.rejected, journal.pending),
        _mark(journal.balances),
    ]


def _mark(holds: bool) -> str:  # noqa: FBT001  # its only argument
    return "ok" if holds else "NO"
