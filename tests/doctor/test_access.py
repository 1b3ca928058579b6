"""The doctor on what guards the rows: each test opens a door, and has what it prints close it."""

from __future__ import annotations

import psycopg
import pytest

from tenantry.database.doctor import examine
from tenantry.database.doctor.design import TABLES
from tests.doctor.conftest import Patient
from tests.fix_postgres import Database

TENANT = "018f6f0e-0000-7000-8000-000000000001"
OTHER = "018f6f0e-0000-7000-8000-000000000002"

OPENED = [
    ("row_security_off", "ALTER TABLE tenantry.events DISABLE ROW LEVEL SECURITY"),
    ("row_security_off", "ALTER TABLE tenantry.ledger NO FORCE ROW LEVEL SECURITY"),
    ("row_security_off", "ALTER TABLE tenantry.events_default NO FORCE ROW LEVEL SECURITY"),
    ("policy_changed", "ALTER POLICY reader ON tenantry.events USING (true)"),
    ("policy_changed", "ALTER POLICY reader ON tenantry.events TO PUBLIC"),
    ("policy_changed", "ALTER POLICY tenant ON tenantry.tenant_roles USING (role = current_user)"),
    (
        "policy_changed",
        (
            "ALTER POLICY reader ON tenantry.event_tallies USING (tenant_id ="
            " nullif(current_setting('tenantry.tenant_id', true), '')::uuid)"
        ),
    ),
    (
        "policy_changed",
        (
            "DROP POLICY admin ON tenantry.events; CREATE POLICY admin ON tenantry.events"
            " AS RESTRICTIVE FOR SELECT TO tenantry_admin USING (true)"
        ),
    ),
    (
        "policy_changed",
        (
            "DROP POLICY writer ON tenantry.events;"
            " CREATE POLICY writer ON tenantry.events TO tenantry_writer WITH CHECK (true)"
        ),
    ),
    (
        "policy_extra",
        "CREATE POLICY help ON tenantry.events FOR SELECT TO app_reader USING (true)",
    ),
    ("policy_extra", "CREATE POLICY help ON tenantry.events_default USING (true)"),
    ("grant_missing", "REVOKE INSERT ON tenantry.events FROM tenantry_writer"),
    ("grant_missing", "REVOKE ALL ON tenantry.ledger FROM tenantry_maintainer"),
    ("grant_excess", "GRANT SELECT ON tenantry.events TO PUBLIC"),
    ("grant_excess", "GRANT UPDATE, TRUNCATE ON tenantry.ledger TO tenantry_reader"),
    ("grant_excess", "GRANT DELETE ON tenantry.journal_cursors TO tenantry_writer"),
    ("grant_excess", "GRANT SELECT (data), UPDATE (data) ON tenantry.events TO app_reader"),
    ("grant_excess", "GRANT TRIGGER ON tenantry.rejected_events TO app_writer WITH GRANT OPTION"),
    ("partition_grant", "GRANT SELECT ON tenantry.events_default TO tenantry_reader"),
    ("partition_grant", "GRANT SELECT (id) ON tenantry.events_default TO PUBLIC"),
    ("schema_create", "GRANT CREATE ON SCHEMA tenantry TO PUBLIC"),
    ("schema_create", "GRANT CREATE ON SCHEMA tenantry TO app_reader"),
    ("rule_on_table", "CREATE RULE silence AS ON INSERT TO tenantry.ledger DO INSTEAD NOTHING"),
]


@pytest.mark.parametrize(
    "code,statements", OPENED, ids=[f"{code}-{n}" for n, (code, _) in enumerate(OPENED)]
)
def test_door_is_found_and_closed(patient: Patient, code: str, statements: str):
    patient.break_and_mend(code, statements)


POLICIES = """
    SELECT polrelid::regclass::text, polname, polcmd, polpermissive, polroles,
           pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
      FROM pg_policy ORDER BY 1, 2
"""


def test_policies_that_are_gone_are_made_as_they_were(patient: Patient):
    before = patient.database.execute(POLICIES)
    dropped = [(table, name) for table in TABLES for name in TABLES[table].policies]
    found = patient.break_and_mend(
        "policy_missing", "".join(f"DROP POLICY {p} ON tenantry.{t};" for t, p in dropped)
    )
    assert len(found) == len(dropped) == len(before)
    assert patient.database.execute(POLICIES) == before


def test_privileges_that_are_gone_are_granted_as_they_were(patient: Patient):
    query = (
        "SELECT relname, grantee::regrole::text, privilege_type FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'tenantry'::regnamespace ORDER BY 1, 2, 3"
    )
    before = patient.database.execute(query)
    groups = ", ".join(
        f"tenantry_{group}" for group in ("writer", "reader", "admin", "maintainer", "tenant")
    )
    tables = ", ".join(f"tenantry.{table}" for table in TABLES)
    patient.do(f"REVOKE ALL ON {tables} FROM {groups}")
    for finding in patient.find("grant_missing"):
        patient.do(finding.remedy)
    assert patient.database.execute(query) == before


def test_policy_that_narrows_is_no_finding(patient: Patient):
    before = patient.find()
    patient.do("CREATE POLICY mine ON tenantry.events AS RESTRICTIVE USING (name <> 'x')")
    assert patient.find() == before
    patient.do("DROP POLICY mine ON tenantry.events")


VIEWS = [
    "CREATE VIEW public.opened AS SELECT * FROM tenantry.events",
    "CREATE VIEW public.opened AS SELECT 1 FROM tenantry.events_default",
    (
        "CREATE VIEW public.inner_view WITH (security_invoker) AS SELECT * FROM tenantry.ledger;"
        "CREATE VIEW public.opened AS SELECT * FROM public.inner_view"
    ),
    (
        "CREATE VIEW public.opened WITH (security_invoker = false) AS"
        " SELECT (SELECT count(*) FROM tenantry.events)"
    ),
]


@pytest.fixture
def views_end(patient: Patient):
    yield
    patient.do("DROP VIEW IF EXISTS public.opened, public.inner_view")
    patient.do("DROP MATERIALIZED VIEW IF EXISTS public.copied")


@pytest.mark.usefixtures("views_end")
@pytest.mark.parametrize("statements", VIEWS, ids=["table", "partition", "over-a-view", "nested"])
def test_view_that_shows_what_its_owner_sees_is_found(patient: Patient, statements: str):
    (found,) = patient.break_and_mend("view_as_owner", statements)
    assert found.subject == "public.opened"


@pytest.mark.usefixtures("views_end")
def test_materialized_view_is_found(patient: Patient):
    patient.break_and_mend(
        "materialized_view", "CREATE MATERIALIZED VIEW public.copied AS TABLE tenantry.events"
    )


def test_row_trigger_is_noted_and_a_trigger_of_statements_is_not(patient: Patient):
    patient.do(
        "CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    try:
        (found,) = patient.break_and_mend(
            "row_trigger",
            "CREATE TRIGGER watch BEFORE INSERT ON tenantry.events"
            " FOR EACH ROW EXECUTE FUNCTION public.watch();"
            "CREATE TRIGGER still AFTER INSERT ON tenantry.ledger EXECUTE FUNCTION public.watch()",
        )
        assert "gives each row of each tenant to watch" in found.detail
    finally:
        patient.do("DROP FUNCTION public.watch CASCADE")


FUNCTION = "CREATE FUNCTION tenantry.peek(a int, b text) RETURNS int LANGUAGE sql {} AS 'SELECT 1'"
CLOSED = "; REVOKE EXECUTE ON FUNCTION tenantry.peek FROM PUBLIC"


@pytest.mark.parametrize(
    "code,statements",
    [
        ("function_search_path", FUNCTION.format("SECURITY DEFINER") + CLOSED),
        ("function_for_all", FUNCTION.format("SECURITY DEFINER SET search_path = pg_catalog")),
        (
            "function_leakproof",
            FUNCTION.replace("tenantry", "public").format("LEAKPROOF"),
        ),
    ],
    ids=["search-path", "for-all", "leakproof"],
)
def test_function_is_found(patient: Patient, code: str, statements: str):
    try:
        patient.break_and_mend(code, statements)
    finally:
        patient.do("DROP FUNCTION IF EXISTS tenantry.peek; DROP FUNCTION IF EXISTS public.peek")


@pytest.mark.parametrize("tenant_type", ["uuid", "bigint", "text"])
def test_new_schema_of_any_name_and_roles_is_well(empty_database: Database, tenant_type: str):
    from tenantry.database.installed import Roles
    from tenantry.database.migrate import migrate

    schema = 'My "odd" schema'.replace('"', "")
    roles = Roles(writer="Doctor's writer".replace("'", ""), reader="doctor_reader")
    migrate(empty_database.owner, schema=schema, tenant_type=tenant_type, roles=roles)
    found, type_of_schema = examine(empty_database.owner, schema=schema)
    codes = {each.code for each in found if not each.subject.startswith("role app")}
    assert codes == {"one_user_setup", "dump_by_owner"}
    assert type_of_schema == tenant_type


def test_design_has_every_table(database: Database):
    tables = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tenantry'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    assert {name for (name,) in tables} == set(TABLES)


def test_mended_policy_keeps_tenants_apart(patient: Patient):
    """What is compared as text does as it says."""
    for tenant in (TENANT, OTHER):
        patient.do(
            "INSERT INTO tenantry.events (id, tenant_id, name, created_at)"
            f" VALUES (gen_random_uuid(), '{tenant}', 'x', now())"
        )

    def read() -> list[str]:
        with psycopg.connect(patient.database.reader) as connection:
            connection.execute("SELECT set_config('tenantry.tenant_id', %s, true)", [TENANT])
            rows = connection.execute("SELECT tenant_id::text FROM tenantry.events")
            return sorted(tenant for (tenant,) in rows)

    patient.do("ALTER POLICY reader ON tenantry.events USING (true)")
    assert read() == [TENANT, OTHER]
    (finding,) = patient.find("policy_changed")
    assert "its USING is true" in finding.detail
    patient.do(finding.remedy)
    assert read() == [TENANT]
