-- Sealed descriptors by tenant and hash. `envelope` is the DSSE envelope in JSON: canonical bytes and signatures.
CREATE TABLE agent.descriptors (
    tenant      text        NOT NULL,
    hash        bytea       NOT NULL CHECK (octet_length(hash) = 32),
    envelope    text        NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (tenant, hash)
);
