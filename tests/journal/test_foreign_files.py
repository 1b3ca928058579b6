"""Files of others: where others could put a file, no journal is kept; theirs are not read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry import Pipeline
from tenantry.exceptions import JournalUnavailable
from tenantry.exporters.memory import MemoryExporter
from tenantry.journal import ForeignFile, adopt, problems_of
from tenantry.journal.files import ask_for_room, is_room_asked_for, open_file
from tenantry.shipper import Shipper
from tests.journal.journals import (
    DESTINATION,
    append_event,
    die,
    end,
    make_journal,
    rows_in,
    segment_files,
    start,
)
from tests.journal.test_adoption import Collecting

NOBODY = 65534
ID = "018f6f0e-0000-7000-8000-000000000001"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def drain(root: Path) -> list[dict]:
    exporter = Collecting()
    Shipper(exporter, None, root=root, destination=DESTINATION).drain(float("inf"))
    return exporter.events


def left_behind(root: Path) -> Path:
    """Leave a journal with two rows, as a killed process does."""
    journal = make_journal(root)
    start(journal, "A")
    append_event(journal, 1)
    return die(journal)


# The root, and what is above it.


def prepare(top: Path, *, above: int = 0o700, root: int = 0o700, is_empty: bool = False) -> Path:
    directory = top / "above" / "root"
    directory.mkdir(parents=True)
    if not is_empty:
        (directory / "something").touch()
    directory.chmod(root)
    directory.parent.chmod(above)
    return directory


UNSAFE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "anybody may write": (
        lambda top: prepare(top, root=0o777),
        r"root' may be written to by others \(mode 0777\): run `chmod go-w \S+/root`, and look at",
    ),
    "sticky": (lambda top: prepare(top, root=0o1777), r"\(mode 1777\): run `chmod go-w"),
    "its group may write": (lambda top: prepare(top, root=0o770), r"\(mode 0770\): run `chmod go"),
    "anybody may replace it": (
        lambda top: prepare(top, above=0o777),
        (
            r"above', which is above it, may be written to by everybody, who could put another "
            r"directory in the place of the journal's: run `chmod o-w \S+/above`, or `chmod \+t "
        ),
    ),
    "through a link": (
        lambda top: link(top / "link", prepare(top, root=0o777)),
        r"cannot keep a journal in '\S+/link': '\S+/above/root' may be written to by others",
    ),
}
OTHERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another user's": (
        lambda top: give_away(prepare(top)),
        rf"root' belongs to user {NOBODY}, and this process runs as user 0: run it as that user",
    ),
    "below another user's": (
        lambda top: give_away(prepare(top).parent) / "root",
        (
            rf"above', which is above it, belongs to user {NOBODY}, who could put another "
            "directory in the place of the journal's: choose a directory below those of root and "
            "of this process's user"
        ),
    ),
}


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def give_away(path: Path) -> Path:
    os.chown(path, NOBODY, -1)
    return path


@pytest.mark.parametrize(
    "make,text",
    [
        *(pytest.param(*each, id=name) for name, each in UNSAFE.items()),
        *(pytest.param(*each, id=name, marks=needs_root) for name, each in OTHERS.items()),
    ],
)
def test_directory_that_others_could_replace_or_write_to_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], text: str
):
    root = make(tmp_path)
    before = sorted((path, path.stat().st_mode) for path in tmp_path.rglob("*"))
    with pytest.raises(JournalUnavailable, match=text) as raised:
        make_journal(root)
    assert "or journal=None for memory mode" in str(raised.value)
    assert sorted((path, path.stat().st_mode) for path in tmp_path.rglob("*")) == before
    assert problems_of(root)


def test_nothing_is_made_below_a_directory_that_anybody_may_write_to(tmp_path: Path):
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(JournalUnavailable, match=r"chmod o-w \S+/above`"):
        make_journal(above / "new" / "root")
    assert list(above.iterdir()) == []


@pytest.mark.parametrize(
    "modes",
    [
        {"root": 0o755},
        {"above": 0o1777},
        {"above": 0o770},
        {"root": 0o777, "is_empty": True},
        {"root": 0o755, "is_empty": True},
    ],
    ids=str,
)
def test_directory_that_is_safe_serves(tmp_path: Path, modes: dict[str, int]):
    root = prepare(tmp_path, **modes)
    left_behind(root)
    assert problems_of(root) == []
    assert len(drain(root)) == 3
    kept = modes["root"] if "root" in modes and "is_empty" not in modes else 0o700
    assert root.stat().st_mode & 0o7777 == kept, "an empty one alone is tightened"


def test_link_to_a_safe_directory_is_followed_once(tmp_path: Path, monkeypatch):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    by_link = link(tmp_path / "link", root)
    journal = make_journal(by_link)
    by_link.unlink()
    by_link.symlink_to(elsewhere)
    assert journal.root == root
    while len(journal.segments) == 1:
        append_event(journal, 1)
    assert not elsewhere.exists()
    journal.close(remove=True)


def test_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = make_journal(Path("root"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    while len(journal.segments) == 1:
        append_event(journal, 1)
    assert len(segment_files(tmp_path / "root" / journal.id)) == 2
    journal.close(remove=True)


def test_unsafe_directory_means_memory_with_one_error(tmp_path: Path, caplog):
    root = prepare(tmp_path, root=0o777)
    caplog.set_level(logging.WARNING, "tenantry")
    with Pipeline(exporter=MemoryExporter(), open_taxonomy="*", journal=root) as pipeline:
        assert pipeline.stats().mode == "memory"
    pipeline.shutdown()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "chmod go-w" in record.getMessage()
    assert "kept in MEMORY" in record.getMessage()
    assert [path.name for path in root.iterdir()] == ["something"]


def test_unsafe_directory_is_an_error_in_strict_mode(tmp_path: Path):
    root = prepare(tmp_path, root=0o777)
    with pytest.raises(JournalUnavailable, match="may be written to by others"):
        Pipeline(exporter=MemoryExporter(), journal=root, strict=True)


# Journals of others.


def foreign_directory(root: Path, kind: str) -> Path:
    journal = left_behind(root)
    if kind == "another user's":
        give_away(journal)
    elif kind == "link":
        link(journal, journal.rename(root / "moved"))
    elif kind == "open to write":
        journal.chmod(0o777)
    else:
        shutil.rmtree(journal)
        journal.touch()
    return journal


DIRECTORIES = {
    "link": "is a link, and links are not followed here: remove it",
    "open to write": "may be written to by others (mode 0777): run `chmod go-w ",
    "regular file": "is no directory: remove it",
}


@pytest.mark.parametrize(
    "kind,text",
    [
        *(pytest.param(*each, id=each[0]) for each in DIRECTORIES.items()),
        pytest.param("another user's", f"belongs to user {NOBODY}, and", marks=needs_root),
    ],
)
def test_foreign_journal_is_left_alone_and_reported_once(
    tmp_path: Path, kind: str, text: str, caplog
):
    journal = foreign_directory(tmp_path, kind)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    caplog.set_level(logging.WARNING, "tenantry")
    exporter = Collecting()
    shipper = Shipper(exporter, None, root=tmp_path, destination=DESTINATION)
    shipper.adopt_dead()
    shipper.drain(float("inf"))
    assert exporter.events == []
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before
    (record,) = caplog.records
    assert f"the journal {journal} is left alone: {str(journal)!r} {text}" in record.getMessage()
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"{str(journal)!r} {text}")


def replace(path: Path, kind: str) -> None:
    """Put something in the place of a file."""
    aside = path.with_name(f"aside-{path.name}")
    if kind == "another user's":
        give_away(path)
    elif kind == "open to write":
        path.chmod(0o620)
    elif kind == "hard link":
        os.link(path, aside)
    elif kind == "link":
        link(path, path.rename(aside))
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)


FILES = {
    "link": "is a link, and links are not followed here",
    "fifo": "is no regular file: remove it",
    "directory": "is no regular file|Is a directory",
    "hard link": r"has 2 names \(hard links\): remove the others",
    "open to write": r"may be written to by others \(mode 0620\): run `chmod go-w ",
}


@pytest.mark.parametrize("name", ["0000000001.segment", "books", "owner.lock", "shipper.lock"])
@pytest.mark.parametrize(
    "kind,text",
    [
        *(pytest.param(*each, id=each[0]) for each in FILES.items()),
        pytest.param("another user's", f"belongs to user {NOBODY}", marks=needs_root),
    ],
)
def test_file_that_is_not_its_users_alone_is_never_read(
    tmp_path: Path, name: str, kind: str, text: str
):
    """A FIFO would block an opener for ever, and a link or a hard link leads to another file."""
    journal = left_behind(tmp_path)
    replace(journal / name, kind)
    with pytest.raises(OSError, match=text):
        adopt(journal, destination=DESTINATION)
    assert drain(tmp_path) == []
    assert os.path.lexists(journal / name)


def test_second_segment_is_checked_as_the_first_is(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=4096)
    while len(journal.segments) == 1:
        append_event(journal, 1)
    directory = die(journal)
    replace(directory / "0000000002.segment", "link")
    with pytest.raises(ForeignFile, match="is a link"):
        adopt(directory, destination=DESTINATION)
    assert drain(tmp_path) == []


def test_segment_read_again_is_checked_again(tmp_path: Path):
    journal = make_journal(tmp_path)
    append_event(journal, 1)
    (segment,) = journal.segments.values()
    segment.let_go()
    replace(segment.path, "link")
    with pytest.raises(ForeignFile, match="is a link"):
        segment.take_up()


def test_link_of_an_unfinished_journals_name_removes_nothing(tmp_path: Path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for directory in (root, elsewhere):
        directory.mkdir()
    (elsewhere / "kept").touch()
    os.utime(elsewhere, (0, 0))
    unfinished = link(root / f".{ID}", elsewhere)
    os.utime(unfinished, (0, 0), follow_symlinks=False)
    assert drain(root) == []
    assert (elsewhere / "kept").exists()


def test_file_is_made_where_there_is_none_and_nowhere_else(tmp_path: Path):
    target = tmp_path / "target"
    target.write_text("kept")
    for path in (link(tmp_path / "link", target), link(tmp_path / "new", tmp_path / "none")):
        with pytest.raises(FileExistsError):
            open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    assert target.read_text() == "kept"
    assert not (tmp_path / "none").exists()


def test_request_for_room_follows_no_link(tmp_path: Path):
    target = tmp_path / "target"
    link(tmp_path / ".crowded", target)
    ask_for_room(tmp_path)
    assert not target.exists()
    assert is_room_asked_for(tmp_path)


def test_living_journal_is_not_disturbed_by_a_check(tmp_path: Path):
    journal = make_journal(tmp_path)
    start(journal, "A")
    assert problems_of(tmp_path) == []
    end(journal, "A")
    assert len(rows_in(journal)) == 2


def test_directory_that_is_not_there_yet_has_no_problem(tmp_path: Path):
    assert problems_of(tmp_path / "new" / "root") == []
