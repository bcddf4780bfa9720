diesel::table! {
    snapshots (id) {
        id -> Uuid,
        bot_id -> Uuid,
        tenant_id -> Uuid,
        kind -> Text,
        name -> Nullable<Text>,
        requested_by -> Text,
        state -> Text,
        engine_snapshot -> Nullable<Text>,
        size_bytes -> Nullable<BigInt>,
        added_bytes -> Nullable<BigInt>,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        expires_at -> Nullable<Timestamptz>,
        verified_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    restores (id) {
        id -> Uuid,
        bot_id -> Uuid,
        tenant_id -> Uuid,
        snapshot_id -> Uuid,
        safety_id -> Nullable<Uuid>,
        requested_by -> Text,
        reason -> Nullable<Text>,
        phase -> Text,
        volume -> Integer,
        old_volume -> Nullable<Integer>,
        error -> Nullable<Text>,
        attempts -> Integer,
        next_attempt_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        switched_at -> Nullable<Timestamptz>,
        finished_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    backup_leases (bot_id) {
        bot_id -> Uuid,
        owner -> Uuid,
        lease_until -> Timestamptz,
    }
}

diesel::table! {
    database_sets (id) {
        id -> Uuid,
        kind -> Text,
        requested_by -> Text,
        state -> Text,
        engine_snapshot -> Nullable<Text>,
        size_bytes -> Nullable<BigInt>,
        added_bytes -> Nullable<BigInt>,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        verified_at -> Nullable<Timestamptz>,
        restored_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    database_set_lease (only_one) {
        only_one -> Bool,
        owner -> Uuid,
        lease_until -> Timestamptz,
    }
}

diesel::table! {
    base_backups (id) {
        id -> Uuid,
        cluster -> BigInt,
        timeline -> Integer,
        state -> Text,
        label -> Nullable<Text>,
        size_bytes -> Nullable<BigInt>,
        added_bytes -> Nullable<BigInt>,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        verified_at -> Nullable<Timestamptz>,
        verify_error -> Nullable<Text>,
        restored_at -> Nullable<Timestamptz>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    snapshots,
    restores,
    backup_leases,
    database_sets,
    database_set_lease,
    base_backups
);
