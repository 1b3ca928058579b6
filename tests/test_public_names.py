"""What users may import, and what an import costs them."""

from __future__ import annotations

import importlib.resources
import subprocess
import sys

import pytest

import tenantry

NAMES = """
    Budget ContextExecutor Drop Event FlushReport Operation PLATFORM Pipeline Sampling Scope
    Sensitive Stats Taxonomy TenantryError aflush alog_event ashutdown bind_tenant configure
    current_operation current_scope emits extract flush inject instrument_threads log_event
    propagate reset shutdown stats tenant uninstrument_threads
"""


def test_public_names_are_these():
    assert sorted(tenantry.__all__) == sorted(NAMES.split())
    assert all(hasattr(tenantry, name) for name in tenantry.__all__)


def test_star_import_gives_exactly_the_public_names():
    namespace: dict[str, object] = {}
    exec("from tenantry import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(NAMES.split())


def test_public_names_are_documented():
    assert [name for name in tenantry.__all__ if not getattr(tenantry, name).__doc__] == []


@pytest.mark.parametrize("module", ["tenantry", "tenantry.taxonomies.saas", "tenantry.testing"])
def test_import_loads_no_driver_and_no_extra(module):
    heavy = ("psycopg", "pydantic_settings", "typer", "rich", "sqlalchemy", "django", "pytest")
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == []


def test_events_of_a_pipeline_in_memory_load_no_driver():
    code = (
        "import sys\n"
        "from tenantry import emits, tenant\n"
        "from tenantry.testing import capture\n"
        "with capture(open_taxonomy=['x_*']) as events, tenant('0' * 31 + '1'):\n"
        "    emits('x_work')(len)('abc')\n"
        "    assert events.names == ['x_work_started', 'x_work_completed']\n"
        "print('psycopg' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "False\n"


def test_package_is_typed():
    assert importlib.resources.files("tenantry").joinpath("py.typed").is_file()
