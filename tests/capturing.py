"""For our own tests: a pipeline in memory that is current in one context, and not for all."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tenantry.exporters.memory import MemoryExporter
from tenantry.pipeline import Pipeline
from tenantry.record import Record, Reject
from tenantry.registry import Taxonomy
from tenantry.taxonomy import Event


class CapturingPipeline(Pipeline):
    """A pipeline whose events stay in memory."""

    def __init__(self, **options: Any) -> None:
        self._memory = MemoryExporter()
        super().__init__(exporter=self._memory, **options)

    @property
    def records(self) -> list[Record]:
        return self._memory.records

    @property
    def rejected(self) -> list[Reject]:
        return self._memory.rejected

    @property
    def names(self) -> list[str]:
        return [record.name for record in self.records]


@contextmanager
def capture_events(
    taxonomy: str | ModuleType | Taxonomy | Iterable[type[Event]] | None = None,
    *,
    strict: bool = True,
    **options: Any,
) -> Generator[CapturingPipeline]:
    """Make such a pipeline current in this context, and in tasks begun in it."""
    pipeline = CapturingPipeline(taxonomy=taxonomy, strict=strict, **options)
    try:
        with pipeline:
            yield pipeline
    finally:
        pipeline.shutdown()
