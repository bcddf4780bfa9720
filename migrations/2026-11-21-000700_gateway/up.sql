-- A key that calls models and opens nothing else.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_scope_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_scope_check CHECK (scope IN ('inference', 'read', 'write', 'admin'));

-- Credit that a process has taken out of a wallet's available part, in one slice for many calls, to spend without asking
-- again. What it spends leaves the lease and the wallet in the same statement's transaction; the rest goes back.
CREATE TABLE credit_leases (
    tenant_id  uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    -- The journal of the process: it has the same name after a restart.
    holder     uuid        NOT NULL,
    left_nanos bigint      NOT NULL CHECK (left_nanos >= 0),
    renewed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, holder)
) WITH (fillfactor = 70);
CREATE INDEX credit_leases_by_renewal ON credit_leases (renewed_at) WHERE left_nanos > 0;

-- Keeps wallets.held_nanos at the sum of open holds and leases.
CREATE FUNCTION leases_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved record;
    available bigint;
BEGIN
    FOR moved IN
        SELECT tenant_id, sum(delta)::bigint AS delta, max(at) AS at FROM (
            SELECT a.tenant_id, a.left_nanos - coalesce(b.left_nanos, 0) AS delta, a.renewed_at AS at
            FROM after_change a LEFT JOIN before_change b USING (tenant_id, holder)
        ) change GROUP BY 1 HAVING sum(delta) <> 0 ORDER BY 1
    LOOP
        UPDATE wallets SET held_nanos = held_nanos + moved.delta, version = version + 1, updated_at = moved.at
            WHERE tenant_id = moved.tenant_id RETURNING balance_nanos - held_nanos INTO available;
        IF NOT FOUND THEN
            available := -moved.delta; -- nothing was ever posted: nothing can be leased
        END IF;
        IF moved.delta > 0 AND available < 0 THEN
            RAISE EXCEPTION 'the lease exceeds the available credit' USING
                ERRCODE = 'check_violation', CONSTRAINT = 'wallets_not_overdrawn',
                DETAIL = json_build_object('tenant', moved.tenant_id, 'available', available + moved.delta,
                                           'required', moved.delta);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_leases_changed AFTER UPDATE ON credit_leases
    REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION leases_changed();
-- A lease begins empty and is never removed while it has something.
CREATE FUNCTION refuse_lease_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a lease begins and ends empty and belongs to one holder' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER credit_leases_begin_empty BEFORE INSERT ON credit_leases
    FOR EACH ROW WHEN (NEW.left_nanos <> 0) EXECUTE FUNCTION refuse_lease_change();
CREATE TRIGGER credit_leases_keep_holder BEFORE UPDATE ON credit_leases
    FOR EACH ROW WHEN (NEW.tenant_id <> OLD.tenant_id OR NEW.holder <> OLD.holder) EXECUTE FUNCTION refuse_lease_change();
CREATE TRIGGER credit_leases_end_empty BEFORE DELETE ON credit_leases
    FOR EACH ROW WHEN (OLD.left_nanos <> 0) EXECUTE FUNCTION refuse_lease_change();
CREATE TRIGGER credit_leases_no_truncate BEFORE TRUNCATE ON credit_leases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_lease_change();

-- The lease that a debit was spent from. What was spent has happened: it may overdraw, as a capture may.
ALTER TABLE ledger_transfers ADD COLUMN lease_holder uuid;
ALTER TABLE ledger_transfers ADD CONSTRAINT ledger_transfers_lease CHECK (
    lease_holder IS NULL OR kind = 'adapter_usage' AND hold_id IS NULL);
CREATE OR REPLACE FUNCTION ledger_posted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved record;
    available bigint;
BEGIN
    FOR moved IN
        SELECT account, sum(amount)::bigint AS delta, max(at) AS at,
               coalesce(sum(-amount) FILTER (WHERE ordinary), 0)::bigint AS ordinary,
               coalesce(sum(-amount) FILTER (WHERE amount < 0 AND NOT ordinary), 0)::bigint AS exempt
        FROM (
            SELECT debit_account AS account, -amount_nanos AS amount, occurred_at AS at,
                   hold_id IS NULL AND lease_holder IS NULL
                       AND kind NOT IN ('refund', 'bonus_reversal', 'dispute', 'admin_adjust') AS ordinary
            FROM posted WHERE debit_account > '00000000-0000-0000-0000-0000000000ff'
            UNION ALL
            SELECT credit_account, amount_nanos, occurred_at, false
            FROM posted WHERE credit_account > '00000000-0000-0000-0000-0000000000ff'
        ) movement
        GROUP BY account ORDER BY account
    LOOP
        UPDATE wallets SET balance_nanos = balance_nanos + moved.delta, version = version + 1, updated_at = moved.at
            WHERE tenant_id = moved.account RETURNING balance_nanos - held_nanos INTO available;
        IF NOT FOUND THEN
            INSERT INTO wallets (tenant_id, balance_nanos, version, updated_at)
                VALUES (moved.account, moved.delta, 1, moved.at)
                ON CONFLICT (tenant_id) DO UPDATE SET balance_nanos = wallets.balance_nanos + excluded.balance_nanos,
                    version = wallets.version + 1, updated_at = excluded.updated_at
                RETURNING balance_nanos - held_nanos INTO available;
        END IF;
        IF moved.ordinary > 0 AND available + moved.exempt < 0 THEN
            RAISE EXCEPTION 'the debit exceeds the available credit' USING
                ERRCODE = 'check_violation', CONSTRAINT = 'wallets_not_overdrawn',
                DETAIL = json_build_object('tenant', moved.account, 'available', available - moved.delta,
                                           'required', moved.ordinary);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- What a unit of something costs us, or is sold for. Append-only: the newest row of the past holds, so that two prices
-- can never hold at once; NULL ends a price. '*' stands for all that is not named.
CREATE TABLE prices (
    id         uuid        PRIMARY KEY,
    capability text        NOT NULL CHECK (capability IN (
        'chat-completions', 'text-completions', 'embeddings', 'transcription', 'tts', 'image-generation')),
    provider   text        NOT NULL CHECK (length(provider) BETWEEN 1 AND 64),
    model      text        NOT NULL CHECK (length(model) BETWEEN 1 AND 200),
    unit       text        NOT NULL CHECK (unit IN (
        'million-input-tokens', 'million-cached-input-tokens', 'million-output-tokens', 'million-characters', 'minute',
        'image')),
    side       text        NOT NULL CHECK (side IN ('cost', 'sell')),
    nanos      bigint      CHECK (nanos >= 0),
    valid_from timestamptz NOT NULL,
    created_by text        NOT NULL,
    UNIQUE (capability, provider, model, unit, side, valid_from)
);
CREATE TRIGGER prices_append_only BEFORE UPDATE OR DELETE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER prices_no_truncate BEFORE TRUNCATE ON prices FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What can be asked for, and who serves it under which name.
CREATE TABLE models (
    id                text    NOT NULL CHECK (length(id) BETWEEN 1 AND 200),
    capability        text    NOT NULL,
    provider          text    NOT NULL CHECK (length(provider) BETWEEN 1 AND 64),
    provider_model    text    NOT NULL CHECK (length(provider_model) BETWEEN 1 AND 200),
    max_output_tokens integer CHECK (max_output_tokens > 0),
    -- Lower is asked first, after own machines.
    priority          integer NOT NULL DEFAULT 100,
    enabled           boolean NOT NULL DEFAULT true,
    PRIMARY KEY (id, capability, provider)
);

-- One row for each call that was let in, also of those that failed. No prompt and no answer.
CREATE TABLE gateway_requests (
    id             uuid        NOT NULL,
    tenant_id      uuid        NOT NULL,
    bot_id         uuid,
    key_id         uuid        NOT NULL,
    capability     text        NOT NULL,
    model_asked    text        NOT NULL,
    model_served   text,
    provider       text,
    -- Which of our own machines, if it was one.
    machine        text,
    attempts       smallint    NOT NULL,
    streamed       boolean     NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('completed', 'client-left', 'provider-failed', 'interrupted')),
    input_units    bigint      NOT NULL,
    cached_units   bigint      NOT NULL,
    output_units   bigint      NOT NULL,
    usage_source   text        NOT NULL CHECK (usage_source IN ('reported', 'estimated', 'none')),
    -- How the charge came about: unit, quantity, price and its id for each part, and the margin.
    explanation    jsonb       NOT NULL,
    cost_nanos     bigint      NOT NULL CHECK (cost_nanos >= 0),
    charge_nanos   bigint      NOT NULL CHECK (charge_nanos >= 0),
    reserved_nanos bigint      NOT NULL,
    started_at     timestamptz NOT NULL,
    first_byte_ms  integer,
    ended_at       timestamptz NOT NULL,
    PRIMARY KEY (id, started_at)
) PARTITION BY RANGE (started_at);
CREATE INDEX gateway_requests_by_tenant ON gateway_requests (tenant_id, started_at DESC);
-- What comes before a day's own partition is made.
CREATE TABLE gateway_requests_rest PARTITION OF gateway_requests DEFAULT;

-- Sums of the above by the hour in which a call ended; kept in the transaction that settles it. The model is the one that
-- was asked for; what nobody answered has no provider.
CREATE TABLE usage_hours (
    tenant_id    uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    hour         timestamptz NOT NULL,
    capability   text        NOT NULL,
    provider     text        NOT NULL,
    model        text        NOT NULL,
    requests     bigint      NOT NULL,
    input_units  bigint      NOT NULL,
    output_units bigint      NOT NULL,
    duration_ms  bigint      NOT NULL,
    cost_nanos   bigint      NOT NULL,
    charge_nanos bigint      NOT NULL,
    PRIMARY KEY (tenant_id, hour, capability, provider, model)
) WITH (fillfactor = 70);

-- What a tenant allows itself in a calendar month (UTC), and from when on it wants to be told. '*' is all capabilities
-- together.
CREATE TABLE spending_limits (
    tenant_id      uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    capability     text        NOT NULL,
    alert_cents    bigint      CHECK (alert_cents >= 0),
    hard_cap_cents bigint      CHECK (hard_cap_cents >= 0),
    -- When it was told last that it spent `alert_cents`.
    alerted_at     timestamptz,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, capability)
);
CREATE INDEX spending_limits_with_alert ON spending_limits (tenant_id) WHERE alert_cents IS NOT NULL;

-- Answers to calls that are to be made once, for as long as they can be asked for again. One without a call is in progress.
CREATE TABLE gateway_answers (
    tenant_id    uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    -- SHA-256 of the key that the client chose.
    key_hash     bytea       NOT NULL CHECK (length(key_hash) = 32),
    -- SHA-256 of what was asked.
    body_hash    bytea       NOT NULL CHECK (length(body_hash) = 32),
    -- The process that makes the call.
    holder       uuid        NOT NULL,
    -- Names the attempt: one that was taken over writes nothing any more.
    attempt      uuid        NOT NULL,
    call_id      uuid,
    content_type text,
    -- Nothing where the answer was too long to be kept.
    body         bytea,
    created_at   timestamptz NOT NULL,
    -- Until when the answer is kept, or the call is taken to be in progress.
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key_hash),
    CHECK ((call_id IS NULL) = (content_type IS NULL) AND (body IS NULL OR call_id IS NOT NULL))
);
CREATE INDEX gateway_answers_by_expiry ON gateway_answers (expires_at);
CREATE INDEX gateway_answers_in_progress ON gateway_answers (holder) WHERE call_id IS NULL;

-- Other processes hear at once of what they may have in memory. The payload is `what:tenant`; the channel has the
-- schema's name, for a database may have several.
CREATE FUNCTION announce_gateway_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '_gateway', TG_ARGV[0] || ':' || coalesce(NEW.tenant_id::text, ''));
    RETURN NULL;
END $$;
CREATE TRIGGER api_keys_announced AFTER UPDATE OF revoked_at, expires_at ON api_keys
    FOR EACH ROW WHEN (NEW.scope = 'inference') EXECUTE FUNCTION announce_gateway_change('key');
CREATE TRIGGER account_standings_announced AFTER INSERT OR UPDATE ON account_standings
    FOR EACH ROW EXECUTE FUNCTION announce_gateway_change('standing');
CREATE TRIGGER spending_limits_announced AFTER INSERT OR UPDATE OF alert_cents, hard_cap_cents ON spending_limits
    FOR EACH ROW EXECUTE FUNCTION announce_gateway_change('limits');

INSERT INTO models (id, capability, provider, provider_model, max_output_tokens) VALUES
    ('llama-3.1-8b', 'chat-completions', 'gpu-llama', 'llama-3.1-8b', 4096),
    ('llama-3.1-8b', 'text-completions', 'gpu-llama', 'llama-3.1-8b', 4096),
    ('qwen2-0.5b', 'embeddings', 'gpu-qwen', 'qwen2-0.5b', NULL),
    ('faster-whisper-small', 'transcription', 'gpu-whisper', 'faster-whisper-small', NULL),
    ('chatterbox-tts', 'tts', 'gpu-chatterbox', 'chatterbox-tts', NULL),
    ('openai/gpt-4o', 'chat-completions', 'openrouter', 'openai/gpt-4o', 16384),
    ('openai/gpt-4o-mini', 'chat-completions', 'openrouter', 'openai/gpt-4o-mini', 16384),
    ('anthropic/claude-3.5-sonnet', 'chat-completions', 'openrouter', 'anthropic/claude-3.5-sonnet', 8192),
    ('anthropic/claude-3.5-sonnet', 'chat-completions', 'anthropic', 'claude-3-5-sonnet-20241022', 8192),
    ('claude-3-5-sonnet-20241022', 'chat-completions', 'anthropic', 'claude-3-5-sonnet-20241022', 8192),
    ('text-embedding-3-small', 'embeddings', 'openrouter', 'openai/text-embedding-3-small', NULL),
    ('gemini-2.0-flash', 'chat-completions', 'gemini', 'gemini-2.0-flash', 8192),
    ('nova-2', 'transcription', 'deepgram', 'nova-2', NULL),
    ('eleven_multilingual_v2', 'tts', 'elevenlabs', 'eleven_multilingual_v2', NULL),
    ('sdxl', 'image-generation', 'replicate', 'sdxl', NULL);

INSERT INTO prices (id, capability, provider, model, unit, side, nanos, valid_from, created_by)
SELECT gen_random_uuid(), capability, provider, model, unit, 'cost', nanos, '2026-01-01T00:00:00Z', 'seed' FROM (VALUES
    ('chat-completions', '*', '*', 'million-input-tokens', 1000000000),
    ('chat-completions', '*', '*', 'million-output-tokens', 2000000000),
    ('text-completions', '*', '*', 'million-input-tokens', 1000000000),
    ('text-completions', '*', '*', 'million-output-tokens', 2000000000),
    ('embeddings', '*', '*', 'million-input-tokens', 100000000),
    ('chat-completions', 'gpu-llama', '*', 'million-input-tokens', 50000000),
    ('chat-completions', 'gpu-llama', '*', 'million-output-tokens', 100000000),
    ('text-completions', 'gpu-llama', '*', 'million-input-tokens', 50000000),
    ('text-completions', 'gpu-llama', '*', 'million-output-tokens', 100000000),
    ('embeddings', 'gpu-qwen', '*', 'million-input-tokens', 10000000),
    ('transcription', 'gpu-whisper', '*', 'minute', 1000000),
    ('tts', 'gpu-chatterbox', '*', 'million-characters', 2000000000),
    ('chat-completions', 'openrouter', 'openai/gpt-4o', 'million-input-tokens', 2500000000),
    ('chat-completions', 'openrouter', 'openai/gpt-4o', 'million-output-tokens', 10000000000),
    ('chat-completions', 'openrouter', 'openai/gpt-4o-mini', 'million-input-tokens', 150000000),
    ('chat-completions', 'openrouter', 'openai/gpt-4o-mini', 'million-output-tokens', 600000000),
    ('chat-completions', 'openrouter', 'anthropic/claude-3.5-sonnet', 'million-input-tokens', 3000000000),
    ('chat-completions', 'openrouter', 'anthropic/claude-3.5-sonnet', 'million-output-tokens', 15000000000),
    ('chat-completions', 'anthropic', '*', 'million-input-tokens', 3000000000),
    ('chat-completions', 'anthropic', '*', 'million-cached-input-tokens', 300000000),
    ('chat-completions', 'anthropic', '*', 'million-output-tokens', 15000000000),
    ('chat-completions', 'gemini', 'gemini-2.0-flash', 'million-input-tokens', 100000000),
    ('chat-completions', 'gemini', 'gemini-2.0-flash', 'million-output-tokens', 400000000),
    ('embeddings', 'openrouter', 'openai/text-embedding-3-small', 'million-input-tokens', 20000000),
    ('transcription', 'deepgram', 'nova-2', 'minute', 4300000),
    ('tts', 'elevenlabs', '*', 'million-characters', 15000000000),
    ('image-generation', 'replicate', 'sdxl', 'image', 11500000)
) AS seed (capability, provider, model, unit, nanos);
