-- Copies of this database, all groups of tables as of one instant, and attempts at them.
CREATE TABLE database_sets (
    id              uuid        PRIMARY KEY,
    kind            text        NOT NULL CHECK (kind IN ('nightly', 'on-demand')),
    requested_by    text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('wanted', 'creating', 'ready', 'failed', 'deleting', 'deleted')),
    -- What the platform's repository calls it.
    engine_snapshot text        UNIQUE,
    -- Bytes of the dumps, and how many of them were new to the repository.
    size_bytes      bigint      CHECK (size_bytes >= 0),
    added_bytes     bigint      CHECK (added_bytes >= 0),
    error           text,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    -- When every byte of it was last read back and found as it was.
    verified_at     timestamptz,
    -- When it was last restored into another database, which had every row then.
    restored_at     timestamptz,
    deleted_at      timestamptz,
    CHECK (state NOT IN ('ready', 'deleting', 'deleted') OR (engine_snapshot IS NOT NULL AND size_bytes IS NOT NULL
                                                 AND added_bytes IS NOT NULL AND finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL)),
    CHECK ((state IN ('deleting', 'deleted')) = (deleted_at IS NOT NULL))
);
CREATE INDEX database_sets_by_time ON database_sets (started_at DESC);

-- Whoever works with the platform's repository holds its only row, so that nobody else does.
CREATE TABLE database_set_lease (
    only_one    boolean     PRIMARY KEY CHECK (only_one),
    owner       uuid        NOT NULL,
    lease_until timestamptz NOT NULL
);
