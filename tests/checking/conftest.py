"""Applications to check: those beside this file, and those that a test writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenantry.checking.check import check
from tenantry.checking.findings import Report
from tenantry.checking.importing import import_application, search_path
from tenantry.registry import Taxonomy

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Forget the modules that a test imports."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = str(getattr(sys.modules[name], "__file__", None) or "")
        if not file.startswith((sys.prefix, sys.base_prefix)) and "tenantry" not in name:
            del sys.modules[name]


@pytest.fixture
def write_app(tmp_path: Path, own_modules: None) -> Callable[..., Report]:
    """Write modules, import the first, and check it."""

    def write(taxonomy: Taxonomy | None = None, **modules: str) -> Report:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
        with search_path(tmp_path):
            return check(import_application([next(iter(modules))], tmp_path), taxonomy)

    return write


@pytest.fixture
def planted(own_modules: None) -> Report:
    """Check the application that has every mistake."""
    with search_path(APPS):
        return check(import_application(["planted.app:app"], APPS))
