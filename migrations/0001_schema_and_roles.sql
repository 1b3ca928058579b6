-- Why:    the schema, its four group roles, and the table that says which migrations ran.
-- Locks:  none that anybody waits for; every object is new. Roles belong to the whole server, so
--         one that exists is left as it is.
-- Runs:   as a user who may create schemas in this database, and who either has CREATEROLE (from
--         PostgreSQL 16 on with ADMIN on roles that exist already) or is a member of the four roles
--         already. That user becomes a member of all of them.
--
-- The runner replaces {schema}, {writer}, {reader}, {admin} and {maintainer} by quoted identifiers,
-- the same names with _text by quoted literals, and {tenant_type} by uuid, bigint or text.

DO $roles$
DECLARE
    role_name name;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[{writer_text}, {reader_text}, {admin_text}, {maintainer_text}]::name[]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of this server is being migrated at the same moment
            END;
        END IF;
        -- From PostgreSQL 16 on, who creates a role may administer it, but inherits nothing of it.
        IF NOT pg_has_role(current_user, role_name, 'USAGE') THEN
            IF current_setting('server_version_num')::integer >= 160000 THEN
                EXECUTE format('GRANT %I TO %I WITH INHERIT TRUE, SET TRUE', role_name, current_user);
            ELSE
                EXECUTE format('GRANT %I TO %I', role_name, current_user);
            END IF;
        END IF;
    END LOOP;

    -- Not IF NOT EXISTS: that asks for CREATE on the database even where the schema exists.
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema_text}) THEN
        CREATE SCHEMA {schema};
    END IF;
END
$roles$;

GRANT USAGE ON SCHEMA {schema} TO {writer}, {reader}, {admin}, {maintainer};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE ALL ON TABLES FROM PUBLIC;

CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    duration_ms double precision NOT NULL
);

REVOKE ALL ON {schema}.migrations FROM PUBLIC;
GRANT SELECT ON {schema}.migrations TO {writer}, {reader}, {admin}, {maintainer};

COMMENT ON TABLE {schema}.migrations IS 'The migrations of Tenantry that ran here; the highest version is the version of the schema.';
COMMENT ON COLUMN {schema}.migrations.version IS 'The number in front of the file''s name.';
COMMENT ON COLUMN {schema}.migrations.name IS 'The rest of the file''s name.';
COMMENT ON COLUMN {schema}.migrations.sha256 IS 'Checksum of the file, before names were filled in.';
COMMENT ON COLUMN {schema}.migrations.applied_at IS 'Start of the transaction that applied it.';
COMMENT ON COLUMN {schema}.migrations.duration_ms IS 'How long it took, in milliseconds.';
