"""Exceptions that come into an emission: each event is counted once, and the books balance."""

from __future__ import annotations

import sys
from contextvars import copy_context
from pathlib import Path

import pytest

from tenantry import Pipeline, emits, tenant
from tenantry.journal import Slot
from tests.alarms import alarms
from tests.delivery.pipelines import TENANT, Destination, make_pipeline, tick


class Interrupted(BaseException):
    """What a signal handler raises."""


def assert_balanced(pipeline: Pipeline) -> None:
    stats = pipeline.stats()
    dropped = sum(stats.dropped.values())
    assert stats.emitted == stats.accepted + stats.handed + stats.sampled_out + dropped


# Where it strikes between a scandir() and its with, Python leaves a descriptor to the destructor.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", [Interrupted, RuntimeError])
def test_signal_handler_that_raises_leaves_no_hole_in_the_books(kind, tmp_path: Path):
    destination = Destination()
    pipeline = make_pipeline(destination, tmp_path)
    raised = 0

    def interrupt() -> None:
        raise kind

    with alarms(interrupt) as after:
        for number in range(3000):
            try:
                after(0.00001 + number % 50 * 0.000002)
                copy_context().run(lambda: [tick(pipeline) for _ in range(20)])
                after(0)
            except kind:
                raised += 1
    assert raised > 100
    assert_balanced(pipeline)
    assert pipeline.flush(20)
    assert len(destination.events) + len(destination.rejects) == pipeline.stats().accepted
    pipeline.shutdown(20)


def test_endless_recursion_leaves_no_hole_in_the_books(tmp_path: Path):
    destination = Destination()
    pipeline = make_pipeline(destination, tmp_path)

    @emits("work")
    def recurse() -> None:
        recurse()

    def recurse_in(pipeline: Pipeline) -> None:
        with pipeline, tenant(TENANT):
            recurse()

    limit = sys.getrecursionlimit()
    try:
        for more in range(40):  # it ends in another place each time
            sys.setrecursionlimit(limit + more)
            with pytest.raises(RecursionError):
                copy_context().run(recurse_in, pipeline)
    finally:
        sys.setrecursionlimit(limit)
    assert_balanced(pipeline)
    assert pipeline.flush(20)
    assert len(destination.events) == pipeline.stats().accepted
    pipeline.shutdown(20)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError])
def test_exception_within_an_append_counts_the_event_once(error, monkeypatch):
    pipeline = make_pipeline(Destination())

    def fail(line: bytes) -> int:
        raise error

    monkeypatch.setattr(pipeline._journal, "_write", fail)
    if error is KeyboardInterrupt:
        with pytest.raises(error):
            tick(pipeline)
    else:
        assert tick(pipeline) is None
    stats = pipeline.stats()
    assert (stats.emitted, stats.accepted, stats.dropped) == (1, 0, {"interrupted": 1})
    pipeline.shutdown(20)


def test_exception_after_the_line_was_written_counts_it_as_accepted(monkeypatch):
    destination = Destination()
    pipeline = make_pipeline(destination)
    write = pipeline._journal._write

    def write_and_fail(line: bytes) -> None:
        write(line)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline._journal, "_write", write_and_fail)
        with pytest.raises(KeyboardInterrupt):
            tick(pipeline)
    stats = pipeline.stats()
    assert (stats.emitted, stats.accepted, stats.dropped) == (1, 1, {})
    assert pipeline.flush(20)
    assert len(destination.events) == 1
    pipeline.shutdown(20)


def test_interruption_is_in_the_mapped_books_once_totals_are_read(tmp_path: Path, monkeypatch):
    pipeline = make_pipeline(Destination(), tmp_path)

    def fail(line: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline._journal, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        tick(pipeline)
    pipeline.stats()
    books = pipeline._journal.books
    assert (books[Slot.DROPPED_INTERRUPTED], books[Slot.EMITTED]) == (1, 1)
    pipeline.shutdown(20)
