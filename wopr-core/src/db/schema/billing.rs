diesel::table! {
    wallets (tenant_id) {
        tenant_id -> Uuid,
        balance_nanos -> BigInt,
        held_nanos -> BigInt,
        version -> BigInt,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    credit_holds (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        reference_key -> Text,
        held_nanos -> BigInt,
        state -> Text,
        actual_nanos -> Nullable<BigInt>,
        overrun_nanos -> Nullable<BigInt>,
        opened_at -> Timestamptz,
        expires_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    ledger_transfers (id) {
        id -> Uuid,
        seq -> BigInt,
        reference_key -> Text,
        kind -> Text,
        debit_account -> Uuid,
        credit_account -> Uuid,
        amount_nanos -> BigInt,
        hold_id -> Nullable<Uuid>,
        reverses -> Nullable<Uuid>,
        funding_source -> Nullable<Text>,
        attributed_user_id -> Nullable<Uuid>,
        description -> Nullable<Text>,
        actor_kind -> Text,
        actor -> Text,
        occurred_at -> Timestamptz,
        lease_holder -> Nullable<Uuid>,
    }
}

diesel::table! {
    credit_leases (tenant_id, holder) {
        tenant_id -> Uuid,
        holder -> Uuid,
        left_nanos -> BigInt,
        renewed_at -> Timestamptz,
    }
}

diesel::table! {
    signup_grants (tenant_id) {
        tenant_id -> Uuid,
        email_sha256 -> Bytea,
        granted_at -> Timestamptz,
    }
}

diesel::table! {
    billing_contacts (tenant_id) {
        tenant_id -> Uuid,
        email -> Text,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    account_standings (tenant_id) {
        tenant_id -> Uuid,
        state -> Text,
        reason -> Nullable<Text>,
        grace_until -> Nullable<Timestamptz>,
        delete_after -> Nullable<Timestamptz>,
        since -> Timestamptz,
        changed_by -> Text,
    }
}

diesel::table! {
    account_standing_changes (id) {
        id -> BigInt,
        tenant_id -> Uuid,
        from_state -> Text,
        to_state -> Text,
        reason -> Nullable<Text>,
        note -> Nullable<Text>,
        actor_kind -> Text,
        actor -> Text,
        at -> Timestamptz,
    }
}
