-- Sessions, runs and events: the truth of the service. Everything has a tenant.

-- Who may do what. No role here may log in: an operator makes a login a member of mar_session, or lets mar_session itself
-- log in. NOINHERIT: the application takes on mar_scheduler for a transaction that asks for it, and never by accident.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mar_session', 'mar_scheduler', 'mar_retention'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- Roles belong to the whole server: another database's migration was faster.
            END;
        END IF;
        -- The functions below see what a role sees whose policies their owner inherits.
        IF NOT pg_has_role(current_user, wanted, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user);
        END IF;
    END LOOP;
    IF NOT pg_has_role('mar_session', 'mar_scheduler', 'MEMBER') THEN
        BEGIN
            GRANT mar_scheduler TO mar_session;
        EXCEPTION WHEN unique_violation OR internal_error THEN
            IF NOT pg_has_role('mar_session', 'mar_scheduler', 'MEMBER') THEN RAISE; END IF;
        END;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA session TO mar_session, mar_scheduler, mar_retention;
GRANT SELECT ON session.migrations TO mar_session;

-- Keeps a table's rows to the tenant that the transaction names. Without one there are no rows: a setting that was local to
-- an earlier transaction reads as '', which no tenant is called.
CREATE FUNCTION session.isolate(isolated regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', isolated);
    EXECUTE format(
        'CREATE POLICY tenant ON %s TO mar_session, mar_retention '
        'USING (tenant = current_setting(''mar.tenant'', true)) '
        'WITH CHECK (tenant = current_setting(''mar.tenant'', true))', isolated);
END
$$;
REVOKE ALL ON FUNCTION session.isolate FROM PUBLIC;

CREATE TABLE session.sessions (
    id          uuid        PRIMARY KEY,
    tenant      text        NOT NULL CHECK (tenant <> ''),
    state       smallint    NOT NULL,
    principal   text        NOT NULL,
    body        bytea       NOT NULL,
    salt_key    bytea       NOT NULL,
    version     bigint      NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- Whether its log says that its payloads go.
    pruned      boolean     NOT NULL DEFAULT false,
    -- It ends when nothing has happened for so long.
    idle_ms     bigint
);
CREATE INDEX sessions_by_tenant ON session.sessions (tenant, id);
-- State 3 has ended; what is past retention is looked for here.
CREATE INDEX sessions_whole ON session.sessions (tenant, update_time) WHERE state = 3 AND NOT pruned;
SELECT session.isolate('session.sessions');
GRANT SELECT, INSERT, UPDATE (state, body, version, update_time, pruned, idle_ms) ON session.sessions TO mar_session;
GRANT SELECT (id, tenant), UPDATE (salt_key) ON session.sessions TO mar_retention;

-- The session's own short chain.
CREATE TABLE session.session_log (
    session  uuid     NOT NULL REFERENCES session.sessions (id),
    seq      bigint   NOT NULL,
    tenant   text     NOT NULL CHECK (tenant <> ''),
    kind     text     NOT NULL,
    run      uuid,
    run_hash bytea    CHECK (octet_length(run_hash) = 32),
    hash     bytea    NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (session, seq)
);
SELECT session.isolate('session.session_log');
GRANT SELECT, INSERT ON session.session_log TO mar_session;
GRANT SELECT (session, tenant, kind) ON session.session_log TO mar_retention;

-- What is to happen with a session, and when. One that a replica sees to is put off meanwhile, so that another does when
-- nothing came of it. Ids only.
CREATE TABLE session.timers (
    session  uuid        NOT NULL REFERENCES session.sessions (id),
    kind     smallint    NOT NULL,
    tenant   text        NOT NULL CHECK (tenant <> ''),
    due_time timestamptz NOT NULL,
    -- Where it is due when nothing has happened for so long: since when nothing has.
    idle_ms   bigint,
    seen_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session, kind)
);
CREATE INDEX timers_by_time ON session.timers (due_time);
SELECT session.isolate('session.timers');
GRANT SELECT, INSERT, UPDATE (due_time, idle_ms, seen_time), DELETE ON session.timers TO mar_session;
-- Claims go across tenants.
GRANT SELECT, UPDATE (due_time, seen_time) ON session.timers TO mar_scheduler;
CREATE POLICY claims ON session.timers TO mar_scheduler USING (true) WITH CHECK (true);

-- Changed on state changes only.
CREATE TABLE session.runs (
    id          uuid        PRIMARY KEY,
    tenant      text        NOT NULL CHECK (tenant <> ''),
    session     uuid        NOT NULL REFERENCES session.sessions (id),
    state       smallint    NOT NULL,
    parallel    boolean     NOT NULL,
    log_version integer     NOT NULL,
    caller      bytea       NOT NULL,
    summary     bytea       NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL
);
CREATE INDEX runs_by_tenant ON session.runs (tenant, id);
CREATE INDEX runs_by_session ON session.runs (session, id);
-- States from 4 on have ended.
CREATE INDEX runs_open ON session.runs (session) WHERE state < 4;
SELECT session.isolate('session.runs');
GRANT SELECT, INSERT, UPDATE (state, summary, update_time) ON session.runs TO mar_session;
-- Retention looks at the ages of all tenants' runs, and at nothing else of them.
GRANT SELECT (id, tenant, session, state, update_time), UPDATE (summary, caller) ON session.runs TO mar_retention;
CREATE POLICY ages ON session.runs FOR SELECT TO mar_retention USING (true);

-- A replica's sign of life, by the clock of the database. Ids only.
CREATE TABLE session.heartbeats (
    owner      text        PRIMARY KEY,
    beat_time  timestamptz NOT NULL,
    -- Since when it has beaten without a gap. After a stall of the database everybody looks dead: who has just come back
    -- itself cannot tell.
    since_time timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON session.heartbeats TO mar_scheduler;

-- One row per open run: who executes it. One that is parked has no owner, and a time at which it wakes; one that is executed
-- has a wake time while a command waits for it. Ids only.
CREATE TABLE session.leases (
    run         uuid    PRIMARY KEY REFERENCES session.runs (id),
    tenant      text    NOT NULL CHECK (tenant <> ''),
    session     uuid    NOT NULL,
    owner       text,
    epoch       bigint  NOT NULL,
    log_version integer NOT NULL,
    wake_time   timestamptz
);
SELECT session.isolate('session.leases');
GRANT SELECT, INSERT, DELETE, UPDATE (wake_time) ON session.leases TO mar_session;
-- Claims go across tenants.
GRANT SELECT, UPDATE (owner, epoch, wake_time) ON session.leases TO mar_scheduler;
CREATE POLICY claims ON session.leases TO mar_scheduler USING (true) WITH CHECK (true);

-- The primary key is the fence: one writer gets a position. No foreign keys: an append checks the event before it. A
-- partition holds the runs whose ids were made in one month (UTC).
CREATE TABLE session.events (
    run_id      uuid   NOT NULL,
    seq         bigint NOT NULL CHECK (seq >= 0),
    tenant      text   NOT NULL CHECK (tenant <> ''),
    -- What the chain begins with: of every other event it is the hash of the row before.
    prev_hash   bytea  CHECK (octet_length(prev_hash) = 32),
    hash        bytea  NOT NULL CHECK (octet_length(hash) = 32),
    leaf        bytea  NOT NULL,
    content     bytea,
    blob_sha256 bytea  CHECK (octet_length(blob_sha256) = 32),
    CHECK ((prev_hash IS NOT NULL) = (seq = 0)),
    CHECK (content IS NULL OR blob_sha256 IS NULL),
    PRIMARY KEY (run_id, seq)
) PARTITION BY RANGE (run_id);
SELECT session.isolate('session.events');
GRANT SELECT, INSERT ON session.events TO mar_session;
-- Payloads may go, leaves and hashes stay.
GRANT SELECT (run_id, seq, tenant, blob_sha256), UPDATE (content, blob_sha256) ON session.events TO mar_retention;

-- Catches what no partition takes, so that nothing is refused; it has to stay empty. No partition is granted to anybody:
-- the way to the rows is the parent table.
CREATE TABLE session.events_stray PARTITION OF session.events DEFAULT;
SELECT session.isolate('session.events_stray');
CREATE POLICY strays ON session.events_stray FOR SELECT TO mar_retention USING (true);

-- The lowest UUIDv7 of a time.
CREATE FUNCTION session.lowest_id(at timestamp) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
REVOKE ALL ON FUNCTION session.lowest_id FROM PUBLIC;

-- Makes the partitions of this month and of some after it; answers how many were missing. Attaching locks the parent only
-- against other changes of its definition, so that appends go on.
CREATE FUNCTION session.events_prepare(months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    this  timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month timestamp;
    part  text;
    made  integer := 0;
    -- The first time also the month before: ids may be timed by a clock that is late.
    start integer := CASE WHEN (SELECT count(*) FROM pg_inherits WHERE inhparent = 'session.events'::regclass) > 1
                     THEN 0 ELSE -1 END;
BEGIN
    IF months IS NULL OR months NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'months must be 0 to 24' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('session.events_prepare'));
    FOR ahead IN start..months LOOP
        month := this + make_interval(months => ahead);
        part := 'events_' || to_char(month, 'YYYYMM');
        CONTINUE WHEN to_regclass('session.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE session.%I (LIKE session.events INCLUDING ALL)', part);
        PERFORM session.isolate(to_regclass('session.' || part));
        EXECUTE format('ALTER TABLE session.events ATTACH PARTITION session.%I FOR VALUES FROM (%L) TO (%L)',
            part, session.lowest_id(month), session.lowest_id(month + interval '1 month'));
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION session.events_prepare FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session.events_prepare TO mar_session, mar_scheduler, mar_retention;

-- How many rows no partition took, counted up to 1000.
CREATE FUNCTION session.events_strays() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(current_user, 'mar_retention', 'USAGE') THEN
        RAISE EXCEPTION 'the owner % has to inherit mar_retention', current_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN (SELECT count(*) FROM (SELECT 1 FROM session.events_stray LIMIT 1000) AS strays);
END
$$;
REVOKE ALL ON FUNCTION session.events_strays FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session.events_strays TO mar_session, mar_scheduler, mar_retention;

-- Drops the partition of a month when every run in it ended before a time; answers whether it did.
CREATE FUNCTION session.events_drop(month date, ended_before timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    first timestamp := date_trunc('month', month::timestamp);
    part  text := 'events_' || to_char(first, 'YYYYMM');
BEGIN
    -- Who does not see the runs of all tenants would take them for gone.
    IF NOT pg_has_role(current_user, 'mar_retention', 'USAGE') THEN
        RAISE EXCEPTION 'the owner % has to inherit mar_retention', current_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF ended_before IS NULL OR to_regclass('session.' || part) IS NULL THEN
        RETURN false;
    END IF;
    -- A month that is not over still gets runs.
    IF first + interval '1 month' > now() AT TIME ZONE 'UTC' OR EXISTS (
        SELECT FROM session.runs
        WHERE id >= session.lowest_id(first) AND id < session.lowest_id(first + interval '1 month')
            AND (state < 4 OR update_time >= ended_before)
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE session.%I', part);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION session.events_drop FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session.events_drop TO mar_retention;

SELECT session.events_prepare(3);

-- Large contents, once per session.
CREATE TABLE session.blobs (
    tenant  text  NOT NULL CHECK (tenant <> ''),
    session uuid  NOT NULL,
    sha256  bytea NOT NULL CHECK (octet_length(sha256) = 32),
    content bytea NOT NULL,
    PRIMARY KEY (tenant, session, sha256)
);
SELECT session.isolate('session.blobs');
GRANT SELECT, INSERT ON session.blobs TO mar_session;
GRANT SELECT (tenant, session, sha256), DELETE ON session.blobs TO mar_retention;

-- What callers have streamed in, and what they are streaming in. One that no run has named goes at its time; one that a run
-- has named has none, and stays as long as the session's payloads.
CREATE TABLE session.uploads (
    tenant      text        NOT NULL CHECK (tenant <> ''),
    id          uuid        NOT NULL,
    session     uuid        NOT NULL REFERENCES session.sessions (id),
    sha256      bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    media_type  text        NOT NULL,
    size_bytes  bigint      NOT NULL CHECK (size_bytes >= 0),
    complete    boolean     NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX uploads_by_content ON session.uploads (tenant, session, sha256) WHERE complete;
CREATE INDEX uploads_by_session ON session.uploads (tenant, session);
SELECT session.isolate('session.uploads');
GRANT SELECT, INSERT, UPDATE (complete, create_time, expire_time) ON session.uploads TO mar_session;
-- What is kept stays kept.
CREATE POLICY kept ON session.uploads AS RESTRICTIVE FOR UPDATE TO mar_session
    USING (expire_time IS NOT NULL) WITH CHECK (true);
GRANT SELECT (tenant, id, session, expire_time), DELETE ON session.uploads TO mar_retention;

-- Their bytes, each piece but the last of the same size.
CREATE TABLE session.upload_pieces (
    tenant  text    NOT NULL CHECK (tenant <> ''),
    upload  uuid    NOT NULL,
    number  integer NOT NULL CHECK (number >= 0),
    content bytea   NOT NULL,
    PRIMARY KEY (tenant, upload, number),
    FOREIGN KEY (tenant, upload) REFERENCES session.uploads (tenant, id)
);
SELECT session.isolate('session.upload_pieces');
GRANT SELECT, INSERT ON session.upload_pieces TO mar_session;
GRANT SELECT (tenant, upload, number), DELETE ON session.upload_pieces TO mar_retention;

-- What a caller's request id did. The digest is that of the request's body, with what the caller said: it goes with the session.
CREATE TABLE session.request_ids (
    tenant      text        NOT NULL CHECK (tenant <> ''),
    principal   text        NOT NULL,
    method      text        NOT NULL,
    request_id  text        NOT NULL,
    digest      bytea       NOT NULL CHECK (octet_length(digest) = 32),
    session     uuid        NOT NULL,
    resource    uuid        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, principal, method, request_id)
);
SELECT session.isolate('session.request_ids');
GRANT SELECT, INSERT ON session.request_ids TO mar_session;
CREATE INDEX request_ids_by_session ON session.request_ids (tenant, session);
GRANT SELECT (tenant, method, session, create_time), UPDATE (digest), DELETE ON session.request_ids TO mar_retention;

-- What callers want of runs, until the run has taken it.
CREATE TABLE session.commands (
    run    uuid  NOT NULL REFERENCES session.runs (id),
    id     uuid  NOT NULL,
    tenant text  NOT NULL CHECK (tenant <> ''),
    body   bytea NOT NULL,
    PRIMARY KEY (run, id)
);
SELECT session.isolate('session.commands');
GRANT SELECT, INSERT, DELETE ON session.commands TO mar_session;
GRANT SELECT (run, tenant), DELETE ON session.commands TO mar_retention;

-- Human decisions as they stand; the events are the truth of them.
CREATE TABLE session.approvals (
    run         uuid        NOT NULL REFERENCES session.runs (id),
    id          text        NOT NULL,
    tenant      text        NOT NULL CHECK (tenant <> ''),
    session     uuid        NOT NULL,
    state       smallint    NOT NULL,
    body        bytea       NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE INDEX approvals_by_tenant ON session.approvals (tenant, state, run, id);
SELECT session.isolate('session.approvals');
GRANT SELECT, INSERT, UPDATE (state, body) ON session.approvals TO mar_session;
GRANT SELECT (run, tenant, session), DELETE ON session.approvals TO mar_retention;

-- What a hook has been told of a session: one row per session and hook, which one replica at a time sends from. Ids only.
CREATE TABLE session.hooks (
    session  uuid     NOT NULL REFERENCES session.sessions (id),
    hook     text     NOT NULL,
    tenant   text     NOT NULL CHECK (tenant <> ''),
    -- When there is something to tell; none when everything was told.
    due_time timestamptz,
    -- +1 with everything that happens: what was told before is not all.
    marks    bigint   NOT NULL,
    -- Number of the claim; another's progress is not overwritten.
    epoch    bigint   NOT NULL DEFAULT 0,
    attempts integer  NOT NULL DEFAULT 0,
    -- What was told, as positions in the session's log and its runs' logs.
    cursor   bytea    NOT NULL DEFAULT '',
    PRIMARY KEY (session, hook)
);
CREATE INDEX hooks_due ON session.hooks (tenant, hook, due_time) WHERE due_time IS NOT NULL;
SELECT session.isolate('session.hooks');
GRANT SELECT, INSERT, UPDATE (due_time, marks, epoch, attempts, cursor) ON session.hooks TO mar_session;

-- What could not be told. No payload.
CREATE TABLE session.dead_notices (
    tenant    text        NOT NULL CHECK (tenant <> ''),
    hook      text        NOT NULL,
    id        text        NOT NULL,
    session   uuid        NOT NULL,
    notice    bytea       NOT NULL,
    failure   text        NOT NULL,
    attempts  integer     NOT NULL,
    dead_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, hook, id)
);
SELECT session.isolate('session.dead_notices');
GRANT SELECT, INSERT, UPDATE (failure, attempts), DELETE ON session.dead_notices TO mar_session;

-- What follows belongs to mar_retention and runs with its rights: the application destroys payloads through these alone, of
-- the tenant that its transaction names, and only where the session's own log says so first.

-- Whether the log of a session of this tenant says that its payloads go ('pruned', 'erased') or all of it does ('erased').
CREATE FUNCTION session.goes(home uuid, kinds text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM session.session_log l
        WHERE l.session = home AND l.tenant = current_setting('mar.tenant', true) AND l.kind = ANY (kinds))
$$;

-- Destroys the payloads of a run that has ended, and of one that is erased what its caller was known by.
CREATE FUNCTION session.run_forget(gone uuid, rest bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose  text := current_setting('mar.tenant', true);
    home   uuid := (SELECT r.session FROM session.runs r WHERE r.id = gone AND r.tenant = whose AND r.state >= 4);
    erased boolean;
BEGIN
    IF home IS NULL OR NOT session.goes(home, ARRAY['pruned', 'erased']) THEN
        RAISE EXCEPTION 'no log says that the payloads of run % go', gone USING ERRCODE = 'insufficient_privilege';
    END IF;
    erased := session.goes(home, ARRAY['erased']);
    UPDATE session.events SET content = NULL, blob_sha256 = NULL WHERE run_id = gone AND tenant = whose;
    DELETE FROM session.approvals WHERE run = gone AND tenant = whose;
    DELETE FROM session.commands WHERE run = gone AND tenant = whose;
    UPDATE session.runs SET summary = rest WHERE id = gone AND tenant = whose;
    IF erased THEN
        UPDATE session.runs SET caller = '' WHERE id = gone AND tenant = whose;
    END IF;
END
$$;

-- Destroys some of a session's blobs and of what was streamed into it; answers how many pieces went.
CREATE FUNCTION session.blobs_forget(home uuid, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose   text := current_setting('mar.tenant', true);
    removed bigint;
BEGIN
    IF NOT session.goes(home, ARRAY['pruned', 'erased']) THEN
        RAISE EXCEPTION 'no log says that the blobs of session % go', home USING ERRCODE = 'insufficient_privilege';
    END IF;
    DELETE FROM session.blobs b WHERE b.tenant = whose AND b.session = home AND b.sha256 IN (
        SELECT c.sha256 FROM session.blobs c WHERE c.tenant = whose AND c.session = home LIMIT most);
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF removed > 0 THEN
        RETURN removed;
    END IF;
    DELETE FROM session.upload_pieces p WHERE p.tenant = whose AND (p.upload, p.number) IN (
        SELECT q.upload, q.number FROM session.upload_pieces q
        JOIN session.uploads u ON u.tenant = q.tenant AND u.id = q.upload
        WHERE q.tenant = whose AND u.session = home LIMIT most);
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF removed = 0 THEN
        DELETE FROM session.uploads u WHERE u.tenant = whose AND u.session = home;
    END IF;
    RETURN removed;
END
$$;

-- Destroys what was streamed into a session and whose time has come: no run has named it.
CREATE FUNCTION session.uploads_expire(home uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose text := current_setting('mar.tenant', true);
    gone  uuid[] := ARRAY(
        SELECT u.id FROM session.uploads u
        WHERE u.tenant = whose AND u.session = home AND u.expire_time <= now());
BEGIN
    DELETE FROM session.upload_pieces p WHERE p.tenant = whose AND p.upload = ANY (gone);
    DELETE FROM session.uploads u WHERE u.tenant = whose AND u.id = ANY (gone);
END
$$;

-- Destroys the key of a session's commitments. Its requests keep their ids, and nothing that their bodies could be found by;
-- those that end and erase hold no more than the session's name.
CREATE FUNCTION session.keys_forget(home uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose text := current_setting('mar.tenant', true);
BEGIN
    IF NOT session.goes(home, ARRAY['erased']) THEN
        RAISE EXCEPTION 'no log says that session % is erased', home USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE session.sessions SET salt_key = '' WHERE id = home AND tenant = whose;
    UPDATE session.request_ids SET digest = decode(repeat('00', 32), 'hex')
    WHERE tenant = whose AND session = home AND method NOT LIKE '%/EndSession' AND method NOT LIKE '%/EraseSession';
END
$$;

REVOKE ALL ON FUNCTION
    session.goes, session.run_forget, session.blobs_forget, session.uploads_expire, session.keys_forget FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session.run_forget, session.blobs_forget, session.uploads_expire, session.keys_forget
    TO mar_session;
GRANT CREATE ON SCHEMA session TO mar_retention;
ALTER FUNCTION session.goes OWNER TO mar_retention;
ALTER FUNCTION session.run_forget OWNER TO mar_retention;
ALTER FUNCTION session.blobs_forget OWNER TO mar_retention;
ALTER FUNCTION session.uploads_expire OWNER TO mar_retention;
ALTER FUNCTION session.keys_forget OWNER TO mar_retention;
REVOKE CREATE ON SCHEMA session FROM mar_retention;

-- A window of a budget: which generation of its counters holds, and which thresholds were reached.
CREATE TABLE session.budgets (
    tenant       text     NOT NULL CHECK (tenant <> ''),
    budget       text     NOT NULL,
    day          bigint   NOT NULL,
    generation   bigint   NOT NULL,
    reached_cost smallint NOT NULL,
    reached_runs smallint NOT NULL,
    PRIMARY KEY (tenant, budget, day)
);
SELECT session.isolate('session.budgets');
GRANT SELECT, INSERT, UPDATE (generation, reached_cost, reached_runs) ON session.budgets TO mar_session;

-- What runs were granted of budgets. One that is closed says what was used of it.
CREATE TABLE session.slices (
    tenant    text   NOT NULL CHECK (tenant <> ''),
    id        uuid   NOT NULL,
    budget    text   NOT NULL,
    day       bigint NOT NULL,
    run       uuid   NOT NULL,
    cost      bigint NOT NULL,
    runs      bigint NOT NULL,
    used_cost bigint,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX slices_by_budget ON session.slices (tenant, budget, day);
CREATE INDEX slices_open ON session.slices (tenant, run) WHERE used_cost IS NULL;
SELECT session.isolate('session.slices');
GRANT SELECT, INSERT, UPDATE (used_cost) ON session.slices TO mar_session;
