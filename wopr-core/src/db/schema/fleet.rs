diesel::table! {
    bots (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        created_by -> Nullable<Uuid>,
        name -> Text,
        description -> Text,
        spec -> Jsonb,
        fallback -> Nullable<Jsonb>,
        release_channel -> Text,
        update_policy -> Text,
        resource_tier -> Text,
        storage_tier -> Text,
        desired_state -> Text,
        generation -> BigInt,
        running_since -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    bot_progress (bot_id) {
        bot_id -> Uuid,
        phase -> Text,
        restart_wanted -> Bool,
        suspended_at -> Nullable<Timestamptz>,
        destroy_after -> Nullable<Timestamptz>,
        container_id -> Nullable<Text>,
        container_state -> Nullable<Text>,
        container_health -> Nullable<Text>,
        container_started_at -> Nullable<Timestamptz>,
        container_created_at -> Nullable<Timestamptz>,
        keyed_container -> Nullable<Text>,
        last_error -> Nullable<Text>,
        attempts -> Integer,
        remade -> Bool,
        next_attempt_at -> Nullable<Timestamptz>,
        lease_owner -> Nullable<Uuid>,
        lease_until -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    bot_charges (bot_id, date, component) {
        bot_id -> Uuid,
        date -> Date,
        component -> Text,
        amount_nanos -> BigInt,
        state -> Text,
        created_at -> Timestamptz,
        decided_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    tenant_networks (tenant_id) {
        tenant_id -> Uuid,
        first_address -> BigInt,
        addresses -> Integer,
        created_at -> Timestamptz,
    }
}

diesel::joinable!(bot_progress -> bots (bot_id));
diesel::joinable!(bot_charges -> bots (bot_id));
diesel::allow_tables_to_appear_in_same_query!(bots, bot_progress, bot_charges, tenant_networks);
