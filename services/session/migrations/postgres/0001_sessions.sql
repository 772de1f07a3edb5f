-- Sessions, runs and events: the truth of the service. Everything has a tenant.

CREATE TABLE session.sessions (
    id          uuid        PRIMARY KEY,
    tenant      text        NOT NULL,
    state       smallint    NOT NULL,
    principal   text        NOT NULL,
    body        bytea       NOT NULL,
    salt_key    bytea       NOT NULL,
    version     bigint      NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX sessions_by_tenant ON session.sessions (tenant, id);

-- The session's own short chain.
CREATE TABLE session.session_log (
    session  uuid     NOT NULL REFERENCES session.sessions (id),
    seq      bigint   NOT NULL,
    tenant   text     NOT NULL,
    kind     text     NOT NULL,
    run      uuid,
    run_hash bytea    CHECK (octet_length(run_hash) = 32),
    hash     bytea    NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (session, seq)
);

-- Changed on state changes only.
CREATE TABLE session.runs (
    id          uuid        PRIMARY KEY,
    tenant      text        NOT NULL,
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

-- One row per open run: who executes it.
CREATE TABLE session.leases (
    run         uuid    PRIMARY KEY REFERENCES session.runs (id),
    tenant      text    NOT NULL,
    session     uuid    NOT NULL,
    owner       text,
    epoch       bigint  NOT NULL,
    log_version integer NOT NULL,
    wake_time   timestamptz
);

-- The primary key is the fence: one writer gets a position. No foreign keys: an append checks the event before it.
CREATE TABLE session.events (
    run_id      uuid   NOT NULL,
    seq         bigint NOT NULL CHECK (seq >= 0),
    tenant      text   NOT NULL,
    session     uuid   NOT NULL,
    prev_hash   bytea  NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash        bytea  NOT NULL CHECK (octet_length(hash) = 32),
    leaf        bytea  NOT NULL,
    content     bytea,
    blob_sha256 bytea  CHECK (octet_length(blob_sha256) = 32),
    CHECK (content IS NULL OR blob_sha256 IS NULL),
    PRIMARY KEY (run_id, seq)
);

-- Large contents, once per session.
CREATE TABLE session.blobs (
    tenant  text  NOT NULL,
    session uuid  NOT NULL,
    sha256  bytea NOT NULL CHECK (octet_length(sha256) = 32),
    content bytea NOT NULL,
    PRIMARY KEY (tenant, session, sha256)
);

-- What a caller's request id did.
CREATE TABLE session.request_ids (
    tenant      text        NOT NULL,
    principal   text        NOT NULL,
    method      text        NOT NULL,
    request_id  text        NOT NULL,
    digest      bytea       NOT NULL CHECK (octet_length(digest) = 32),
    resource    uuid        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, principal, method, request_id)
);
