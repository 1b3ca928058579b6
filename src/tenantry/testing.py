"""For tests of applications: the events of a block, and times and ids that a test can foresee."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tenantry.exporters.memory import MemoryExporter
from tenantry.pipeline import Pipeline
from tenantry.record import Clock, Record, Reject
from tenantry.taxonomy import Event, Taxonomy

_SECOND = 1_000_000_000


class FrozenClock(Clock):
    """A clock that stands still until ``tick``; it starts at 2026-01-01 00:00 UTC by default."""

    def __init__(self, seconds: float = 1_767_225_600) -> None:
        """Set it to ``seconds`` since the epoch."""
        self._now = round(seconds * _SECOND)
        self._elapsed = 0

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self._now += round(seconds * _SECOND)
        self._elapsed += round(seconds * _SECOND)

    def set_back(self, seconds: float) -> None:
        """Correct the time of day, as NTP does; durations are not touched."""
        self._now -= round(seconds * _SECOND)

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._now

    def perf_counter_ns(self) -> int:
        """Nanoseconds that have passed."""
        return self._elapsed


class SequentialIds:
    """Makes UUIDs that count from 1: ``00000000-0000-7000-8000-000000000001`` and so on."""

    def __init__(self) -> None:
        """Begin."""
        self._made = 0

    def __call__(self) -> str:
        """Give the next."""
        self._made += 1
        return f"00000000-0000-7000-8000-{self._made:012x}"


class CapturingPipeline(Pipeline):
    """A pipeline whose events stay in memory."""

    def __init__(self, **options: Any) -> None:
        """Take the options of ``Pipeline``, but for ``exporter``."""
        self._memory = MemoryExporter()
        super().__init__(exporter=self._memory, **options)

    @property
    def records(self) -> list[Record]:
        """The events emitted so far, in order; waits for what is pending."""
        return self._memory.records

    @property
    def rejected(self) -> list[Reject]:
        """The events refused so far, in order; waits for what is pending."""
        return self._memory.rejected

    @property
    def names(self) -> list[str]:
        """The names of the events emitted so far, in order."""
        return [record.name for record in self.records]


@contextmanager
def capture_events(
    taxonomy: str | ModuleType | Taxonomy | Iterable[type[Event]] | None = None,
    *,
    strict: bool = True,
    **options: Any,
) -> Generator[CapturingPipeline]:
    """Send the events of a block to memory, and nowhere else; gives the pipeline.

    Strict by default, so that a mistake fails the test. ``options`` are those of ``Pipeline``:
    ``clock=FrozenClock()`` and ``new_id=SequentialIds()`` make times and ids foreseeable. As a
    pytest fixture::

        @pytest.fixture
        def events():
            with capture_events("helpdesk.events") as pipeline:
                yield pipeline


        def test_upload_is_recorded(events):
            with tenant(ACME):
                upload("a.pdf")
            assert events.names == ["ingest_started", "ingest_completed"]

    The pipeline is current in this context and in tasks begun in it; new threads need
    ``contextvars.copy_context().run``.
    """
    pipeline = CapturingPipeline(taxonomy=taxonomy, strict=strict, **options)
    try:
        with pipeline:
            yield pipeline
    finally:
        pipeline.shutdown()
