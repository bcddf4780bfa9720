UPDATE credit_leases SET left_nanos = 0 WHERE left_nanos <> 0;
DROP TRIGGER account_standings_announced ON account_standings;
DROP TRIGGER api_keys_announced ON api_keys;
DROP TABLE gateway_answers, spending_limits, usage_hours, gateway_requests, models, prices, credit_leases;
DROP FUNCTION announce_gateway_change, refuse_lease_change, leases_changed;
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
ALTER TABLE ledger_transfers DROP COLUMN lease_holder;
UPDATE api_keys SET scope = 'read', revoked_at = coalesce(revoked_at, created_at) WHERE scope = 'inference';
ALTER TABLE api_keys DROP CONSTRAINT api_keys_scope_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_scope_check CHECK (scope IN ('read', 'write', 'admin'));
