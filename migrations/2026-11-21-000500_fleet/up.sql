-- What is wanted of each bot.
CREATE TABLE bots (
    id              uuid        PRIMARY KEY,
    tenant_id       uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    created_by      uuid,
    name            text        NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    description     text        NOT NULL,
    -- What to run: image, its digest once known, env, restart policy, discovery.
    spec            jsonb       NOT NULL CHECK (spec ?& ARRAY['image', 'env', 'restart_policy']),
    -- What ran before the last change, kept until the change has proved itself.
    fallback        jsonb       CHECK (fallback ?& ARRAY['image', 'env', 'restart_policy']),
    release_channel text        NOT NULL CHECK (release_channel IN ('canary', 'staging', 'stable', 'pinned')),
    update_policy   text        NOT NULL CHECK (update_policy IN ('on-push', 'nightly', 'manual')),
    resource_tier   text        NOT NULL CHECK (resource_tier IN ('standard', 'pro', 'power', 'beast')),
    storage_tier    text        NOT NULL CHECK (storage_tier IN ('standard', 'plus', 'pro', 'max')),
    desired_state   text        NOT NULL CHECK (desired_state IN ('running', 'stopped', 'destroyed')),
    -- Goes up with every change of what is wanted, so that a stale observation is known as one.
    generation      bigint      NOT NULL CHECK (generation >= 1),
    -- Since when it is to run and the account may run it: what is charged for.
    running_since   timestamptz CHECK (running_since IS NULL OR desired_state = 'running'),
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX bots_name ON bots (tenant_id, lower(name)) WHERE desired_state <> 'destroyed';
CREATE INDEX bots_by_tenant ON bots (tenant_id, created_at);

-- What was seen of each bot, and how far the way to what is wanted has got.
CREATE TABLE bot_progress (
    bot_id               uuid        PRIMARY KEY REFERENCES bots ON DELETE CASCADE,
    phase                text        NOT NULL CHECK (phase IN ('pending', 'pulling', 'creating', 'starting', 'running',
                                                               'stopping', 'stopped', 'destroying', 'destroyed', 'error')),
    restart_wanted       boolean     NOT NULL DEFAULT false,
    suspended_at         timestamptz,
    destroy_after        timestamptz CHECK (destroy_after IS NULL OR suspended_at IS NOT NULL),
    container_id         text,
    container_state      text,
    container_health     text,
    container_started_at timestamptz,
    container_created_at timestamptz,
    -- The container that was given its key.
    keyed_container      text,
    last_error           text,
    attempts             integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- When to look again; null when there is nothing left to do.
    next_attempt_at      timestamptz,
    -- Whoever acts on the bot holds this, so that nobody else does.
    lease_owner          uuid,
    lease_until          timestamptz,
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);
CREATE INDEX bot_progress_due ON bot_progress (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

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
