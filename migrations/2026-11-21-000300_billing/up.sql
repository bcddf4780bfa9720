-- Prepaid credit. The database keeps the books by itself: a transfer is one row with a debit and a credit side, so no
-- entry can be unbalanced; the wallets are a projection that only the triggers below may write.
--
-- An account is a uuid: a tenant's wallet has the tenant's id, the platform's own accounts have the reserved ids
-- 00000000-0000-0000-0000-0000000000NN and no balance row, so that no row is shared by all postings.

CREATE TABLE wallets (
    tenant_id     uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    balance_nanos bigint      NOT NULL DEFAULT 0,
    held_nanos    bigint      NOT NULL DEFAULT 0 CONSTRAINT wallets_held_not_negative CHECK (held_nanos >= 0),
    version       bigint      NOT NULL DEFAULT 0,
    updated_at    timestamptz NOT NULL
) WITH (fillfactor = 70); -- room for updates in place

CREATE FUNCTION refuse_wallet_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'wallets are kept by the ledger and cannot be edited' USING ERRCODE = 'restrict_violation';
END $$;
-- A statement of ours has trigger depth 0; the projection's own statements run at depth 1.
CREATE TRIGGER wallets_kept_by_ledger BEFORE INSERT OR UPDATE OR DELETE ON wallets
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION refuse_wallet_edit();
CREATE TRIGGER wallets_no_truncate BEFORE TRUNCATE ON wallets
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_wallet_edit();

-- Credit set aside for work in progress.
CREATE TABLE credit_holds (
    id            uuid        PRIMARY KEY,
    tenant_id     uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    reference_key text        NOT NULL UNIQUE CHECK (length(reference_key) BETWEEN 1 AND 255),
    held_nanos    bigint      NOT NULL CHECK (held_nanos > 0),
    state         text        NOT NULL CHECK (state IN ('open', 'settled', 'voided', 'expired')),
    actual_nanos  bigint      CHECK (actual_nanos BETWEEN 0 AND held_nanos),
    overrun_nanos bigint      CHECK (overrun_nanos >= 0),
    opened_at     timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL CHECK (expires_at > opened_at),
    ended_at      timestamptz,
    CHECK ((state = 'open') = (ended_at IS NULL)),
    CHECK ((state = 'settled') = (actual_nanos IS NOT NULL)),
    CHECK ((state = 'settled') = (overrun_nanos IS NOT NULL)),
    CHECK (overrun_nanos = 0 OR actual_nanos = held_nanos)
);
CREATE INDEX credit_holds_open_by_expiry ON credit_holds (expires_at) WHERE state = 'open';
CREATE INDEX credit_holds_by_tenant ON credit_holds (tenant_id, opened_at DESC);

CREATE FUNCTION refuse_hold_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a hold opens once, ends once and keeps its amount' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER credit_holds_open_first BEFORE INSERT ON credit_holds
    FOR EACH ROW WHEN (NEW.state <> 'open') EXECUTE FUNCTION refuse_hold_change();
CREATE TRIGGER credit_holds_end_once BEFORE UPDATE ON credit_holds
    FOR EACH ROW WHEN (
        OLD.state <> 'open' OR NEW.id <> OLD.id OR NEW.tenant_id <> OLD.tenant_id
        OR NEW.held_nanos <> OLD.held_nanos OR NEW.reference_key <> OLD.reference_key
    ) EXECUTE FUNCTION refuse_hold_change();
CREATE TRIGGER credit_holds_kept BEFORE DELETE ON credit_holds
    FOR EACH ROW WHEN (OLD.state = 'open') EXECUTE FUNCTION refuse_hold_change();
CREATE TRIGGER credit_holds_no_truncate BEFORE TRUNCATE ON credit_holds
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_hold_change();

-- Keeps wallets.held_nanos at the sum of the open holds; wallets are locked in id order.
CREATE FUNCTION holds_opened() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved record;
    available bigint;
BEGIN
    FOR moved IN
        SELECT tenant_id, sum(held_nanos)::bigint AS held, max(opened_at) AS at FROM opened GROUP BY 1 ORDER BY 1
    LOOP
        UPDATE wallets SET held_nanos = held_nanos + moved.held, version = version + 1, updated_at = moved.at
            WHERE tenant_id = moved.tenant_id RETURNING balance_nanos - held_nanos INTO available;
        IF NOT FOUND THEN
            available := -moved.held; -- nothing was ever posted: nothing can be held
        END IF;
        IF available < 0 THEN
            RAISE EXCEPTION 'the hold exceeds the available credit' USING
                ERRCODE = 'check_violation', CONSTRAINT = 'wallets_not_overdrawn',
                DETAIL = json_build_object('tenant', moved.tenant_id, 'available', available + moved.held,
                                           'required', moved.held);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_holds_opened AFTER INSERT ON credit_holds
    REFERENCING NEW TABLE AS opened FOR EACH STATEMENT EXECUTE FUNCTION holds_opened();

CREATE FUNCTION holds_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved record;
BEGIN
    FOR moved IN
        SELECT a.tenant_id, sum(a.held_nanos)::bigint AS held, max(a.ended_at) AS at
        FROM after_update a JOIN before_update b USING (id)
        WHERE b.state = 'open' AND a.state <> 'open' GROUP BY 1 ORDER BY 1
    LOOP
        UPDATE wallets SET held_nanos = held_nanos - moved.held, version = version + 1, updated_at = moved.at
            WHERE tenant_id = moved.tenant_id;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_holds_ended AFTER UPDATE ON credit_holds
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION holds_ended();

-- One movement of money. The reference key names its cause: the same cause is posted once.
CREATE TABLE ledger_transfers (
    id                 uuid        PRIMARY KEY,
    seq                bigint      GENERATED ALWAYS AS IDENTITY,
    reference_key      text        NOT NULL UNIQUE CHECK (length(reference_key) BETWEEN 1 AND 255),
    kind               text        NOT NULL CHECK (kind IN (
        'signup_grant', 'purchase', 'purchase_bonus', 'promo', 'referral', 'affiliate_bonus', 'affiliate_match',
        'community_dividend', 'admin_grant', 'admin_adjust', 'dispute_reversal', 'bot_runtime', 'resource_upgrade',
        'storage_upgrade', 'addon', 'adapter_usage', 'usage_overrun', 'refund', 'bonus_reversal', 'dispute',
        'write_off', 'processor_fee')),
    debit_account      uuid        NOT NULL,
    credit_account     uuid        NOT NULL,
    amount_nanos       bigint      NOT NULL CONSTRAINT ledger_transfers_positive CHECK (amount_nanos > 0),
    -- The hold that this captures; at most one capture and one overrun for each.
    hold_id            uuid        REFERENCES credit_holds ON DELETE RESTRICT,
    -- The transfer that this takes back, in whole or in part.
    reverses           uuid        REFERENCES ledger_transfers ON DELETE RESTRICT,
    funding_source     text        CHECK (funding_source IN ('stripe', 'payram')),
    -- The member who caused a debit.
    attributed_user_id uuid,
    description        text        CHECK (length(description) <= 1000),
    actor_kind         text        NOT NULL
        CHECK (actor_kind IN ('user', 'api_key', 'operator', 'system', 'webhook')),
    actor              text        NOT NULL,
    occurred_at        timestamptz NOT NULL,
    CONSTRAINT ledger_transfers_two_accounts CHECK (debit_account <> credit_account),
    CONSTRAINT ledger_transfers_known_accounts CHECK (
        debit_account NOT BETWEEN '00000000-0000-0000-0000-00000000000d' AND '00000000-0000-0000-0000-0000000000ff'
        AND credit_account NOT BETWEEN '00000000-0000-0000-0000-00000000000d' AND '00000000-0000-0000-0000-0000000000ff'
        AND debit_account <> '00000000-0000-0000-0000-000000000000'
        AND credit_account <> '00000000-0000-0000-0000-000000000000'),
    CONSTRAINT ledger_transfers_capture CHECK (
        (hold_id IS NULL AND kind <> 'usage_overrun') OR (hold_id IS NOT NULL AND kind IN ('adapter_usage', 'usage_overrun')))
);
CREATE UNIQUE INDEX ledger_transfers_one_capture ON ledger_transfers (hold_id, kind) WHERE hold_id IS NOT NULL;
-- A wallet's movements in the order of its history; the platform's accounts are left out.
CREATE INDEX ledger_transfers_wallet_debits ON ledger_transfers (debit_account, occurred_at, seq)
    WHERE debit_account > '00000000-0000-0000-0000-0000000000ff';
CREATE INDEX ledger_transfers_wallet_credits ON ledger_transfers (credit_account, occurred_at, seq)
    WHERE credit_account > '00000000-0000-0000-0000-0000000000ff';
CREATE INDEX ledger_transfers_by_time ON ledger_transfers (occurred_at, seq);
CREATE INDEX ledger_transfers_reversals ON ledger_transfers (reverses) WHERE reverses IS NOT NULL;

CREATE TRIGGER ledger_transfers_append_only BEFORE UPDATE OR DELETE ON ledger_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_transfers_no_truncate BEFORE TRUNCATE ON ledger_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Moves the wallets by what a statement posted: each wallet once, in id order, so that groups cannot deadlock. An
-- ordinary debit must be covered by what is available; a debit that records what has already happened outside (money
-- taken back by a card holder, a capture of credit that was on hold, an operator's correction) may overdraw.
CREATE FUNCTION ledger_posted() RETURNS trigger LANGUAGE plpgsql AS $$
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
                   hold_id IS NULL AND kind NOT IN ('refund', 'bonus_reversal', 'dispute', 'admin_adjust') AS ordinary
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
CREATE TRIGGER ledger_transfers_posted AFTER INSERT ON ledger_transfers
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION ledger_posted();

-- The names of the platform's accounts, for people.
CREATE VIEW ledger_accounts (id, name) AS VALUES
    ('00000000-0000-0000-0000-000000000001'::uuid, 'stripe_clearing'),
    ('00000000-0000-0000-0000-000000000002'::uuid, 'payram_clearing'),
    ('00000000-0000-0000-0000-000000000003'::uuid, 'revenue_usage'),
    ('00000000-0000-0000-0000-000000000004'::uuid, 'revenue_runtime'),
    ('00000000-0000-0000-0000-000000000005'::uuid, 'revenue_addon'),
    ('00000000-0000-0000-0000-000000000006'::uuid, 'promo_expense'),
    ('00000000-0000-0000-0000-000000000007'::uuid, 'dividend_expense'),
    ('00000000-0000-0000-0000-000000000008'::uuid, 'affiliate_expense'),
    ('00000000-0000-0000-0000-000000000009'::uuid, 'refunds'),
    ('00000000-0000-0000-0000-00000000000a'::uuid, 'chargebacks'),
    ('00000000-0000-0000-0000-00000000000b'::uuid, 'stripe_fees'),
    ('00000000-0000-0000-0000-00000000000c'::uuid, 'write_off');

-- The ledger as seen from the wallets: signed nano-dollars, and the balance after each movement.
CREATE VIEW credit_transactions AS
SELECT t.id,
       w.tenant_id,
       CASE WHEN t.credit_account = w.tenant_id THEN t.amount_nanos ELSE -t.amount_nanos END AS amount_credits,
       w.balance_nanos - coalesce((
           SELECT sum(CASE WHEN later.credit_account = w.tenant_id THEN later.amount_nanos ELSE -later.amount_nanos END)
           FROM ledger_transfers later
           WHERE (later.occurred_at, later.seq) > (t.occurred_at, t.seq)
             AND (later.debit_account = w.tenant_id AND later.debit_account > '00000000-0000-0000-0000-0000000000ff'
               OR later.credit_account = w.tenant_id AND later.credit_account > '00000000-0000-0000-0000-0000000000ff')
       ), 0)::bigint AS balance_after_credits,
       t.kind AS type,
       t.description,
       t.reference_key AS reference_id,
       t.funding_source,
       t.attributed_user_id,
       t.occurred_at AS created_at
FROM ledger_transfers t
JOIN wallets w ON w.tenant_id = ANY (ARRAY[t.debit_account, t.credit_account]);

-- One signup grant for a tenant, and one for a verified address: only a digest of the address is kept.
CREATE TABLE signup_grants (
    tenant_id    uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    email_sha256 bytea       NOT NULL UNIQUE CHECK (length(email_sha256) = 32),
    granted_at   timestamptz NOT NULL
);

-- Where mails about a tenant's credit go.
CREATE TABLE billing_contacts (
    tenant_id  uuid        PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    email      text        NOT NULL CHECK (length(email) BETWEEN 3 AND 320),
    updated_at timestamptz NOT NULL
);

-- Whether a tenant may use the platform. A tenant without a row is active.
CREATE TABLE account_standings (
    tenant_id    uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    state        text        NOT NULL CHECK (state IN ('active', 'grace', 'suspended', 'banned', 'destroying')),
    reason       text        CHECK (reason IN ('credits', 'admin', 'dispute', 'ban')),
    grace_until  timestamptz,
    delete_after timestamptz,
    since        timestamptz NOT NULL,
    changed_by   text        NOT NULL,
    CHECK ((state = 'grace') = (grace_until IS NOT NULL)),
    CHECK ((state = 'active') = (reason IS NULL)),
    CHECK (state <> 'grace' OR reason = 'credits'),
    CHECK (state <> 'suspended' OR reason <> 'ban'),
    CHECK (state <> 'banned' OR reason = 'ban'),
    CHECK ((state = 'banned' OR state = 'suspended' AND reason = 'credits') = (delete_after IS NOT NULL))
);
CREATE INDEX account_standings_grace ON account_standings (grace_until) WHERE state = 'grace';
CREATE INDEX account_standings_deletion ON account_standings (delete_after) WHERE delete_after IS NOT NULL;

CREATE TABLE account_standing_changes (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    from_state text        NOT NULL,
    to_state   text        NOT NULL,
    reason     text,
    note       text        CHECK (length(note) <= 1000),
    actor_kind text        NOT NULL,
    actor      text        NOT NULL,
    at         timestamptz NOT NULL
);
CREATE INDEX account_standing_changes_by_tenant ON account_standing_changes (tenant_id, id);
CREATE TRIGGER account_standing_changes_append_only BEFORE UPDATE OR DELETE ON account_standing_changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER account_standing_changes_no_truncate BEFORE TRUNCATE ON account_standing_changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
