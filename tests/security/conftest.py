"""Fixtures of the security tests: attackers, and the command line they may reach."""

from __future__ import annotations

import pytest

from tests.fix_postgres import Database
from tests.security.tenants import OURS, THEIRS, Attacker, add_rows, bind


@pytest.fixture
def two_tenants(database: Database) -> Database:
    add_rows(database)
    return database


@pytest.fixture
def bound(two_tenants: Database) -> str:
    """Return the DSN of a login bound to OURS; another one is bound to THEIRS."""
    two_tenants.execute("DELETE FROM tenantry.tenant_roles")
    bind(two_tenants, "bound_to_them", THEIRS)
    return bind(two_tenants, "bound_to_us", OURS)


@pytest.fixture(params=["reader", "bound"])
def attacker(request: pytest.FixtureRequest, two_tenants: Database, bound: str) -> Attacker:
    """Return application code as the reader of OURS, and a login of OURS with SQL of its own."""
    if request.param == "reader":
        return Attacker(two_tenants, two_tenants.reader, sets=True)
    return Attacker(two_tenants, bound, sets=False)
