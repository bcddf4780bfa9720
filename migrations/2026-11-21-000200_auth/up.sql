-- People who can sign in. A user's personal tenant carries the user's id.
CREATE TABLE users (
    id                uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    email             text        NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    name              text        NOT NULL CHECK (length(name) <= 256),
    image             text        CHECK (length(image) <= 2048),
    email_verified_at timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
);

-- Ways in. A password is the only one so far.
CREATE TABLE accounts (
    id            uuid        PRIMARY KEY,
    user_id       uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    provider      text        NOT NULL CHECK (provider = 'credential'),
    -- The provider's name for the user; the user's id for passwords.
    account_id    text        NOT NULL,
    password_hash text        NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    UNIQUE (provider, account_id),
    UNIQUE (user_id, provider)
);

CREATE TABLE sessions (
    id             uuid        PRIMARY KEY,
    user_id        uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of the token; the token itself is only with the client.
    token_hash     bytea       NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    -- Whether its life slides on with use.
    remembered     boolean     NOT NULL,
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    client_address text,
    user_agent     text,
    CHECK (expires_at > created_at)
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Secrets sent by mail, each good for one use.
CREATE TABLE one_time_tokens (
    id          uuid        PRIMARY KEY,
    purpose     text        NOT NULL CHECK (purpose IN ('verify_email', 'reset_password')),
    token_hash  bytea       NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    user_id     uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    -- The address it was sent to: a token proves that address and no later one.
    email       text        NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    consumed_at timestamptz,
    CHECK (expires_at > created_at)
);
CREATE INDEX one_time_tokens_by_user ON one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_by_expiry ON one_time_tokens (expires_at);

CREATE TABLE platform_admins (
    user_id    uuid        PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    granted_by text        NOT NULL,
    granted_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id           uuid        PRIMARY KEY,
    -- NULL: bound to no tenant; with the admin scope that is a platform administrator's key.
    tenant_id    uuid        REFERENCES tenants ON DELETE RESTRICT,
    -- The bot it was made for, if any.
    bot_id       uuid,
    scope        text        NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
    label        text        NOT NULL CHECK (length(label) BETWEEN 1 AND 128),
    -- The first characters, to recognise it by.
    prefix       text        NOT NULL,
    key_hash     bytea       NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    -- Written at most every few minutes.
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CHECK (bot_id IS NULL OR tenant_id IS NOT NULL)
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);
CREATE INDEX api_keys_by_bot ON api_keys (bot_id) WHERE bot_id IS NOT NULL;

-- Requests counted in fixed windows.
CREATE TABLE throttle_counters (
    scope          text        NOT NULL,
    key            text        NOT NULL,
    hits           bigint      NOT NULL CHECK (hits > 0),
    window_ends_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX throttle_counters_by_end ON throttle_counters (window_ends_at);

-- Sign-ins that have not succeeded since, per account whether it exists or not.
CREATE TABLE sign_in_attempts (
    -- SHA-256 of the address: strangers' typing errors are not kept in clear.
    account_hash    bytea       PRIMARY KEY CHECK (length(account_hash) = 32),
    attempts        integer     NOT NULL CHECK (attempts > 0),
    last_attempt_at timestamptz NOT NULL,
    blocked_until   timestamptz NOT NULL
);
CREATE INDEX sign_in_attempts_by_time ON sign_in_attempts (last_attempt_at);
