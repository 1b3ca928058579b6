"""The audit of dependencies: it fails for what is known, and says when nothing could be asked."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit.py"
CLEAN = {"name": "pip", "version": "26.0", "vulns": []}
UNKNOWN = {"name": "made-up", "skip_reason": "Dependency not found on PyPI"}
FOUND = {"id": "PYSEC-2026-1", "fix_versions": ["26.1"]}


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_known_vulnerability_fails_whatever_else_is_unknown(audit):
    report = {"dependencies": [UNKNOWN, CLEAN, {**CLEAN, "vulns": [FOUND]}]}
    assert audit.judge(report) == ("pip 26.0: PYSEC-2026-1, mended in 26.1", True)


def test_nothing_to_say_where_all_were_asked(audit):
    assert audit.judge({"dependencies": [CLEAN]}) == ("", False)


@pytest.mark.parametrize(
    "report,why",
    [
        ("no answer within 25 s", "(no answer within 25 s)"),
        ({"dependencies": [CLEAN, UNKNOWN]}, "(it knows nothing of 1 of them: made-up)"),
    ],
)
def test_advisories_that_cannot_be_asked_are_no_pass_and_no_failure(audit, report, why: str):
    said, failed = audit.judge(report)
    assert said.startswith(f"NOT AUDITED: the advisories could not be asked {why}. Check build/")
    assert not failed


def test_audit_that_cannot_run_says_so(audit, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(audit.sys, "executable", "/bin/false")
    assert audit.ask(tmp_path / "none.txt") == "pip-audit ended with 1"
