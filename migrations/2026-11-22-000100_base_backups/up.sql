-- Copies of the database's files, and attempts at them. The archived log of what was written since brings each to any later
-- instant.
CREATE TABLE base_backups (
    id           uuid        PRIMARY KEY,
    -- The system identifier of the database it is a copy of: one that was made anew has another.
    cluster      bigint      NOT NULL,
    -- The line of history it is a copy of: a database that was brought to an instant begins another.
    timeline     integer     NOT NULL,
    state        text        NOT NULL CHECK (state IN ('creating', 'ready', 'failed', 'deleted')),
    -- What the archive calls it.
    label        text        UNIQUE,
    -- Bytes of the database's files, and how many of them were added to the store, compressed.
    size_bytes   bigint      CHECK (size_bytes >= 0),
    added_bytes  bigint      CHECK (added_bytes >= 0),
    error        text,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    -- When every byte of the archive was last read back, and what was not as it was.
    verified_at  timestamptz,
    verify_error text,
    -- When it was last brought to an instant in another database, which was then what it had been.
    restored_at  timestamptz,
    CHECK (state NOT IN ('ready', 'deleted') OR (label IS NOT NULL AND size_bytes IS NOT NULL
                                                 AND added_bytes IS NOT NULL AND finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX base_backups_by_time ON base_backups (started_at DESC);
