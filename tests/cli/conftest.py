"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.commands import Command


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the command line, run without any TENANTRY_* variable."""
    for name in [name for name in os.environ if name.startswith("TENANTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    return Command(capsys)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"
