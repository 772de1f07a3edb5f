-- Sessions, runs and events: the truth of the service. Everything has a tenant. Times are microseconds since 1970, ids 16 bytes.

CREATE TABLE sessions (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    tenant      TEXT    NOT NULL,
    state       INTEGER NOT NULL,
    principal   TEXT    NOT NULL,
    body        BLOB    NOT NULL,
    salt_key    BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    -- Whether its log says that its payloads go.
    pruned      INTEGER NOT NULL DEFAULT 0,
    -- It ends when nothing has happened for so long.
    idle_ms     INTEGER
) STRICT;
CREATE INDEX sessions_by_tenant ON sessions (tenant, id);
-- State 3 has ended; what is past retention is looked for here.
CREATE INDEX sessions_whole ON sessions (tenant, update_time) WHERE state = 3 AND NOT pruned;

-- What is to happen with a session, and when. One that is being seen to is put off meanwhile.
CREATE TABLE timers (
    session  BLOB    NOT NULL REFERENCES sessions (id),
    kind     INTEGER NOT NULL,
    tenant   TEXT    NOT NULL,
    due_time INTEGER NOT NULL,
    -- Where it is due when nothing has happened for so long: since when nothing has.
    idle_ms   INTEGER,
    seen_time INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (session, kind)
) STRICT;
CREATE INDEX timers_by_time ON timers (due_time);

-- The session's own short chain.
CREATE TABLE session_log (
    session  BLOB    NOT NULL REFERENCES sessions (id),
    seq      INTEGER NOT NULL,
    tenant   TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    run      BLOB,
    run_hash BLOB    CHECK (length(run_hash) = 32),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (session, seq)
) STRICT;

-- Changed on state changes only.
CREATE TABLE runs (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    tenant      TEXT    NOT NULL,
    session     BLOB    NOT NULL REFERENCES sessions (id),
    state       INTEGER NOT NULL,
    parallel    INTEGER NOT NULL,
    log_version INTEGER NOT NULL,
    caller      BLOB    NOT NULL,
    summary     BLOB    NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    expire_time INTEGER NOT NULL
) STRICT;
CREATE INDEX runs_by_tenant ON runs (tenant, id);
CREATE INDEX runs_by_session ON runs (session, id);
-- States from 4 on have ended.
CREATE INDEX runs_open ON runs (session) WHERE state < 4;

-- One row per open run: who executes it. One that is parked has no owner, and a time at which it wakes; one that is executed has
-- a wake time while a command waits for it.
CREATE TABLE leases (
    run         BLOB    PRIMARY KEY REFERENCES runs (id),
    tenant      TEXT    NOT NULL,
    session     BLOB    NOT NULL,
    owner       TEXT,
    epoch       INTEGER NOT NULL,
    log_version INTEGER NOT NULL,
    wake_time   INTEGER
) STRICT;

-- What callers want of runs, until the run has taken it.
CREATE TABLE commands (
    run    BLOB NOT NULL REFERENCES runs (id),
    id     BLOB NOT NULL CHECK (length(id) = 16),
    tenant TEXT NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (run, id)
) STRICT;

-- Human decisions as they stand; the events are the truth of them.
CREATE TABLE approvals (
    run         BLOB    NOT NULL REFERENCES runs (id),
    id          TEXT    NOT NULL,
    tenant      TEXT    NOT NULL,
    session     BLOB    NOT NULL,
    state       INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (run, id)
) STRICT;
CREATE INDEX approvals_by_tenant ON approvals (tenant, state, run, id);

-- The primary key is the fence: one writer gets a position.
CREATE TABLE events (
    run_id      BLOB    NOT NULL,
    seq         INTEGER NOT NULL CHECK (seq >= 0),
    tenant      TEXT    NOT NULL,
    -- What the chain begins with: of every other event it is the hash of the row before.
    prev_hash   BLOB    CHECK (length(prev_hash) = 32),
    hash        BLOB    NOT NULL CHECK (length(hash) = 32),
    leaf        BLOB    NOT NULL,
    content     BLOB,
    blob_sha256 BLOB    CHECK (length(blob_sha256) = 32),
    CHECK ((prev_hash IS NOT NULL) = (seq = 0)),
    CHECK (content IS NULL OR blob_sha256 IS NULL),
    PRIMARY KEY (run_id, seq)
) STRICT;

-- Large contents, once per session.
CREATE TABLE blobs (
    tenant  TEXT NOT NULL,
    session BLOB NOT NULL,
    sha256  BLOB NOT NULL CHECK (length(sha256) = 32),
    content BLOB NOT NULL,
    PRIMARY KEY (tenant, session, sha256)
) STRICT;

-- What callers have streamed in, and what they are streaming in. One that no run has named goes at its time.
CREATE TABLE uploads (
    tenant      TEXT    NOT NULL,
    id          BLOB    NOT NULL CHECK (length(id) = 16),
    session     BLOB    NOT NULL REFERENCES sessions (id),
    sha256      BLOB    NOT NULL CHECK (length(sha256) = 32),
    media_type  TEXT    NOT NULL,
    size_bytes  INTEGER NOT NULL CHECK (size_bytes >= 0),
    complete    INTEGER NOT NULL DEFAULT 0,
    create_time INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    expire_time INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE UNIQUE INDEX uploads_by_content ON uploads (tenant, session, sha256) WHERE complete;
CREATE INDEX uploads_by_session ON uploads (tenant, session);

-- Their bytes, each piece but the last of the same size.
CREATE TABLE upload_pieces (
    tenant  TEXT    NOT NULL,
    upload  BLOB    NOT NULL,
    number  INTEGER NOT NULL CHECK (number >= 0),
    content BLOB    NOT NULL,
    PRIMARY KEY (tenant, upload, number),
    FOREIGN KEY (tenant, upload) REFERENCES uploads (tenant, id)
) STRICT;

-- What a caller's request id did. The digest is that of the request's body, with what the caller said: it goes with the session.
CREATE TABLE request_ids (
    tenant      TEXT    NOT NULL,
    principal   TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    request_id  TEXT    NOT NULL,
    digest      BLOB    NOT NULL CHECK (length(digest) = 32),
    session     BLOB    NOT NULL,
    resource    BLOB    NOT NULL,
    create_time INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (tenant, principal, method, request_id)
) STRICT;
CREATE INDEX request_ids_by_session ON request_ids (tenant, session);

-- A window of a budget: which generation of its counters holds, and which thresholds were reached.
CREATE TABLE budgets (
    tenant       TEXT    NOT NULL,
    budget       TEXT    NOT NULL,
    day          INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    reached_cost INTEGER NOT NULL,
    reached_runs INTEGER NOT NULL,
    PRIMARY KEY (tenant, budget, day)
) STRICT;

-- What runs were granted of budgets. One that is closed says what was used of it.
CREATE TABLE slices (
    tenant    TEXT    NOT NULL,
    id        BLOB    NOT NULL,
    budget    TEXT    NOT NULL,
    day       INTEGER NOT NULL,
    run       BLOB    NOT NULL,
    cost      INTEGER NOT NULL,
    runs      INTEGER NOT NULL,
    used_cost INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX slices_by_budget ON slices (tenant, budget, day);
CREATE INDEX slices_open ON slices (tenant, run) WHERE used_cost IS NULL;

-- The hooks of the configuration, set when the file is opened.
CREATE TABLE hooked (
    tenant TEXT NOT NULL,
    hook   TEXT NOT NULL,
    PRIMARY KEY (tenant, hook)
) STRICT;

-- What a hook has been told of a session, and when there is more to tell.
CREATE TABLE hooks (
    session  BLOB    NOT NULL REFERENCES sessions (id),
    hook     TEXT    NOT NULL,
    tenant   TEXT    NOT NULL,
    due_time INTEGER,
    marks    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    cursor   BLOB    NOT NULL DEFAULT x'',
    PRIMARY KEY (session, hook)
) STRICT;
CREATE INDEX hooks_due ON hooks (tenant, hook, due_time) WHERE due_time IS NOT NULL;

-- What could not be told. No payload.
CREATE TABLE dead_notices (
    tenant    TEXT    NOT NULL,
    hook      TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    session   BLOB    NOT NULL,
    notice    BLOB    NOT NULL,
    failure   TEXT    NOT NULL,
    attempts  INTEGER NOT NULL,
    dead_time INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (tenant, hook, id)
) STRICT;
