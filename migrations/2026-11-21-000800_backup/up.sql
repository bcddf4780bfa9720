-- Copies of bots' volumes, and attempts at them.
CREATE TABLE snapshots (
    id              uuid        PRIMARY KEY,
    bot_id          uuid        NOT NULL REFERENCES bots ON DELETE RESTRICT,
    tenant_id       uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    kind            text        NOT NULL CHECK (kind IN ('nightly', 'hot', 'on-demand', 'pre-restore')),
    name            text        CHECK (length(name) BETWEEN 1 AND 128),
    requested_by    text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('wanted', 'creating', 'ready', 'failed', 'deleting', 'deleted')),
    -- What the bot's repository calls it.
    engine_snapshot text        UNIQUE,
    -- Bytes of the files, and how many of them were new to the repository.
    size_bytes      bigint      CHECK (size_bytes >= 0),
    added_bytes     bigint      CHECK (added_bytes >= 0),
    error           text,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    expires_at      timestamptz,
    -- When every byte of it was last read back and found as it was.
    verified_at     timestamptz,
    deleted_at      timestamptz,
    CHECK (state NOT IN ('ready', 'deleting', 'deleted') OR (engine_snapshot IS NOT NULL AND size_bytes IS NOT NULL
                                                 AND added_bytes IS NOT NULL AND finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL)),
    CHECK ((state IN ('deleting', 'deleted')) = (deleted_at IS NOT NULL))
);
CREATE INDEX snapshots_by_bot ON snapshots (bot_id, started_at DESC);
CREATE INDEX snapshots_by_tenant ON snapshots (tenant_id, started_at DESC);
CREATE INDEX snapshots_wanted ON snapshots (started_at) WHERE state = 'wanted';

-- Attempts at giving a bot the data of a snapshot, failed ones included.
CREATE TABLE restores (
    id              uuid        PRIMARY KEY,
    bot_id          uuid        NOT NULL REFERENCES bots ON DELETE RESTRICT,
    tenant_id       uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    snapshot_id     uuid        NOT NULL REFERENCES snapshots ON DELETE RESTRICT,
    -- What the bot had before; nothing if there was nothing to copy.
    safety_id       uuid        REFERENCES snapshots ON DELETE RESTRICT,
    requested_by    text        NOT NULL,
    reason          text        CHECK (length(reason) <= 1000),
    phase           text        NOT NULL CHECK (phase IN ('saving', 'filling', 'switching', 'done', 'failed')),
    -- The number of the volume that the data goes to, and that of the one before, until that is removed.
    volume          integer     NOT NULL CHECK (volume > 0),
    old_volume      integer     CHECK (old_volume >= 0),
    error           text,
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz,
    created_at      timestamptz NOT NULL,
    switched_at     timestamptz,
    finished_at     timestamptz,
    CHECK ((phase IN ('done', 'failed')) = (finished_at IS NOT NULL)),
    CHECK ((phase IN ('done', 'failed')) = (next_attempt_at IS NULL)),
    CHECK (phase <> 'failed' OR error IS NOT NULL)
);
CREATE INDEX restores_by_tenant ON restores (tenant_id, created_at DESC);
CREATE UNIQUE INDEX restores_one_at_a_time ON restores (bot_id) WHERE phase IN ('saving', 'filling', 'switching');
CREATE UNIQUE INDEX restores_volume ON restores (bot_id, volume);
CREATE INDEX restores_due ON restores (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- Whoever works with a bot's repository holds this, so that nobody else does.
CREATE TABLE backup_leases (
    bot_id      uuid        PRIMARY KEY REFERENCES bots ON DELETE CASCADE,
    owner       uuid        NOT NULL,
    lease_until timestamptz NOT NULL
);
