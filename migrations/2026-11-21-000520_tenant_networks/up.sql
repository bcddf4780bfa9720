-- The addresses of a tenant's network, from the first bot until the last one is gone: nobody else's meanwhile.
CREATE TABLE tenant_networks (
    tenant_id     uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    -- An IPv4 address as a number, and how many there are from it on.
    first_address bigint      NOT NULL CHECK (first_address BETWEEN 0 AND 4294967295),
    addresses     integer     NOT NULL CHECK (addresses BETWEEN 8 AND 65536),
    created_at    timestamptz NOT NULL,
    CONSTRAINT tenant_networks_apart
        EXCLUDE USING gist (int8range(first_address, first_address + addresses) WITH &&)
);
