"""The doctor on the journals of this machine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.cli.doctor_journals import Expected, examine_journals, filesystem_of
from tenantry.database.connect import destination_fingerprint
from tenantry.database.doctor import Finding
from tests.cli.commands import TENANT, Command, die_with_events
from tests.doctor.conftest import Patient

NOWHERE = "host=/nonexistent dbname=nothing"


def look(root: Path, dsn: str = NOWHERE, **changes: object) -> list[Finding]:
    values = {
        "destination": destination_fingerprint(dsn, "tenantry"),
        "schema": "tenantry",
        "tenant_type": "uuid",
        "max_bytes": 256 << 20,
    }
    found, _ = examine_journals(root, Expected(**{**values, **changes}))
    return found


def codes(found: list[Finding]) -> list[str]:
    return [each.code for each in found]


@pytest.fixture
def server(postgres18):
    return postgres18  # nothing here is the server's doing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory of a journal whose process was killed."""
    die_with_events(NOWHERE, tmp_path / "journal")
    return tmp_path / "journal"


@pytest.fixture
def journal(root: Path) -> Path:
    (found,) = [each for each in root.iterdir() if each.is_dir()]
    return found


def test_directory_that_is_not_there_is_noted(tmp_path: Path):
    assert codes(look(tmp_path / "nothing")) == ["journal_root_missing"]


def test_empty_directory_is_well(tmp_path: Path):
    (tmp_path / "journal").mkdir(mode=0o700)
    assert look(tmp_path / "journal") == []


def test_dead_journal_is_found_and_drained(patient: Patient, tmp_path: Path, command: Command):
    dsn = patient.database.writer
    die_with_events(dsn, tmp_path / "my journal")
    (found,) = look(tmp_path / "my journal", dsn)
    assert found.code == "journal_dead"
    assert re.search(r"service helpdesk: its process is gone, with 6 events", found.detail)
    assert re.search(r"the first of [\d: -]+ UTC, \d+ s ago, and 1 operations open", found.detail)
    _, *arguments = shlex.split(found.remedy)
    assert command(*arguments, "--dsn", dsn) == 0
    assert look(tmp_path / "my journal", dsn) == []


def test_looking_changes_no_file(root: Path):
    def read() -> list[tuple[Path, bytes, float]]:
        return [
            (path, path.read_bytes(), path.stat().st_mtime)
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]

    before = read()
    look(root)
    assert read() == before


def test_journal_of_a_living_process_is_well_until_it_falls_behind(tmp_path: Path):
    with (
        Pipeline(dsn=NOWHERE, journal=tmp_path / "journal", open_taxonomy="*") as pipeline,
        tenant(TENANT),
    ):
        log_event("x")
        try:
            assert look(tmp_path / "journal") == []
            (found,) = look(tmp_path / "journal", unsent=-1.0)
            assert (found.code, "1 events wait" in found.detail) == ("journal_behind", True)
        finally:
            pipeline.shutdown(0)


def test_journal_for_another_destination_is_noted(root: Path):
    (found,) = look(root, "host=/elsewhere dbname=other")
    assert found.code == "journal_other_destination"
    assert "it is meant for /nonexistent:5432/nothing/tenantry" in found.detail


def test_journal_of_another_tenant_type_is_found(root: Path):
    found = look(root, tenant_type="bigint")
    assert codes(found) == ["journal_other_tenant_type", "journal_dead"]
    assert "its tenant ids are uuid, those of the schema bigint" in found[0].detail


def rewrite_header(journal: Path, replace: tuple[bytes, bytes]) -> None:
    from tenantry.record import Kind, format_line, parse_line

    segment = min(journal.glob("*.segment"))
    first, _, rest = segment.read_bytes().partition(b"\n")
    line = parse_line(first)
    assert line is not None
    text = line.json if isinstance(line.json, str) else bytes(line.json).decode()
    old, new = (each.decode() for each in replace)
    assert old in text
    segment.write_bytes(format_line(Kind.HEADER, line.sequence, text.replace(old, new)) + rest)


def test_journal_of_a_newer_format_is_found(root: Path, journal: Path):
    from tenantry.record import LINE_FORMAT

    old = f'"format": {LINE_FORMAT}'.encode()
    rewrite_header(journal, (old, b'"format": 99'))
    assert codes(look(root)) == ["journal_other_format"]


def test_journal_whose_first_line_is_damaged_is_found(root: Path, journal: Path):
    segment = min(journal.glob("*.segment"))
    content = segment.read_bytes()
    segment.write_bytes(b"!" + content[1:])
    assert codes(look(root)) == ["journal_unreadable"]


def test_journals_near_their_limit_are_found(root: Path):
    found = look(root, max_bytes=300_000)
    assert "journal_near_limit" in codes(found)
    assert "journal_near_limit" not in codes(look(root))


def run_chmod(remedy: str) -> None:
    (command,) = re.findall(r"chmod [^`,]*[^`, ]", remedy)[:1]
    subprocess.run(shlex.split(command), check=True)


def test_directory_that_others_may_write_to_is_found_and_closed(root: Path):
    root.chmod(0o777)
    found = [each for each in look(root) if each.code == "journal_unsafe"]
    assert [each.subject for each in found] == [str(root)]
    run_chmod(found[0].remedy)
    assert "journal_unsafe" not in codes(look(root))


def test_journal_that_others_may_write_to_is_found_and_closed(root: Path, journal: Path):
    journal.chmod(0o770)
    (found,) = [each for each in look(root) if each.code == "journal_unsafe"]
    assert str(journal) in found.detail
    run_chmod(found.remedy)
    assert "journal_unsafe" not in codes(look(root))


def test_parent_that_everybody_may_write_to_is_found_and_closed(tmp_path: Path):
    (tmp_path / "open" / "journal").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(0o777)
    (found,) = look(tmp_path / "open" / "journal")
    assert found.code == "journal_unsafe"
    run_chmod(found.remedy)
    assert look(tmp_path / "open" / "journal") == []


def test_link_in_the_place_of_a_journal_is_found(root: Path, journal: Path, tmp_path: Path):
    journal.rename(tmp_path / "moved")
    journal.symlink_to(tmp_path / "moved")
    (found,) = look(root)
    assert (found.code, "is a link" in found.detail) == ("journal_unsafe", True)


def test_journal_that_others_may_read_is_found_and_closed(root: Path, journal: Path):
    journal.chmod(0o755)
    (journal / "books").chmod(0o644)
    (found,) = [each for each in look(root) if each.code == "journal_readable"]
    assert "other users may read books" in found.detail
    subprocess.run(shlex.split(found.remedy), check=True)
    assert "journal_readable" not in codes(look(root))


def test_journals_in_memory_are_found():
    if filesystem_of(Path("/dev/shm")) != "tmpfs" or not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs on /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (found,) = [each for each in look(Path(directory)) if each.code == "journal_volatile"]
    assert "it is on tmpfs: memory" in found.detail


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /mnt/my\\040share rw shared:2 - nfs4 server:/export rw
31 30 0:27 / /mnt/my\\040share/local rw - xfs /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    "path,kind",
    [
        ("/var/lib/tenantry", "ext4"),
        ("/mnt/my share/journal", "nfs4"),
        ("/mnt/my share/local/journal", "xfs"),
        ("/mnt/my share-not", "ext4"),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path, path: str, kind: str):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert filesystem_of(Path(path), tmp_path / "mountinfo") == kind


def test_file_system_is_unknown_where_the_system_does_not_say(tmp_path: Path):
    assert filesystem_of(tmp_path, tmp_path / "nothing") is None


def test_age_is_that_of_the_first_event_that_waits(root: Path):
    clock = time.time() + 3600
    values = Expected(destination_fingerprint(NOWHERE, "tenantry"), "tenantry", None, 256 << 20)
    (found,), (journal,) = examine_journals(root, values, lambda: clock)
    assert journal.pending_since is not None
    assert f"{clock - journal.pending_since:.0f} s ago" in found.detail
