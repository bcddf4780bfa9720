diesel::table! {
    gpu_nodes (id) {
        id -> Text,
        source -> Text,
        provision_tag -> Text,
        droplet_id -> Nullable<Text>,
        host -> Nullable<Text>,
        region -> Text,
        size -> Text,
        status -> Text,
        provision_stage -> Text,
        stage_since -> Timestamptz,
        setup_since -> Timestamptz,
        monthly_cost_cents -> Nullable<BigInt>,
        last_error -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    gpu_progress (node_id) {
        node_id -> Text,
        last_health_at -> Nullable<Timestamptz>,
        last_ok_at -> Nullable<Timestamptz>,
        last_heartbeat_at -> Nullable<Timestamptz>,
        heartbeat -> Nullable<Jsonb>,
        master_key -> Nullable<Text>,
        identified_at -> Nullable<Timestamptz>,
        all_down_polls -> Integer,
        reboot_at -> Nullable<Timestamptz>,
        create_attempted_at -> Nullable<Timestamptz>,
        attempts -> Integer,
        next_attempt_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    gpu_services (node_id, service) {
        node_id -> Text,
        service -> Text,
        expected -> Bool,
        state -> Nullable<Text>,
        latency_ms -> Nullable<Integer>,
        checked_at -> Nullable<Timestamptz>,
        last_ok_at -> Nullable<Timestamptz>,
        down_since -> Nullable<Timestamptz>,
        told_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    gpu_reboots (id) {
        id -> Uuid,
        node_id -> Text,
        reason -> Text,
        state -> Text,
        requested_at -> Timestamptz,
        decided_at -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(gpu_progress -> gpu_nodes (node_id));
diesel::joinable!(gpu_services -> gpu_nodes (node_id));
diesel::joinable!(gpu_reboots -> gpu_nodes (node_id));
diesel::allow_tables_to_appear_in_same_query!(gpu_nodes, gpu_progress, gpu_services, gpu_reboots);
