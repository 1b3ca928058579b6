"""The doctor's look at the journals of this machine: whose they are, and what keeps them."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tenantry.cli.books import DiskJournal, read_journals
from tenantry.database.doctor import Finding, advised, mended_by_command
from tenantry.journal import problems_of

MOUNTS: Final = Path("/proc/self/mountinfo")
"""Linux's; elsewhere nothing is said of file systems."""

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_ON_A_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "afs", "fuse.sshfs"}
)
_NEARLY_FULL: Final = 0.8
_READABLE: Final = stat.S_IRGRP | stat.S_IROTH
_SEARCHABLE: Final = stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Expected:
    """What the journals are compared with."""

    destination: str
    schema: str
    tenant_type: str | None
    """Of the schema; None where it could not be read."""
    max_bytes: int
    unsent: float = 60.0
    """Seconds for which an event of a living process may wait."""


def examine_journals(
    root: Path, expected: Expected, clock: Callable[[], float] = time.time
) -> tuple[list[Finding], list[DiskJournal]]:
    """Look at a directory of journals; gives what was found, and the journals. Changes nothing."""
    if not root.exists():
        return [
            advised(
                "journal_root_missing",
                str(root),
                "there is no such directory: nothing has kept a journal there",
                "Pass --journal with the directory that is given to configure(), as the "
                "application's user",
            )
        ], []
    findings = [*_check_directory(root)]
    try:
        journals = read_journals(root, expected.destination)
    except OSError as error:
        findings.append(
            advised(
                "journal_unreadable",
                str(root),
                f"{type(error).__name__}: {error.strerror}",
                "Run the doctor as the application's user, and look at the disk",
            )
        )
        return findings, []
    for journal in journals:
        findings += _check_journal(journal, root, expected, clock())
    findings += _check_size(root, journals, expected)
    return findings, journals


def _check_directory(root: Path) -> Iterator[Finding]:
    for problem in _list_problems(root):
        detail, _, remedy = problem.rpartition(": ")
        yield advised("journal_unsafe", str(root), detail, remedy)
    kind = filesystem_of(root)
    if kind in _IN_MEMORY | _ON_A_NETWORK:
        why = (
            "memory, and does not outlast the machine's restart"
            if kind in _IN_MEMORY
            else ("a network, where locks and mapped files may not hold")
        )
        yield advised(
            "journal_volatile",
            str(root),
            f"it is on {kind}: {why}",
            "Choose a directory on a local disk for configure(journal=...)",
        )


def _list_problems(root: Path) -> list[str]:
    try:
        return problems_of(root)
    except OSError as error:
        return [f"it cannot be looked at ({error.strerror}): run the doctor as its user"]


def filesystem_of(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Name the type of the file system that a path is on; None where the system does not say."""
    with suppress(OSError):
        real = path.resolve()
        best, kind = -1, None
        for line in mounts.read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            # proc(5): blanks in a mount point are written as octal escapes.
            point = Path(fields.split(" ")[4].encode().decode("unicode_escape"))
            if len(point.parts) >= best and (point == real or point in real.parents):
                best, kind = len(point.parts), rest.split(" ")[0]
        return kind
    return None


def _check_journal(
    journal: DiskJournal, root: Path, expected: Expected, now: float
) -> Iterator[Finding]:
    subject = f"journal {journal.id}"
    if journal.problem:
        return  # said of the directory
    yield from _check_readable(journal, subject)
    if not journal.destination:
        yield advised(
            "journal_unreadable",
            subject,
            "its first line cannot be read: nobody knows whose it is",
            "Look at the disk, and at the file's other lines; it is left alone until it is removed",
        )
        return
    whose = f"{journal.process}, service {journal.service or 'without a name'}"
    if not journal.is_known_format:
        yield advised(
            "journal_other_format",
            subject,
            f"{whose}: another version of Tenantry wrote it",
            "Run `tenantry drain` of the version that wrote it",
        )
        return
    if journal.destination != expected.destination:
        yield advised(
            "journal_other_destination",
            subject,
            f"{whose}: it is meant for {journal.destination}",
            "Run `tenantry drain` with the DSN and schema that it is meant for",
        )
        return
    if expected.tenant_type is not None and journal.tenant_type != expected.tenant_type:
        yield advised(
            "journal_other_tenant_type",
            subject,
            f"{whose}: its tenant ids are {journal.tenant_type}, those of the schema "
            f"{expected.tenant_type}; it is held",
            "Configure the application with the schema's type, or name the schema it was meant for",
        )
    age = _describe_age(journal, now)
    if not journal.is_live:
        yield mended_by_command(
            "journal_dead",
            subject,
            f"{whose}: its process is gone, with {journal.pending} events to be sent{age}, and "
            f"{len(journal.open_operations)} operations open",
            *("tenantry", "drain", "--schema", expected.schema, "--journal", str(root)),
        )
    elif journal.pending_since is not None and now - journal.pending_since > expected.unsent:
        yield advised(
            "journal_behind",
            subject,
            f"{whose}: {journal.pending} events wait to be sent{age}",
            "Read the application's log: it says what holds the events up, and what to run",
        )


def _describe_age(journal: DiskJournal, now: float) -> str:
    if journal.pending_since is None:
        return ""
    since = datetime.fromtimestamp(journal.pending_since, UTC)
    return f", the first of {since:%Y-%m-%d %H:%M:%S} UTC, {now - journal.pending_since:.0f} s ago"


def _check_readable(journal: DiskJournal, subject: str) -> Iterator[Finding]:
    if not journal.directory.stat().st_mode & _SEARCHABLE:
        return
    readable = sorted(
        path.name for path in journal.directory.iterdir() if path.lstat().st_mode & _READABLE
    )
    if readable:
        yield mended_by_command(
            "journal_readable",
            subject,
            f"other users may read {', '.join(readable[:3])}",
            *("chmod", "-R", "go-rwx", str(journal.directory)),
        )


def _check_size(root: Path, journals: list[DiskJournal], expected: Expected) -> Iterator[Finding]:
    used = sum(journal.bytes for journal in journals)
    if used > _NEARLY_FULL * expected.max_bytes:
        yield advised(
            "journal_near_limit",
            str(root),
            f"its journals take {used >> 20} MiB of {expected.max_bytes >> 20}: past that, events "
            "are dropped, and counted",
            "See what holds the events up; raise journal_max_bytes if it is the load",
        )
