-- Why:    logins that write SQL of their own. Such a login is bound to a tenant by a row that it can
--         not change, never by a setting, which it could. A fifth group role lets its members read,
--         and sees nothing where no row binds them.
-- Locks:  events, rejected_events, event_tallies and ledger for an instant, exclusively: policies
--         change, and no row is read.
-- Runs:   as the user who ran 0001, who either has CREATEROLE, or finds the role made already. It
--         does not become a member.
--
-- session_user and not current_user: SET ROLE does not change it, nor does a function of another
-- owner, so that no membership, granted or inherited, leads to the rows of a second tenant.

DO $role$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {tenant_text}) THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', {tenant_text});
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of this server is being migrated at the same moment
        END;
    END IF;
END
$role$;

GRANT USAGE ON SCHEMA {schema} TO {tenant};
GRANT SELECT ON {schema}.migrations TO {tenant};

CREATE TABLE {schema}.tenant_roles (
    role name PRIMARY KEY,
    tenant_id {tenant_type} NOT NULL
);

ALTER TABLE {schema}.tenant_roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE {schema}.tenant_roles FORCE ROW LEVEL SECURITY;

-- The policies below ask as whoever reads: each login may see what it is bound to itself.
CREATE POLICY reader ON {schema}.tenant_roles FOR SELECT TO {reader} USING (role = session_user);
CREATE POLICY tenant ON {schema}.tenant_roles FOR SELECT TO {tenant} USING (role = session_user);
CREATE POLICY admin ON {schema}.tenant_roles FOR SELECT TO {admin} USING (true);
CREATE POLICY maintainer ON {schema}.tenant_roles FOR ALL TO {maintainer} USING (true) WITH CHECK (true);

REVOKE ALL ON {schema}.tenant_roles FROM PUBLIC;
GRANT SELECT ON {schema}.tenant_roles TO {reader}, {tenant}, {admin};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.tenant_roles TO {maintainer};

CREATE POLICY tenant ON {schema}.events FOR SELECT TO {tenant}
    USING (tenant_id = (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user));
CREATE POLICY tenant ON {schema}.rejected_events FOR SELECT TO {tenant}
    USING (tenant_id = (SELECT bound.tenant_id::text FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user));
CREATE POLICY tenant ON {schema}.event_tallies FOR SELECT TO {tenant}
    USING (tenant_id = (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user));
CREATE POLICY tenant ON {schema}.ledger FOR SELECT TO {tenant}
    USING (tenant_id = (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user));

GRANT SELECT ON {schema}.events, {schema}.rejected_events, {schema}.event_tallies, {schema}.ledger TO {tenant};

-- A bound login that is a reader as well stays bound: its row goes before the setting.
ALTER POLICY reader ON {schema}.events USING (tenant_id = (SELECT coalesce(
    (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user),
    nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type})));
ALTER POLICY reader ON {schema}.rejected_events USING (tenant_id = (SELECT coalesce(
    (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user),
    nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type})::text));
ALTER POLICY reader ON {schema}.event_tallies USING (tenant_id = (SELECT coalesce(
    (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user),
    nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type})));
ALTER POLICY reader ON {schema}.ledger USING (tenant_id = (SELECT coalesce(
    (SELECT bound.tenant_id FROM {schema}.tenant_roles AS bound WHERE bound.role = session_user),
    nullif(current_setting('tenantry.tenant_id', true), '')::{tenant_type})));

COMMENT ON TABLE {schema}.tenant_roles IS 'Logins that are bound to one tenant, whatever they set.';
COMMENT ON COLUMN {schema}.tenant_roles.role IS 'Name of the login, as session_user gives it.';
COMMENT ON COLUMN {schema}.tenant_roles.tenant_id IS 'The tenant whose rows it may read.';
