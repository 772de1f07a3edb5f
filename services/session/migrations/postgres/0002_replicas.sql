-- Several replicas, and runs that wait for people.

-- A replica's sign of life, by the clock of the database. Ids only.
CREATE TABLE session.heartbeats (
    owner     text        PRIMARY KEY,
    beat_time timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON session.heartbeats TO mar_scheduler;

-- A run that is parked has no owner and a time at which it wakes; one that is executed has a wake time while a command waits
-- for it.
ALTER TABLE session.leases ALTER COLUMN owner DROP NOT NULL;
GRANT UPDATE (owner, wake_time) ON session.leases TO mar_session;

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
