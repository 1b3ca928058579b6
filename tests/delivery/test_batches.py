"""Batches: what is made of the lines of a journal, however many are read at once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.batches import BATCH_BYTES, Lane, make_batch
from tenantry.exporters import Batch, Position
from tenantry.journal import Chunk, Journal, close_line, tally
from tenantry.record import Kind, format_line
from tests.journal.journals import TENANT, append_event, end, make_journal, make_json, start

SEGMENT = 4096
TENANTS = st.one_of(
    st.sampled_from([TENANT, 'a"b', "a\\", '\\"', "é", '","tenant_id":7', ""]),
    st.text(max_size=5),
    st.integers(1, 2**63 - 1),
)


def read(lane: Lane) -> Chunk:
    chunk = lane.journal.read(lane.position, lane.batch_bytes)
    assert chunk is not None
    return chunk


def batches_of(lane: Lane) -> list[Batch]:
    """Make all batches there are, each settled."""
    batches: list[Batch] = []
    while (chunk := lane.journal.read(lane.position, lane.batch_bytes)) is not None:
        batches.append(make_batch(lane, chunk))
        lane.go_to(chunk.end)
    return batches


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.tuples(TENANTS, st.sampled_from(["seen", "sold"])), min_size=1, max_size=40),
    sizes=st.lists(st.integers(1, SEGMENT), min_size=1, max_size=9),
    begin=st.integers(0, 3),
)
def test_tallies_are_those_of_the_whole_segment_however_it_is_read(rows, sizes, begin):
    """In parts of any size, each made twice as after a failure, from its beginning or later on."""
    with tempfile.TemporaryDirectory() as root:
        journal = make_journal(Path(root), segment_bytes=SEGMENT)
        for number, (tenant, name) in enumerate(rows):
            append_event(journal, number, tenant_id=tenant, name=name)
        journal.seal()
        lane = Lane(journal)
        for _ in range(begin):
            chunk = journal.read(lane.position, 1)
            if chunk is None or chunk.ends_segment:
                break
            lane.go_to(chunk.end)
        expected = {number: tally(each) for number, each in journal.segments.items()}
        found = {}
        while (chunk := journal.read(lane.position, sizes[0])) is not None:
            again = make_batch(lane, journal.read(lane.position, sizes[-1]) or chunk)
            batch = make_batch(lane, chunk)
            assert again.start == batch.start
            if batch.tallies is not None:
                found[batch.segment] = batch.tallies
            lane.go_to(chunk.end)
            sizes = [*sizes[1:], sizes[0]]
        assert found == expected
        journal.close(remove=True)


def test_same_tenant_is_counted_once_however_it_is_written():
    """The end of an operation that was abandoned is written by another encoder than its start."""
    journal = make_journal(None)
    append_event(journal, 1, tenant_id="é")
    escaped = make_json(2, tenant_id="é")
    plain = json.dumps(json.loads(escaped), ensure_ascii=False, separators=(",", ":"))
    assert plain != escaped
    journal.append_row(format_line(Kind.EVENT, next(journal.sequence), plain))
    journal.seal()
    (batch,) = batches_of(Lane(journal))
    assert batch.tallies == {("é", "ingest_completed"): 2}


@pytest.fixture
def journal() -> Journal:
    """Has lines of every kind, and numbers of one digit and of two."""
    made = make_journal(None)
    start(made, "A")
    start(made, "B", row=False)
    for number in range(2, 9):
        append_event(made, number)
    made.append_row(format_line(Kind.REJECT, next(made.sequence), '{"reason":"invalid"}'))
    end(made, "A")
    made.close_operation("B", close_line("B"))
    made.append_row(format_line(Kind.START, next(made.sequence), make_json(10)))
    return made


def test_rows_are_the_objects_of_the_lines_that_are_rows(journal: Journal):
    (batch,) = batches_of(Lane(journal))
    numbers = [json.loads(row)["data"]["number"] for row in batch.events]
    assert numbers == [0, *range(2, 9), 1, 10]
    assert batch.rejects == [b'{"reason":"invalid"}']
    assert not batch.may_repeat


def test_batch_with_a_row_that_may_be_stored_says_so(journal: Journal):
    journal.append_row(format_line(Kind.REPEATABLE, next(journal.sequence), make_json(11)))
    (batch,) = batches_of(Lane(journal))
    assert batch.may_repeat
    assert len(batch.events) == 11


def test_full_segment_is_one_batch():
    journal = make_journal(None)
    while len(journal.segments) < 3:
        append_event(journal, 1)
    assert [batch.segment for batch in batches_of(Lane(journal))] == [1, 2, 3]
    assert len(journal.segments[2].map) == BATCH_BYTES


@pytest.mark.parametrize("what", ["a line", "a seal", "a rotation", "another position"])
def test_lane_has_news_when_there_may_be_something_to_read(what: str):
    journal = make_journal(None, segment_bytes=SEGMENT)
    append_event(journal, 1)
    lane = Lane(journal)
    assert lane.has_news()
    batches_of(lane)
    assert not lane.has_news()
    if what == "a line":
        append_event(journal, 2)
    elif what == "a seal":
        journal.seal()
    elif what == "a rotation":
        while len(journal.segments) < 2:
            append_event(journal, 2)
    else:
        lane.go_to(Position(1, 0))
    assert lane.has_news()
