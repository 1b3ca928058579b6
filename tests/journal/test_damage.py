"""Damaged journals: what was written wholly is recovered, and nothing is invented."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenantry.exporters import BEGINNING, Position
from tenantry.journal import tally
from tenantry.record import Kind
from tenantry.shipper import make_end
from tests.journal.journals import (
    TENANT,
    adopted,
    append_event,
    die,
    lines_in,
    lines_of,
    make_journal,
    numbers_in,
    segment_files,
    start,
)

SEGMENT = 8192
COUNT = 8


def _written(root: str) -> tuple[Path, bytes]:
    """Leave a journal of one segment behind; return its file and the lines in it."""
    journal = make_journal(Path(root), segment_bytes=SEGMENT)
    start(journal, "A")
    for number in range(1, COUNT):
        append_event(journal, number)
    (file,) = segment_files(die(journal))
    return file, file.read_bytes().rstrip(b"\0")


def _lengths(content: bytes) -> list[int]:
    return [len(line) for line in content.splitlines(keepends=True)]


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1), tail=st.sampled_from(["zeros", "truncated"]))
@example(share=1.0, tail="truncated")
def test_cut_anywhere_keeps_exactly_the_lines_before_the_cut(share: float, tail: str):
    with tempfile.TemporaryDirectory() as root:
        file, content = _written(root)
        lines = content.splitlines(keepends=True)
        cut = len(lines[0]) + round(share * (len(content) - len(lines[0])))
        zeros = bytes(SEGMENT - cut) if tail == "zeros" else b""
        file.write_bytes(content[:cut] + zeros)
        whole, end = 0, 0
        for line in lines:
            end += len(line)
            whole += end <= cut
        journal = adopted(file.parent)
        found = list(lines_in(journal, 700))
        assert [line.json for line in found] == [
            line.split(b" ", 3)[3].partition(b"\t")[0].rstrip(b"\n") for line in lines[:whole]
        ]
        assert journal.totals().accepted == whole - 1
        assert set(journal.open) == ({"A"} if whole > 1 else set())
        journal.close(remove=True)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_costs_one_line_and_makes_one_reject(position: int, bit: int):
    with tempfile.TemporaryDirectory() as root:
        file, content = _written(root)
        header = len(content.splitlines(keepends=True)[0])
        # Without the last line feed: a line that lacks it was never accepted.
        position = header + position % (len(content) - header - 1)
        flipped = content[position] ^ (1 << bit)
        damaged = content[:position] + bytes([flipped]) + content[position + 1 :]
        file.write_bytes(damaged)
        journal = adopted(file.parent)
        chunk = journal.read(BEGINNING, SEGMENT)
        assert chunk is not None
        kept = [line for line in lines_of(chunk) if line.kind != Kind.HEADER]
        originals = {
            line.split(b" ", 3)[3].partition(b"\t")[0].rstrip(b"\n")
            for line in content.splitlines()
        }
        assert {line.json for line in kept} <= originals
        merged = content[position] == ord("\n")  # two lines in one
        split = flipped == ord("\n")  # one line in two
        torn = flipped == 0  # looks like a line whose process died while it was written
        assert len(kept) == COUNT - 1 - merged
        assert len(chunk.corrupt) == (0 if torn else 2 if split else 1)
        totals = journal.totals()
        assert totals.emitted == totals.accepted + sum(totals.dropped.values())
        assert totals.accepted == len(kept) + len(chunk.corrupt)
        journal.close(remove=True)


@pytest.mark.parametrize("is_open", [False, True], ids=["no operation", "an operation to end"])
def test_damaged_line_is_in_nobodys_tally(tmp_path: Path, is_open: bool):
    journal = make_journal(tmp_path, segment_bytes=SEGMENT)
    if is_open:  # its end is written into a segment of its own, and all are mapped anew
        start(journal, "A")
    for number in range(1, COUNT):
        append_event(journal, number)
    (file,) = segment_files(die(journal))
    content = bytearray(file.read_bytes())
    content[content.index(TENANT.encode(), content.rindex(b"ingest_completed"))] ^= 1
    file.write_bytes(content)
    journal = adopted(file.parent)
    journal.close_operations(make_end)
    chunk = journal.read(Position(1, len(content.rstrip(b"\0"))), SEGMENT)  # the last batch's
    assert chunk is not None
    assert chunk.ends_segment
    assert tally(journal.segments[1]) == {(TENANT, "ingest_completed"): COUNT - 2 + is_open}
    journal.close(remove=True)


def test_torn_line_whose_end_was_written_is_passed_over(tmp_path: Path):
    file, content = _written(str(tmp_path))
    lines = content.splitlines(keepends=True)
    torn = lines[3][:40] + bytes(60) + lines[3][100:]
    file.write_bytes(b"".join([*lines[:3], torn, *lines[4:]]) + bytes(100))
    journal = adopted(file.parent)
    chunk = journal.read(BEGINNING, SEGMENT)
    assert chunk is not None
    assert chunk.corrupt == []
    assert len(lines_of(chunk)) == len(lines) - 1
    assert journal.totals().dropped == {"interrupted": 1}


def test_missing_middle_segment_costs_its_lines_alone(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=4096)
    for number in range(60):
        append_event(journal, number)
    files = segment_files(die(journal))
    files[1].unlink()
    found = numbers_in(adopted(files[0].parent))
    assert 0 < len(found) < 60
    assert found == sorted(found)


def test_damaged_header_of_the_first_of_two_segments_is_survived(tmp_path: Path):
    journal = make_journal(tmp_path, segment_bytes=4096)
    number = 0
    while len(journal.segments) < 2:
        append_event(journal, number)
        number += 1
    first = segment_files(die(journal))[0]
    content = bytearray(first.read_bytes())
    content[20] ^= 1
    first.write_bytes(content)
    assert numbers_in(adopted(first.parent)) == list(range(number))
