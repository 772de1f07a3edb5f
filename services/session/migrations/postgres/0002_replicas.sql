-- Several replicas, and runs that wait for people.

-- A replica's sign of life, by the clock of the database.
CREATE TABLE session.heartbeats (
    owner     text        PRIMARY KEY,
    beat_time timestamptz NOT NULL
);

-- What callers want of runs, until the run has taken it.
CREATE TABLE session.commands (
    run    uuid  NOT NULL REFERENCES session.runs (id),
    id     uuid  NOT NULL,
    tenant text  NOT NULL,
    body   bytea NOT NULL,
    PRIMARY KEY (run, id)
);

-- Human decisions as they stand; the events are the truth of them.
CREATE TABLE session.approvals (
    run         uuid        NOT NULL REFERENCES session.runs (id),
    id          text        NOT NULL,
    tenant      text        NOT NULL,
    session     uuid        NOT NULL,
    state       smallint    NOT NULL,
    body        bytea       NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE INDEX approvals_by_tenant ON session.approvals (tenant, state, run, id);
