"""Fixtures of the tests of erasure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.erase.worker import Worker


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def start_worker(journal: Path) -> Iterator[Callable[..., Worker]]:
    """Start processes that emit what they are told; they end with the test."""
    workers: list[Worker] = []

    def start(dsn: str, **options: object) -> Worker:
        workers.append(Worker(dsn, journal, **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()
