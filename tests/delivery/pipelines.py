"""Pipelines for tests, and destinations that behave as told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantry import Pipeline, log_event
from tenantry.exporters import BEGINNING, Batch, Outcome, Position, Retry

TENANT = "018f6f0e-0000-7000-8000-000000000001"


class Destination:
    """A transactional exporter: rows and cursors live and go together, as in a database.

    ``is_open`` cleared, it is away; ``refuse`` says which events it rejects.
    """

    fingerprint = "destination"
    tenant_type = "uuid"

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.trouble = Retry("backoff", "the destination is away")
        self.lose_answers = 0
        self.refuse: Callable[[bytes], bool] = lambda event: False
        self.events: list[bytes] = []
        self.rejects: list[bytes] = []
        self.cursors: dict[str, tuple[Position, int, int]] = {}
        self.attempts = 0
        self.closed = 0

    def export(self, batch: Batch, deadline: float) -> Outcome:
        self.attempts += 1
        if not self.is_open.is_set():
            return Outcome(retry=self.trouble)
        position, stored, rejected = self.cursors.get(batch.journal_id, (BEGINNING, 0, 0))
        if position != batch.start:
            return Outcome(resume=position, stored=stored, rejected=rejected)
        bad = [event for event in batch.events if self.refuse(event)]
        good = [event for event in batch.events if not self.refuse(event)]
        self.events += good
        self.rejects += [*batch.rejects, *bad]
        refused = len(batch.rejects) + len(bad)
        self.cursors[batch.journal_id] = (batch.end, stored + len(good), rejected + refused)
        if self.lose_answers:
            self.lose_answers -= 1
            return Outcome(retry=Retry("backoff", "the answer is lost"))
        return Outcome(stored=len(good), rejected=refused)

    def insert(self, conn: object, event: bytes) -> None:
        if conn is None:
            raise ConnectionError("the transaction is gone")

    def close(self) -> None:
        self.closed += 1


def make_pipeline(exporter: object, root: Path | None = None, **options: Any) -> Pipeline:
    options = {"ship_interval": 0.01, "open_taxonomy": ["tick", "work_*"], **options}
    return Pipeline(exporter=exporter, journal=root, **options)


def tick(pipeline: Pipeline, **data: Any) -> str | None:
    with pipeline:
        return log_event("tick", tenant=TENANT, **data)
