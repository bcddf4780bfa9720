-- Bots: what is wanted, what was seen, and the way from one to the other.
CREATE TABLE bots (
    id                 uuid        PRIMARY KEY,
    tenant_id          uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    created_by         uuid,
    name               text        NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    description        text        NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,

    -- What to run. The digest is found once per image and is what runs.
    image              text        NOT NULL,
    image_digest       text        CHECK (image_digest ~ 'sha256:[0-9a-f]{64}$'),
    env                jsonb       NOT NULL CHECK (jsonb_typeof(env) = 'object'),
    restart_policy     text        NOT NULL CHECK (restart_policy IN ('no', 'always', 'on-failure', 'unless-stopped')),
    discovery          jsonb       CHECK (jsonb_typeof(discovery) = 'object'),
    release_channel    text        NOT NULL CHECK (release_channel IN ('canary', 'staging', 'stable', 'pinned')),
    update_policy      text        NOT NULL CHECK (update_policy IN ('on-push', 'nightly', 'manual')),
    resource_tier      text        NOT NULL CHECK (resource_tier IN ('standard', 'pro', 'power', 'beast')),
    storage_tier       text        NOT NULL CHECK (storage_tier IN ('standard', 'plus', 'pro', 'max')),
    -- What ran before the last change, kept until the change has proved itself.
    fallback           jsonb       CHECK (jsonb_typeof(fallback) = 'object'),

    -- What the owner wants. Every change of it, or of what to run, is a new generation.
    desired_state      text        NOT NULL CHECK (desired_state IN ('running', 'stopped', 'destroyed')),
    generation         bigint      NOT NULL CHECK (generation >= 1),
    restarts_wanted    bigint      NOT NULL DEFAULT 0,
    restarts_done      bigint      NOT NULL DEFAULT 0 CHECK (restarts_done <= restarts_wanted),
    -- Set while the account may not run it; the wish above is kept for its return.
    suspended_at       timestamptz,
    destroy_after      timestamptz,
    -- Since when it is to run and may: what is charged for.
    running_since      timestamptz,

    -- What was seen, and under which generation.
    phase              text        NOT NULL CHECK (phase IN ('pending', 'pulling', 'creating', 'starting', 'running',
                                                             'stopping', 'stopped', 'destroying', 'destroyed', 'error')),
    observed_generation bigint     NOT NULL DEFAULT 0,
    observed_at        timestamptz,
    container_id       text,
    container_state    text,
    container_health   text,
    container_started_at timestamptz,
    container_created_at timestamptz,
    -- The container that was given its key.
    keyed_container    text,
    last_error         text,
    attempts           integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- When to look again; null when there is nothing left to do.
    next_attempt_at    timestamptz,

    -- Whoever acts on the bot holds this, so that nobody else does.
    lease_owner        uuid,
    lease_until        timestamptz,

    CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CHECK ((destroy_after IS NULL) OR (suspended_at IS NOT NULL)),
    CHECK ((running_since IS NOT NULL) = (desired_state = 'running' AND suspended_at IS NULL)),
    CHECK (phase <> 'destroyed' OR desired_state = 'destroyed'),
    CHECK (observed_generation <= generation)
);
CREATE UNIQUE INDEX bots_name ON bots (tenant_id, lower(name)) WHERE desired_state <> 'destroyed';
CREATE INDEX bots_by_tenant ON bots (tenant_id, created_at);
CREATE INDEX bots_due ON bots (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- One row per bot, day and component, written when the bot is to run on that day and kept as the reason for the charge.
CREATE TABLE bot_charges (
    bot_id       uuid        NOT NULL REFERENCES bots ON DELETE RESTRICT,
    date         date        NOT NULL,
    component    text        NOT NULL CHECK (component IN ('runtime', 'resource', 'storage')),
    amount_nanos bigint      NOT NULL CHECK (amount_nanos > 0),
    state        text        NOT NULL CHECK (state IN ('due', 'charged', 'waived')),
    created_at   timestamptz NOT NULL,
    decided_at   timestamptz,
    PRIMARY KEY (bot_id, date, component),
    CHECK ((state = 'due') = (decided_at IS NULL))
);
CREATE INDEX bot_charges_due ON bot_charges (date) WHERE state = 'due';
