-- Sealed descriptors by tenant and hash. `envelope` is the DSSE envelope in JSON: canonical bytes and signatures.
CREATE TABLE descriptors (
    tenant         TEXT    NOT NULL,
    hash           BLOB    NOT NULL CHECK (length(hash) = 32),
    envelope       TEXT    NOT NULL,
    create_time_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT, WITHOUT ROWID;
