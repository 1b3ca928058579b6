"""The doctor on who is who."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenantry.database.doctor import examine
from tests.doctor.conftest import Patient

TENANT = "018f6f0e-0000-7000-8000-000000000001"

MENDED = [
    ("group_role_login", "ALTER ROLE tenantry_reader LOGIN"),
    ("group_role_powerful", "ALTER ROLE tenantry_tenant BYPASSRLS"),
    ("group_role_powerful", "ALTER ROLE tenantry_reader SUPERUSER CREATEROLE"),
    ("group_role_powerful", "ALTER ROLE tenantry_writer CREATEROLE"),
    ("group_role_nested", "GRANT tenantry_admin TO tenantry_reader"),
    (
        "group_role_nested",
        (
            "CREATE ROLE doctors_group; GRANT doctors_group TO tenantry_reader;"
            " GRANT tenantry_maintainer TO doctors_group"
        ),
    ),
    (
        "group_role_nested",
        (
            "REVOKE tenantry_tenant FROM host_owner; GRANT host_owner TO tenantry_tenant;"
            # Else each of its members is the owner, which is said as well.
            " CREATE ROLE doctors_group"
        ),
    ),
    ("login_bypasses", "CREATE ROLE doctors_login LOGIN BYPASSRLS IN ROLE tenantry_reader"),
    ("login_bypasses", "CREATE ROLE doctors_login LOGIN SUPERUSER IN ROLE tenantry_reader"),
    ("login_is_owner", "CREATE ROLE doctors_login LOGIN IN ROLE host_owner"),
    (
        "writer_sees_all",
        "CREATE ROLE doctors_login LOGIN IN ROLE tenantry_writer, tenantry_maintainer",
    ),
    ("writer_reads", "CREATE ROLE doctors_login LOGIN IN ROLE tenantry_writer, tenantry_reader"),
    (
        "bound_login_unbound",
        (
            "CREATE ROLE doctors_group IN ROLE tenantry_admin;"
            "CREATE ROLE doctors_login LOGIN"
            " IN ROLE tenantry_tenant, tenantry_reader, doctors_group"
        ),
    ),
    ("tenant_preset", f"ALTER ROLE app_reader SET tenantry.tenant_id = '{TENANT}'"),
    (
        "tenant_preset",
        f"ALTER ROLE app_reader IN DATABASE test_doctor SET tenantry.tenant_id = '{TENANT}'",
    ),
    ("tenant_preset", f"ALTER DATABASE test_doctor SET tenantry.tenant_id = '{TENANT}'"),
    ("tenant_preset", f"ALTER ROLE ALL SET tenantry.tenant_id = '{TENANT}'"),
    ("search_path_first", 'ALTER ROLE app_writer SET search_path = "$user", public, pg_catalog'),
    ("search_path_first", "ALTER DATABASE test_doctor SET search_path = public, pg_catalog"),
    ("binding_without_role", f"INSERT INTO tenantry.tenant_roles VALUES ('nobody', '{TENANT}')"),
]


@pytest.fixture(autouse=True)
def logins_end(patient: Patient):
    yield
    for role in ("doctors_login", "doctors_group"):
        patient.do(f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize(
    "code,statements", MENDED, ids=[f"{code}-{n}" for n, (code, _) in enumerate(MENDED)]
)
def test_role_is_found_and_mended(patient: Patient, code: str, statements: str):
    # Logins may be in the groups that are broken here.
    patient.do(
        "DO $$ DECLARE login text;"
        " BEGIN FOR login IN SELECT rolname FROM pg_roles WHERE rolcanlogin"
        " AND pg_has_role(oid, 'tenantry_tenant', 'MEMBER') AND NOT rolsuper LOOP"
        " EXECUTE format('REVOKE tenantry_tenant FROM %I CASCADE', login); END LOOP; END $$"
    )
    if "tenantry_admin TO tenantry_reader" in statements or "TO doctors_group" in statements:
        statements = f"REVOKE tenantry_reader FROM app_reader; {statements}"
    patient.break_and_mend(code, statements)
    patient.do("GRANT tenantry_reader TO app_reader")


def test_createrole_is_found_before_postgresql_16(patient: Patient):
    makes = "CREATE ROLE doctors_login LOGIN CREATEROLE IN ROLE tenantry_writer"
    with psycopg.connect(patient.dsn) as connection:
        is_old = connection.info.server_version < 160000
    if is_old:
        patient.break_and_mend("login_makes_roles", makes)
    else:
        patient.do(makes)
        assert not patient.find("login_makes_roles")


@pytest.mark.parametrize("group", ["writer", "admin", "maintainer"])
def test_role_that_sees_all_or_nothing_may_pass_by_policies(patient: Patient, group: str):
    """Supabase's service_role, for one."""
    before = patient.find()
    patient.do(f"ALTER ROLE tenantry_{group} BYPASSRLS")
    try:
        assert patient.find() == before
    finally:
        patient.do(f"ALTER ROLE tenantry_{group} NOBYPASSRLS")


def test_superuser_of_the_dsn_is_a_problem(patient: Patient):
    (found,) = patient.find("login_superuser", dsn=patient.database.superuser)
    assert (found.subject, found.severity) == ("role postgres", "problem")
    assert 'CREATE ROLE "app" LOGIN' in found.remedy


def test_login_of_the_dsn_that_passes_by_policies_is_a_problem(patient: Patient):
    patient.do("CREATE ROLE doctors_login LOGIN BYPASSRLS")
    dsn = make_conninfo(patient.dsn, user="doctors_login")
    assert [each.subject for each in patient.find("login_bypasses", dsn=dsn)] == [
        "role doctors_login"
    ]


def test_one_user_setup_is_noted(patient: Patient):
    (found,) = patient.find("one_user_setup", dsn=patient.database.owner)
    assert found.severity == "note"
    assert not patient.find("one_user_setup")


def test_login_in_no_role_is_found_and_granted_one(patient: Patient):
    patient.do("CREATE ROLE doctors_login LOGIN")
    dsn = make_conninfo(patient.dsn, user="doctors_login")
    (found,) = patient.find("login_without_role", dsn=dsn)
    patient.do(found.remedy)
    assert not patient.find("login_without_role", dsn=dsn)


def test_tenant_that_the_dsn_sets_is_found(patient: Patient):
    dsn = make_conninfo(patient.dsn, options=f"-c tenantry.tenant_id={TENANT}")
    (found,) = patient.find("tenant_preset", dsn=dsn)
    assert (found.subject, TENANT in found.detail) == ("this session", False)


def test_names_of_roles_are_those_of_most_policies(patient: Patient):
    """One policy that was turned to another role does not rename the role."""
    patient.do("ALTER POLICY reader ON tenantry.events TO app_reader")
    try:
        (found,) = patient.find("policy_changed")
        assert "it is for app_reader, not tenantry_reader" in found.detail
    finally:
        patient.do(examine(patient.dsn)[0][0].remedy)
