-- Sealed descriptors by tenant and hash.

-- The role of the service's statements. It may not log in: an operator makes a login a member of it, or lets it log in itself.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mar_agent') THEN
        BEGIN
            CREATE ROLE mar_agent NOLOGIN NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- Roles belong to the whole server: another database's migration was faster.
        END;
    END IF;
    -- Where the owner is the application, too, it takes the role on.
    IF NOT pg_has_role(current_user, 'mar_agent', 'USAGE') THEN
        EXECUTE format('GRANT mar_agent TO %I', current_user);
    END IF;
END
$$;

GRANT USAGE ON SCHEMA agent TO mar_agent;
GRANT SELECT ON agent.migrations TO mar_agent;

-- One row for each sealing: the same descriptor is sealed again when the key that signs has changed. `envelope` is the DSSE
-- envelope in JSON: canonical bytes and signatures. `create_time` is that of the first sealing, in all of them.
CREATE TABLE agent.descriptors (
    tenant      text        NOT NULL CHECK (tenant <> ''),
    hash        bytea       NOT NULL CHECK (octet_length(hash) = 32),
    sealing     integer     NOT NULL CHECK (sealing > 0),
    envelope    text        NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (tenant, hash, sealing)
);
-- Rows are kept to the tenant that the transaction names. Without one there are no rows: a setting that was local to an
-- earlier transaction reads as '', which no tenant is called.
ALTER TABLE agent.descriptors ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON agent.descriptors TO mar_agent
    USING (tenant = current_setting('mar.tenant', true))
    WITH CHECK (tenant = current_setting('mar.tenant', true));
-- What was sealed stays as it was sealed.
GRANT SELECT, INSERT ON agent.descriptors TO mar_agent;
